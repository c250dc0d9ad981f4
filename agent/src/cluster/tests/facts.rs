use std::time::Duration;

use super::*;
use crate::cluster::Exposure;

const WEB: &str = "shop/web-7d9c5b8f6d-x2x8q";

#[test]
fn a_pod_as_kubectl_prints_it() {
    let index = index(cluster(), &[LIST]);
    assert_eq!(names(&index), [WEB]);
    let web = pod(&index, WEB);
    assert_eq!(web.uid, "0b7f7c1e-5f0e-4a53-9d0c-6c1f6f0f5a11");
    assert_eq!(web.addresses, ["10.244.1.17".parse().unwrap()].into());
    assert_eq!(web.workload, "Deployment/web");
    assert_eq!(
        ports(web),
        // Not 7777: that init container has ended.
        ["8080 Tcp Http slice", "9090 Tcp Http", "15090 Tcp Http"]
    );
    assert_eq!(web.health_paths.iter().collect::<Vec<_>>(), ["/healthz", "/healthz/ready", "/readyz"]);
    assert!((web.probes_per_second - 0.3).abs() < 1e-9, "{}", web.probes_per_second);
    assert!(web.killable_by_probe);
    assert_eq!(web.exposure, Exposure::Cluster);
    assert_eq!(web.termination_grace, Some(Duration::from_secs(60)));
    let end = web.terminating.as_ref().unwrap();
    assert_eq!((end.first_seen, end.grace), (T0, Some(Duration::from_secs(60))));
    assert_eq!(end.withdrawn, Some(T0));
    let hooks = [("app", "/drain?until=closed&settle=5s"), ("proxy", "/drain")];
    assert_eq!(web.hooks, hooks.map(|(container, path)| (container.into(), path.into())));
    assert!(!web.listens_on_hook_port && !web.host_network && !web.finished);
}

#[test]
fn a_pod_of_two_families() {
    let index = index(cluster(), &[DUAL_STACK]);
    let db = pod(&index, "data/db-0");
    assert_eq!(at(&index, "10.244.1.40").as_deref(), Some("data/db-0"));
    assert_eq!(at(&index, "fd00:10:244:1::28").as_deref(), Some("data/db-0"));
    assert_eq!(at(&index, "::ffff:10.244.1.40").as_deref(), Some("data/db-0"));
    assert_eq!(ports(db), ["5432 Tcp Unknown slice"]);
    assert_eq!(db.exposure, Exposure::Headless);
    assert_eq!(db.workload, "StatefulSet/db");
    // The exec probe opens no connection.
    assert!((db.probes_per_second - 0.1).abs() < 1e-9, "{}", db.probes_per_second);
    assert_eq!(db.terminating, None);
    assert_eq!(index.by_uid(&db.uid).map(|pod| &pod.name), Some(&db.name));
    assert_eq!(index.by_uid(""), None);
}

#[test]
fn a_pod_behind_two_services() {
    let mut index = index(cluster(), &[TWO_SLICES]);
    let edge = pod(&index, "edge/edge-0");
    let want = [
        "7000 Tcp Http2 slice",
        "8443 Tcp Http slice",
        "8443 Udp Unknown slice",
        "9100 Tcp Http slice",
        "9901 Tcp Http",
    ];
    assert_eq!(ports(edge), want);
    assert_eq!(edge.exposure, Exposure::Cluster, "edge-1 is ready beside it");

    // edge-1 stops: now edge-0 is the last one, and says so without an event of its own.
    let text = TWO_SLICES.replace(
        "10.244.1.51\"]\n  conditions: {ready: true, serving: true, terminating: false}",
        "10.244.1.51\"]\n  conditions: {ready: false, serving: true, terminating: true}",
    );
    assert_ne!(text, TWO_SLICES);
    assert_eq!(apply(&mut index, &text, T1), ["edge/edge-0"]);
    assert_eq!(pod(&index, "edge/edge-0").exposure, Exposure::LocalLast);
    assert_eq!(pod(&index, "edge/edge-1").exposure, Exposure::Cluster, "edge-0 is ready beside it");
}

/// A pod `shop/a`, labels `app: a`, and what more its spec, status and namespace have.
fn exposure_of(options: Options, spec: &str, others: &str) -> Exposure {
    let text = format!(
        "kind: Pod
metadata: {{name: a, namespace: shop, uid: ua, labels: {{app: a, tier: x}}}}
spec: {{nodeName: node-a, containers: [], {spec}}}
status: {{podIP: 10.0.0.1}}
{others}"
    );
    pod(&index(options, &[&text]), "shop/a").exposure
}

