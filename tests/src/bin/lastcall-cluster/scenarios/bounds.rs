//! What bounds a drain beside the pod's own grace.

use anyhow::{Result, ensure};
use serde_json::json;

use super::stage::{SOON, Stage, between};
use super::{Scenario, scenario};
use crate::agent;
use crate::app::{App, Hook};

pub(super) const ALL: &[Scenario] = &[
    scenario("probe_grace_bounds_a_restart", probe_grace).long(),
    scenario("max_drain_bounds_every_grace", max_drain).alone(),
];

/// A probe's own grace is shorter than the pod's, and nothing in the API says which of them the kubelet counts:
/// the hook must not use up either.
fn probe_grace(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 300;
    app.env.push(("IGNORE", "1"));
    let mut pod = app.pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({
        "httpGet": { "path": "/healthz", "port": 8080 },
        "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 2, "terminationGracePeriodSeconds": 8,
    });
    stage.apply(vec![pod])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 120_000)?;
    let begun = std::time::Instant::now();
    stage.kubectl(&["exec", "web", "-c", "app", "--", "/app", "get", "http://127.0.0.1:8080/ill"])?;
    stage.ends_as("web", "restart")?;
    stage.restarted(&pod, "app")?;
    ask.cut()?;
    // Two probes, the hook's second, and the rest of the 8 s for an app that does not care.
    between("the restart", begun.elapsed().as_secs_f64(), 6.0, 60.0)?;
    let events = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(!events.contains("FailedPreStopHook"), "the kubelet says that the hook failed: {events}");
    Ok(())
}

/// The operator's bound, whatever the pods' own graces are.
fn max_drain(stage: &Stage<'_>) -> Result<()> {
    let patch = json!([{
        "op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--max-drain=8s",
    }]);
    let patch = ["patch", agent::DAEMONSET, "--type=json", "-p", &patch.to_string()].map(str::to_owned);
    let words: Vec<&str> =
        ["-n", agent::NAMESPACE].into_iter().chain(patch.iter().map(String::as_str)).collect();
    stage.agent.remember()?;
    stage.cluster.kubectl(&words)?;
    stage.agent.ready()?;
    let played = (|| {
        let mut app = App::new("web", Hook::Drain(""));
        app.grace = 300;
        let (pod, ask, deleted) = stage.deleted_while_asked(&app, 60_000)?;
        stage.ends_as("web", "deadline")?;
        ask.cut()?;
        between("the pod's end", stage.gone(&pod, SOON)? - deleted, 7.0, 50.0)
    })();
    stage.agent.remember()?;
    stage.agent.apply()?;
    played
}
