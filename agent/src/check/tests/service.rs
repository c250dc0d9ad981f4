use super::{Manifests, settings, table};

const PATH: &str = "app:lifecycle.preStop.httpGet.path";

#[test]
fn traffic_policy_local_with_one_replica() {
    let one = ("spec.replicas", "1");
    let external = ("service:spec.externalTrafficPolicy", "Local");
    let internal = ("service:spec.internalTrafficPolicy", "Local");
    let node_port = ("service:spec.type", "NodePort");
    let local = ["warning local-policy-one-replica"];
    table(&[
        (&[one, external, node_port], &local),
        (&[one, external, ("service:spec.type", "LoadBalancer")], &local),
        (&[one, internal], &local),
        (&[external, node_port], &[]),
        (&[one, node_port], &[]),
        // The field means nothing there.
        (&[one, external], &[]),
        // Each node has one.
        (&[("kind", "DaemonSet"), ("spec.replicas", "-"), external, node_port], &[]),
        (&[one, external, node_port, ("spec.strategy", "{type: Recreate}")], &["error recreate"]),
    ]);
}

#[test]
fn a_load_balancer_that_targets_pods() {
    let balancer = ("service:spec.type", "LoadBalancer");
    let by_address = (
        "service:metadata.annotations",
        "{service.beta.kubernetes.io/aws-load-balancer-nlb-target-type: ip}",
    );
    let slow = ["warning load-balancer-without-settle app"];
    let grace = |seconds| ("pod:terminationGracePeriodSeconds", seconds);
    let gates = ("pod:readinessGates", "[{conditionType: target-health.elbv2.k8s.aws/x}]");
    table(&[
        (&[balancer], &[]),
        (&[balancer, by_address], &slow),
        (&[balancer, by_address, (PATH, "/drain?settle=120s&last-call=http"), grace("125")], &[]),
        // An NLB is slower than what readiness gates tell.
        (&[balancer, by_address, gates, grace("60")], &slow),
        (&[("+", INGRESS)], &slow),
        (&[("+", INGRESS), gates, grace("60")], &[]),
        // The controller writes the gates into the pods, not into the template.
        (&[("+", INGRESS), ("+", GATED), grace("60")], &[]),
        (&[("+", INGRESS), ("+", GATED)], &["error grace-too-short"]),
        // Without a hook, that is said first.
        (&[("+", INGRESS), ("app:lifecycle", "-")], &["error no-hook app"]),
    ]);
}

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: shop
  annotations: {alb.ingress.kubernetes.io/target-type: ip}
spec:
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
";

const GATED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {elbv2.k8s.aws/pod-readiness-gate-inject: enabled}}
";

#[test]
fn hints_about_the_last_call() {
    let hint = ["note last-call-off app"];
    table(&[
        (&[(PATH, "/drain")], &hint),
        (&[(PATH, "/drain?reserve=6s")], &hint),
        (&[(PATH, "/drain?last-call=off")], &[]),
        (&[(PATH, "/drain?until=settled")], &[]),
        (&[(PATH, "/drain"), ("service:spec.ports", "[{name: grpc, port: 80, targetPort: http}]")], &hint),
        (
            &[
                (PATH, "/drain"),
                (
                    "service:spec.ports",
                    "[{name: web, appProtocol: kubernetes.io/h2c, port: 80, targetPort: http}]",
                ),
            ],
            &hint,
        ),
        // Not HTTP, or nobody says so.
        (
            &[
                (PATH, "/drain"),
                ("app:ports", "[{name: db, containerPort: 5432}]"),
                ("app:readinessProbe", "{tcpSocket: {port: db}}"),
                ("service:spec.ports", "[{name: db, port: 5432, targetPort: db}]"),
            ],
            &[],
        ),
        (&[("service:spec.ports", "[{name: https, port: 443, targetPort: http}]")], &["note tls-port app"]),
        (&[("service:spec.ports", "[{port: 443, targetPort: http}]")], &["note tls-port app"]),
        (
            &[
                ("service:spec.ports", "[{name: https, port: 443, targetPort: http}]"),
                (PATH, "/drain?until=settled"),
            ],
            &[],
        ),
        // TLS that ends before the pod.
        (&[("service:spec.ports", "[{name: http, port: 443, targetPort: http}]")], &[]),
    ]);
}

/// A selector that is empty, or of another namespace, selects nobody.
#[test]
fn a_service_of_somebody_else() {
    let no_hook = ("app:lifecycle", "-");
    table(&[
        (&[no_hook, ("service:spec.selector", "{}")], &[]),
        (&[no_hook, ("service:spec.type", "ExternalName")], &[]),
    ]);
    let elsewhere = Manifests::new(&[no_hook, ("service:metadata.namespace", "bank")]);
    let found: Vec<_> = elsewhere.findings(&settings()).iter().map(super::short).collect();
    assert_eq!(found, ["warning no-hook app"]);
}
