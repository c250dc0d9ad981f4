use super::table;

const NO_PROBE: (&str, &str) = ("app:readinessProbe", "-");

#[test]
fn a_pod_that_is_ready_too_soon() {
    table(&[
        (&[NO_PROBE], &["error no-readiness-probe app"]),
        // A startup probe gates as well.
        (&[NO_PROBE, ("app:startupProbe", "{tcpSocket: {port: 8080}}")], &[]),
        (&[NO_PROBE, ("app:livenessProbe", "{tcpSocket: {port: 8080}}")], &["error no-readiness-probe app"]),
        // Nobody connects: nothing to be ready for.
        (&[NO_PROBE, ("service:spec.selector", "{app: other}")], &[]),
        (&[NO_PROBE, ("kind", "StatefulSet")], &["error no-readiness-probe app"]),
        (&[NO_PROBE, ("kind", "DaemonSet"), ("spec.replicas", "-")], &["error no-readiness-probe app"]),
        // Without a name of the port, and without a port at all.
        (
            &[NO_PROBE, ("app:ports", "[{containerPort: 8080}]"), ("service:spec.ports", "[{port: 8080}]")],
            &["error no-readiness-probe app"],
        ),
        (&[NO_PROBE, ("app:ports", "-")], &["error no-readiness-probe app"]),
        (
            &[NO_PROBE, ("app:ports", "-"), ("service:spec.ports", "[{port: 80, targetPort: 8080}]")],
            &["error no-readiness-probe app"],
        ),
    ]);
}

#[test]
fn a_rollout_that_stops_the_last_pod() {
    let one = ("spec.replicas", "1");
    let rolling = "spec.strategy.rollingUpdate";
    table(&[
        // The API server's 25 % are none of one, and one more.
        (&[one], &[]),
        (&[one, (rolling, "{maxUnavailable: 1}")], &["error last-pod-may-go"]),
        (&[one, (rolling, "{maxSurge: 0}")], &["error last-pod-may-go"]),
        (&[one, (rolling, "{maxSurge: 0, maxUnavailable: 0}")], &["error last-pod-may-go"]),
        (&[one, (rolling, "{maxSurge: 0, maxUnavailable: 25%}")], &["error last-pod-may-go"]),
        (&[(rolling, "{maxUnavailable: 1}")], &[]),
        (&[(rolling, "{maxUnavailable: 99%}")], &[]),
        (&[(rolling, "{maxUnavailable: 100%}")], &["error last-pod-may-go"]),
        (&[(rolling, "{maxUnavailable: 2}")], &["error last-pod-may-go"]),
        // Scaled to nothing.
        (&[("spec.replicas", "0"), (rolling, "{maxUnavailable: 1}")], &[]),
        // Somebody else may set replicas.
        (&[("spec.replicas", "-"), (rolling, "{maxUnavailable: 1}")], &["warning last-pod-may-go"]),
        (&[("spec.replicas", "-"), (rolling, "{maxUnavailable: 1}"), ("+", AUTOSCALER)], &[]),
        (&[("kind", "StatefulSet")], &[]),
        (&[("kind", "StatefulSet"), one], &["warning last-pod-may-go"]),
        (&[("kind", "StatefulSet"), one, ("spec.updateStrategy", "{type: OnDelete}")], &[]),
        (
            &[("kind", "StatefulSet"), ("spec.updateStrategy.rollingUpdate.maxUnavailable", "100%")],
            &["error last-pod-may-go"],
        ),
        (&[("kind", "DaemonSet"), ("spec.replicas", "-")], &[]),
        (
            &[
                ("kind", "DaemonSet"),
                ("spec.replicas", "-"),
                ("spec.updateStrategy.rollingUpdate.maxUnavailable", "100%"),
            ],
            &["warning last-pod-may-go"],
        ),
    ]);
}

const AUTOSCALER: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec:
  minReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
";

#[test]
fn a_strategy_that_stops_them_all() {
    let recreate = ("spec.strategy", "{type: Recreate}");
    let claim = "[{name: data, persistentVolumeClaim: {claimName: data}}]";
    table(&[
        (&[recreate], &["error recreate"]),
        (&[recreate, ("pod:volumes", claim)], &["warning recreate"]),
        (&[recreate, ("service:spec.selector", "{app: other}")], &[]),
    ]);
}

#[test]
fn a_grace_without_room() {
    let grace = "pod:terminationGracePeriodSeconds";
    let path = "app:lifecycle.preStop.httpGet.path";
    let headless = ("service:spec.clusterIP", "None");
    table(&[
        (&[(grace, "10")], &[]),
        // The floor fits, the reserve does not; then neither.
        (&[(grace, "8")], &["warning grace-too-short"]),
        (&[(grace, "6")], &["warning grace-too-short"]),
        (&[(grace, "2")], &["error grace-too-short"]),
        (&[(grace, "0")], &["error grace-too-short"]),
        (&[headless], &["error grace-too-short"]),
        (&[headless, (grace, "35")], &[]),
        (&[headless, (path, "/drain?settle=5s&last-call=http")], &[]),
        (&[(path, "/drain?settle=40s&last-call=http")], &["error grace-too-short"]),
        (&[(path, "/drain?reserve=20s&last-call=http")], &["warning grace-too-short"]),
        (&[(path, "/drain?reserve=7s&last-call=http")], &[]),
        // The pod's own strictest: a slow stranger beside it.
        (
            &[("pod:readinessGates", "[{conditionType: target-health.elbv2.k8s.aws/x}]")],
            &["error grace-too-short"],
        ),
        (&[("service:spec.selector", "{app: other}"), (grace, "3")], &["warning grace-too-short"]),
        // Without a hook there is nothing to fit in.
        (&[("app:lifecycle", "-"), (grace, "1")], &["error no-hook app"]),
    ]);
}