#[test]
fn exposures() {
    let service = |name: &str, spec: &str| {
        format!("---\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
    };
    let slice = |service: &str, endpoints: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{name: s-{service}, namespace: shop, labels: \
             {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nendpoints: [{endpoints}]\n"
        )
    };
    let us = "{addresses: [10.0.0.1], nodeName: node-a, targetRef: {kind: Pod, name: a, uid: ua}}";
    let them = "{addresses: [10.0.0.2], nodeName: node-a, targetRef: {kind: Pod, name: b, uid: ub}}";
    let unready = "{addresses: [10.0.0.2], nodeName: node-a, conditions: {ready: false}, \
                   targetRef: {kind: Pod, name: b, uid: ub}}";
    let far = "{addresses: [10.0.0.3], nodeName: node-b, targetRef: {kind: Pod, name: c, uid: uc}}";
    let gate = |gate: &str| format!("readinessGates: [{{conditionType: {gate}}}]");
    let local = "type: NodePort, externalTrafficPolicy: Local, selector: {app: a}";

    let rows: Vec<(&str, String, String, Exposure)> = vec![
        ("nothing is known of the namespace", "".into(), "".into(), Exposure::Unknown),
        ("a Service of others", "".into(), service("o", "selector: {app: o}"), Exposure::None),
        ("one without a selector", "".into(), service("o", "type: ClusterIP"), Exposure::None),
        (
            "an ExternalName",
            "".into(),
            service("o", "type: ExternalName, externalName: x, selector: {app: a}"),
            Exposure::None,
        ),
        ("selected, no slice yet", "".into(), service("o", "selector: {app: a}"), Exposure::Cluster),
        ("half selected", "".into(), service("o", "selector: {app: a, tier: y}"), Exposure::None),
        ("a slice whose Service is not known", "".into(), slice("o", us), Exposure::Unknown),
        ("a slice of others", "".into(), slice("o", them), Exposure::None),
        (
            "a slice of a Service without a selector",
            "".into(),
            service("o", "type: ClusterIP") + &slice("o", us),
            Exposure::Cluster,
        ),
        (
            "headless by its slice's label",
            "".into(),
            service("o", "type: ClusterIP")
                + &slice("o", us).replace("labels: {", "labels: {service.kubernetes.io/headless: '', "),
            Exposure::Headless,
        ),
        ("headless", "".into(), service("o", "clusterIP: None, selector: {app: a}"), Exposure::Headless),
        (
            "Local and alone",
            "".into(),
            service("o", local) + &slice("o", &format!("{us}, {far}")),
            Exposure::LocalLast,
        ),
        (
            "Local beside one that is not ready",
            "".into(),
            service("o", local) + &slice("o", &format!("{us}, {unready}")),
            Exposure::LocalLast,
        ),
        (
            "Local beside one that is",
            "".into(),
            service("o", local) + &slice("o", &format!("{us}, {them}")),
            Exposure::Cluster,
        ),
        ("Local, no slice yet", "".into(), service("o", local), Exposure::LocalLast),
        (
            "Local inside",
            "".into(),
            service("o", "internalTrafficPolicy: Local, selector: {app: a}") + &slice("o", us),
            Exposure::LocalLast,
        ),
        (
            "strictest of two",
            "".into(),
            service("o", "selector: {app: a}") + &service("p", "clusterIP: None, selector: {app: a}"),
            Exposure::Headless,
        ),
        ("AWS", gate("target-health.elbv2.k8s.aws/k8s-shop-a-1"), "".into(), Exposure::LoadBalancerIp),
        ("GKE", gate("cloud.google.com/load-balancer-neg-ready"), "".into(), Exposure::LoadBalancerIp),
        ("some other gate", gate("example.com/warm"), "".into(), Exposure::Unknown),
    ];
    for (what, spec, others, want) in rows {
        // Beside an API server only a list of slices shows that there are none.
        let want_in_cluster = if want == Exposure::None { Exposure::Unknown } else { want };
        assert_eq!(exposure_of(cluster(), &spec, &others), want_in_cluster, "{what}, in a cluster");
        assert_eq!(exposure_of(files(), &spec, &others), want, "{what}, from files");
    }
}

#[test]
fn an_empty_list_of_slices_is_knowledge() {
    let mut index = index(cluster(), &["kind: Pod\nmetadata: {name: a}\nspec: {nodeName: node-a}"]);
    assert_eq!(pod(&index, "default/a").exposure, Exposure::Unknown);
    index.reset(crate::cluster::Kind::Slice, Some("other"), &[], T1);
    assert_eq!(pod(&index, "default/a").exposure, Exposure::Unknown);
    index.reset(crate::cluster::Kind::Slice, Some("default"), &[], T1);
    assert_eq!(pod(&index, "default/a").exposure, Exposure::None);
}

#[test]
fn hooks_workloads_and_the_rest() {
    let facts = |pod_text: &str| {
        let text = format!("kind: Pod\n{pod_text}");
        let index = index(files(), &[&text]);
        let pod = index.pods().next().unwrap();
        let hooks: Vec<_> = pod.hooks.iter().map(|(c, path)| format!("{c} {path}")).collect();
        format!("{:?} [{}] {}", pod.workload, hooks.join(", "), pod.listens_on_hook_port)
    };
    let hook = |get: &str| {
        let pre_stop = format!("lifecycle: {{preStop: {{httpGet: {{{get}}}}}}}");
        facts(&format!("metadata: {{name: a}}\nspec: {{containers: [{{name: c, {pre_stop}}}]}}"))
    };
    for (get, want) in [
        ("path: /drain, port: 9902", "[c /drain] false"),
        ("path: /drain, port: '9902'", "[c /drain] false"),
        ("port: 9902", "[c /] false"),
        ("path: /drain/shop/a, port: 9902, host: 127.0.0.1", "[c /drain/shop/a] false"),
        ("path: /drain, port: 9902, host: 10.1.2.3", "[] false"),
        ("path: /drain, port: 8080", "[] false"),
        ("path: /drain, port: http", "[] false"),
    ] {
        assert_eq!(hook(get), format!("\"\" {want}"), "{get}");
    }
    let named = "metadata: {name: a}\nspec: {containers: [{name: c, ports: [{name: d, containerPort: 9902}], \
                 lifecycle: {preStop: {httpGet: {path: /drain, port: d}}}}]}";
    assert_eq!(facts(named), "\"\" [c /drain] true");
    for (probe, want) in [
        ("readinessProbe: {httpGet: {path: /, port: 9902}}", true),
        ("livenessProbe: {tcpSocket: {port: '9902'}}", true),
        ("startupProbe: {grpc: {port: 9902}}", true),
        ("readinessProbe: {httpGet: {path: /, port: 9902, host: 10.1.2.3}}", false),
        ("readinessProbe: {httpGet: {path: /, port: 8080}}", false),
        ("readinessProbe: {exec: {command: [x]}}", false),
    ] {
        let spec = format!("metadata: {{name: a}}\nspec: {{containers: [{{name: c, {probe}}}]}}");
        assert_eq!(facts(&spec), format!("\"\" [] {want}"), "{probe}");
    }
    for (metadata, want) in [
        ("ownerReferences: [{kind: ReplicaSet, name: web-abc, controller: true}]", "ReplicaSet/web-abc"),
        (
            "labels: {pod-template-hash: abc}, \
             ownerReferences: [{kind: ReplicaSet, name: web-abc, controller: true}]",
            "Deployment/web",
        ),
        (
            "labels: {pod-template-hash: abc}, ownerReferences: [{kind: ReplicaSet, name: web, controller: true}]",
            "ReplicaSet/web",
        ),
        ("ownerReferences: [{kind: Note, name: n}, {kind: Job, name: j, controller: true}]", "Job/j"),
        ("ownerReferences: []", ""),
    ] {
        let got = facts(&format!("metadata: {{name: a, {metadata}}}"));
        assert_eq!(got, format!("{want:?} [] false"), "{metadata}");
    }
}

#[test]
fn only_pods_of_this_node() {
    let text = LIST.replace("nodeName: node-a", "nodeName: node-b");
    assert_eq!(names(&index(cluster(), &[&text])), [""; 0]);
    assert_eq!(names(&index(Options { node_name: None, ..cluster() }, &[&text])), [WEB]);
    // A pod of another node is not made one of this node by its slice.
    let options = Options { node_name: Some("node-a".into()), ..files() };
    let pod_elsewhere =
        LIST.replace("    nodeName: node-a\n    preemption", "    nodeName: node-b\n    preemption");
    assert_ne!(pod_elsewhere, LIST);
    assert_eq!(names(&index(options, &[&pod_elsewhere])), [""; 0]);
}

#[test]
fn addresses_that_are_not_the_pods_own() {
    let pod = |name: &str, more: &str, phase: &str| {
        format!(
            "---\nkind: Pod\nmetadata: {{name: {name}, uid: u-{name}}}\nspec: {{{more}}}\n\
             status: {{phase: {phase}, podIP: 10.0.0.9}}\n"
        )
    };
    let text = pod("a-host", "hostNetwork: true", "Running")
        + &pod("b-done", "", "Succeeded")
        + &pod("c", "", "Running");
    assert_eq!(at(&index(files(), &[&text]), "10.0.0.9").as_deref(), Some("default/c"));
    let text = pod("a-host", "hostNetwork: true", "Running") + &pod("b-done", "", "Failed");
    assert_eq!(at(&index(files(), &[&text]), "10.0.0.9"), None);
}

#[test]
fn static_pods_have_two_uids() {
    let text =
        "kind: Pod\nmetadata: {name: etcd-a, uid: mirror, annotations: {kubernetes.io/config.hash: static}}";
    let index = index(files(), &[text]);
    for uid in ["mirror", "static"] {
        assert_eq!(index.by_uid(uid).map(|pod| pod.name.to_string()).as_deref(), Some("default/etcd-a"));
    }
}
