use super::{Manifests, settings, table};
use crate::check::{Rule, rules::taken};

const PATH: &str = "app:lifecycle.preStop.httpGet.path";
const GET: &str = "app:lifecycle.preStop.httpGet";

#[test]
fn parameters_that_are_not_understood() {
    let bad = ["error hook-parameters app"];
    table(&[
        (&[(PATH, "/drain?last-call=http&until=closed&settle=5s&idle-after=10s&reserve=6s")], &[]),
        (&[(PATH, "/drain?last-call=http&settle=5")], &bad),
        (&[(PATH, "/drain?last-call=http&settel=5s")], &bad),
        (&[(PATH, "/drain?last-call=http&until=never")], &bad),
        (&[(PATH, "/drain?last-call=http&settle=5s&settle=6s")], &bad),
        (&[(PATH, "/drain?last-call=http&settle=%zz")], &bad),
    ]);
    let found = Manifests::new(&[(PATH, "/drain?last-call=http&settle=5&reserve=6s")]).findings(&settings());
    assert!(found[0].message.starts_with("settle: `5` is not a duration from 0s to 1day"), "{found:?}");
    assert!(found[0].fix.as_ref().unwrap().yaml.contains("/drain?last-call=http&reserve=6s"), "{found:?}");
}

#[test]
fn a_call_that_does_not_reach_the_agent() {
    table(&[
        (&[(PATH, "/drian?last-call=http")], &["warning hook-path app"]),
        (&[(PATH, "/drain/?last-call=http")], &[]),
        (&[("app:lifecycle.preStop.httpGet.scheme", "HTTPS")], &["error hook-scheme app"]),
        (&[("app:lifecycle.preStop.httpGet.scheme", "HTTP")], &[]),
        (
            &[("app:ports", "[{name: http, containerPort: 8080}, {name: drain, containerPort: 9902}]")],
            &["error hook-port-taken app"],
        ),
        // A name of the hook's port is the port.
        (
            &[
                ("app:ports", "[{name: http, containerPort: 8080}, {name: drain, containerPort: 9902}]"),
                ("app:lifecycle.preStop.httpGet.port", "drain"),
            ],
            &["error hook-port-taken app"],
        ),
        (&[("app:lifecycle.preStop.httpGet.port", "'9902'")], &[]),
        // Another port, or another host, is somebody else's.
        (&[("app:lifecycle.preStop.httpGet.port", "8080")], &["note other-hook app"]),
        (&[("app:lifecycle.preStop.httpGet.host", "10.0.0.1")], &["note other-hook app"]),
    ]);
}

#[test]
fn a_pod_on_the_nodes_network() {
    let host = ("pod:hostNetwork", "true");
    // An agent that takes no path for a template's pods refuses these as well.
    let form: &[&str] = if taken("/drain/shop/deployment/web") { &[] } else { &["error hook-path app"] };
    let spare = if form.is_empty() { "warning host-not-needed app" } else { "error host-not-needed app" };
    let at = |path: &'static str| format!("{{host: 127.0.0.1, path: '{path}', port: 9902}}");
    let plain = at("/drain?last-call=http");
    let ours = at("/drain/shop/deployment/web?last-call=http");
    let pod = at("/drain/shop/web-0?last-call=http");
    let other = at("/drain/shop/deployment/api?last-call=http");
    let stranger = at("/drain/bank/deployment/web?last-call=http");
    let kind = at("/drain/shop/statefulset/web?last-call=http");
    table(&[
        (&[host], &["error host-network-without-host app"]),
        (&[host, (GET, &ours)], form),
        (&[host, (GET, &plain)], &["error hook-path app"]),
        (&[host, (GET, &pod)], &["error hook-path app"]),
        (&[host, (GET, &other)], &["error hook-path app"]),
        (&[host, (GET, &stranger)], &["error hook-path app"]),
        (&[host, (GET, &kind)], &["error hook-path app"]),
        (&[host, (GET, &kind), ("kind", "StatefulSet")], form),
        (&[host, (GET, &pod), ("kind", "StatefulSet")], &["error hook-path app"]),
        (&[host, ("app:lifecycle", "-")], &["error no-hook app"]),
        (&[host, ("app:lifecycle.preStop", "{sleep: {seconds: 5}}")], &["warning leftover-sleep app"]),
        // A pod with a network of its own.
        (&[(GET, &plain)], &["error host-not-needed app"]),
        (&[(GET, &ours)], &[spare]),
        (&[(GET, &pod)], &["warning host-not-needed app"]),
    ]);
}

#[test]
fn a_bare_pod_names_itself() {
    let pod = |path: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: edge, namespace: shop}}, spec: {{hostNetwork: true, \
             containers: [{{name: edge, image: e, lifecycle: {{preStop: {{httpGet: {{host: localhost, path: \
             {path}, port: 9902}}}}}}}}]}}}}"
        )
    };
    table(&[
        (&[("+", &pod("/drain/shop/edge"))], &[]),
        (&[("+", &pod("/drain/shop/other"))], &["error hook-path edge"]),
    ]);
}

#[test]
fn pod_security_refuses_a_host() {
    let namespace = |labels: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{labels}}}}}}}")
    };
    let enforce = |level: &str| namespace(&format!("pod-security.kubernetes.io/enforce: {level}"));
    let pinned = |version: &str| {
        namespace(&format!(
            "pod-security.kubernetes.io/enforce: baseline, pod-security.kubernetes.io/enforce-version: {version}"
        ))
    };
    let host = (GET, "{host: 127.0.0.1, path: '/drain/shop/web-0?last-call=http', port: 9902}");
    let refused = ["error host-under-pod-security app"];
    table(&[
        (&[host, ("+", &enforce("baseline"))], &refused),
        (&[host, ("+", &enforce("restricted"))], &refused),
        (&[host, ("+", &enforce("privileged"))], &["warning host-not-needed app"]),
        (&[host, ("+", &pinned("v1.33"))], &["warning host-not-needed app"]),
        (&[host, ("+", &pinned("latest"))], &refused),
        (&[host, ("+", &pinned("v1.34"))], &refused),
        (
            &[host, ("+", &enforce("baseline")), ("pod:hostNetwork", "true")],
            &["error hook-path app", refused[0]],
        ),
        (&[("+", &enforce("restricted"))], &[]),
    ]);
}

/// CI files name them: a rename is a breaking change.
#[test]
fn the_names_of_the_rules_are_kept() {
    let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    assert_eq!(
        names.join(" "),
        "no-readiness-probe last-pod-may-go recreate grace-too-short no-hook container-without-hook \
         leftover-sleep other-hook exec-hook exec-calls-agent hook-parameters hook-path hook-scheme \
         hook-port-taken injection-skipped host-network-without-host host-under-pod-security host-not-needed \
         local-policy-one-replica load-balancer-without-settle last-call-off tls-port"
    );
}
