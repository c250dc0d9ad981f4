use super::{Manifests, settings, short, table, table_with};
use crate::check::{Rule, Settings};

const NO_HOOK: (&str, &str) = ("app:lifecycle", "-");
const NOBODY: (&str, &str) = ("service:spec.selector", "{app: other}");
const PRE_STOP: &str = "app:lifecycle.preStop";
const TWO: &str = "
- name: app
  image: example.org/web:1
  ports: [{name: http, containerPort: 8080}]
  readinessProbe: {tcpSocket: {port: http}}
  lifecycle: {preStop: {httpGet: {path: '/drain?last-call=http', port: 9902}}}
- name: log
  image: log
";

#[test]
fn nothing_holds_the_pod() {
    table(&[
        (&[NO_HOOK], &["error no-hook app"]),
        (&[("app:lifecycle", "{postStart: {exec: {command: [warm-up]}}}")], &["error no-hook app"]),
        (&[("app:lifecycle", "{}")], &["error no-hook app"]),
        (&[NO_HOOK, NOBODY], &[]),
        (
            &[NO_HOOK, ("spec.template.metadata.labels", "{app: web, lastcall.dev/inject: 'true'}")],
            &["note last-call-off app"],
        ),
        (&[NO_HOOK, ("+", NAMESPACE)], &["note last-call-off app"]),
        // The pod's own label counts before its namespace's.
        (
            &[
                NO_HOOK,
                ("+", NAMESPACE),
                ("spec.template.metadata.labels", "{app: web, lastcall.dev/inject: 'false'}"),
            ],
            &["error no-hook app"],
        ),
    ]);
    // A Deployment alone: who uses its port is not known.
    let mut alone = Manifests::new(&[NO_HOOK]);
    alone.0.remove(0);
    let found: Vec<_> = alone.findings(&settings()).iter().map(short).collect();
    assert_eq!(found, ["warning no-hook app"]);
    let injected = Settings { injected: true, ..settings() };
    assert_eq!(alone.findings(&injected), []);
    // A worker that only serves its metrics.
    let mut worker = Manifests::new(&[NO_HOOK, ("app:ports", "[{name: metrics, containerPort: 9090}]")]);
    worker.0.remove(0);
    assert_eq!(worker.findings(&settings()), []);
}

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {lastcall.dev/inject: 'true'}}
";

#[test]
fn injection_that_does_not_happen() {
    let ask = ("spec.template.metadata.labels", "{app: web, lastcall.dev/inject: 'true'}");
    table(&[
        (&[NO_HOOK, ask, ("pod:hostNetwork", "true")], &["error injection-skipped app"]),
        (&[NO_HOOK, ask, ("pod:terminationGracePeriodSeconds", "2")], &["error injection-skipped app"]),
        // Its own hook needs no injection.
        (&[ask, ("pod:terminationGracePeriodSeconds", "2")], &["error grace-too-short"]),
    ]);
}

#[test]
fn a_container_beside_one_that_is_held() {
    let log = "[{name: app, image: a, ports: [{name: http, containerPort: 8080}], readinessProbe: {tcpSocket: \
               {port: http}}}, {name: log, image: log}]";
    table(&[
        (&[("pod:containers", TWO)], &["warning container-without-hook log"]),
        // It is the one that serves.
        (
            &[
                ("pod:containers", TWO),
                (
                    "service:spec.ports",
                    "[{name: http, port: 80, targetPort: http}, {name: x, port: 81, targetPort: 9000}]",
                ),
            ],
            &["warning container-without-hook log"],
        ),
        (&[("pod:containers", log)], &["error no-hook app", "warning container-without-hook log"]),
        // A native sidecar outlives the others.
        (&[("pod:initContainers", "[{name: proxy, image: p, restartPolicy: Always}]")], &[]),
        (&[("pod:initContainers", "[{name: migrate, image: p}]")], &[]),
    ]);
    let serving = TWO.replace("  image: log\n", "  image: log\n  ports: [{name: other, containerPort: 9000}]\n  readinessProbe: {tcpSocket: {port: other}}\n");
    let ports = "[{name: http, port: 80, targetPort: http}, {name: x, port: 81, targetPort: other}]";
    table(&[(
        &[("pod:containers", &serving), ("service:spec.ports", ports)],
        &["error container-without-hook log"],
    )]);
}

#[test]
fn a_leftover_sleep() {
    let sleeps = ["warning leftover-sleep app"];
    table(&[
        (&[(PRE_STOP, "{sleep: {seconds: 20}}")], &sleeps),
        (&[(PRE_STOP, "{exec: {command: [sleep, '20']}}")], &sleeps),
        (&[(PRE_STOP, "{exec: {command: [/bin/sleep, '20']}}")], &sleeps),
        (&[(PRE_STOP, "{exec: {command: [sh, -c, sleep 20]}}")], &sleeps),
        (&[(PRE_STOP, "{exec: {command: [/bin/bash, -ec, 'sleep 20;']}}")], &sleeps),
        (
            &[(PRE_STOP, "{exec: {command: [sh, -c, sleep 5 && nginx -s quit]}}")],
            &["note leftover-sleep app"],
        ),
        (&[(PRE_STOP, "{exec: {command: [sh, -c, 'echo bye; sleep 5']}}")], &["note leftover-sleep app"]),
        // A word that is no command.
        (&[(PRE_STOP, "{exec: {command: [app, --sleep, '20']}}")], &["note other-hook app"]),
        (&[(PRE_STOP, "{exec: {command: [app, sleep, '20']}}")], &["note other-hook app"]),
        // Nobody connects: it sleeps for something else.
        (&[(PRE_STOP, "{sleep: {seconds: 20}}"), NOBODY], &[]),
    ]);
    let beside =
        TWO.replace("  image: log\n", "  image: log\n  lifecycle: {preStop: {sleep: {seconds: 5}}}\n");
    table(&[(&[("pod:containers", &beside)], &["warning leftover-sleep log"])]);
}

#[test]
fn a_command_that_cannot_run() {
    let image = ("app:image", "gcr.io/distroless/static:nonroot");
    let shell = (PRE_STOP, "{exec: {command: [sh, -c, nginx -s quit]}}");
    table(&[
        (&[(PRE_STOP, "{exec: {command: [nginx, -s, quit]}}")], &["note other-hook app"]),
        (&[(PRE_STOP, "{httpGet: {path: /quit, port: 8080}}")], &["note other-hook app"]),
        (&[shell], &["note exec-hook app", "note other-hook app"]),
        (&[shell, image], &["error exec-hook app"]),
        (
            &[shell, ("app:image", "gcr.io/distroless/base:debug")],
            &["note exec-hook app", "note other-hook app"],
        ),
        (&[(PRE_STOP, "{exec: {command: [sh, -c, sleep 20]}}"), image], &["error exec-hook app"]),
        (&[(PRE_STOP, "{exec: {command: [sleep 20]}}")], &["error exec-hook app"]),
        (&[(PRE_STOP, "{exec: {command: []}}")], &["error exec-hook app"]),
        (
            &[(PRE_STOP, "{exec: {command: [curl, 'http://10.0.0.1:9902/drain']}}")],
            &["error exec-calls-agent app"],
        ),
        (&[(PRE_STOP, "{exec: {command: [curl, 'http://127.0.0.1:9901/drain']}}")], &["note other-hook app"]),
    ]);
}

#[test]
fn jobs_run_to_their_end() {
    let job = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: web}}
        spec: {containers: [{name: job, image: job, ports: [{containerPort: 80}]}]}
";
    table(&[(&[("+", job)], &[])]);
}

#[test]
fn reasons_that_cannot_be_seen_from_here() {
    let annotation = ("metadata.annotations", "{lastcall.dev/check-ignore: 'no-hook, recreate'}");
    table(&[(&[NO_HOOK, annotation], &[])]);
    let ignore = Settings { ignore: [Rule::NoHook].into(), ..settings() };
    table_with(
        &ignore,
        &[(&[NO_HOOK], &[]), (&[("app:readinessProbe", "-")], &["error no-readiness-probe app"])],
    );
}
