//! The agent goes away: rolled, killed, deleted, before pods drain and while they do.

use anyhow::{Context, Result, ensure};

use super::stage::{SOON, Stage, between};
use super::{Scenario, scenario};
use crate::agent;
use crate::app::{App, Hook};

pub(super) const ALL: &[Scenario] = &[
    scenario("agent_rolled_during_a_drain", rolled).alone(),
    scenario("agent_killed_during_a_drain", killed).on_our_node(),
    scenario("agent_deleted_during_a_drain", deleted).alone(),
    scenario("agent_deleted_before_a_drain_is_a_sleep", deleted_before).alone(),
];

fn rolled(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 30_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    stage.agent.remember()?;
    stage.cluster.kubectl(&["-n", agent::NAMESPACE, "rollout", "restart", "daemonset/lastcall"])?;
    stage.agent.ready()?;
    ask.answered()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&pod, SOON)?, 25.0, 50.0)
}

/// SIGKILL of all of the container, as the kernel does it when memory runs out.
fn killed(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 30_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    stage.agent.kill()?;
    stage.agent.ready()?;
    ask.answered()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&pod, SOON)?, 25.0, 50.0)
}

/// It goes on holding what it holds; what is left when its own grace ends is released by the kubelet's own
/// notice that nobody answers, never before a sleep would have ended.
fn deleted(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 12_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    let removed = stage.agent.remove();
    let answered = ask.answered();
    stage.agent.apply()?;
    removed?;
    answered?;
    between("the pod's end", stage.gone(&pod, SOON)?, 10.0, 70.0)
}

/// `kubectl delete` of everything in `deploy/`: the hooks are sleeps from then on.
fn deleted_before(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 40;
    stage.apply(vec![app.deployment(1), app.service("ClusterIP", None)])?;
    let pod = stage.ready_pod("web")?;
    stage.agent.remove()?;
    let played = (|| {
        let ask = stage.ask(&pod, 12_000)?;
        stage.delete(&format!("pod/{}", pod.name), &[])?;
        ask.answered()?;
        between("the pod's end", stage.gone(&pod, SOON)?, 18.0, 35.0)
    })();
    stage.agent.apply()?;
    played
}

fn patient() -> serde_json::Value {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    app.pod()
}

/// The kubelet says so where a hook's connection broke.
fn unfailed(stage: &Stage<'_>) -> Result<()> {
    let reasons = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).context("events")?;
    ensure!(!reasons.contains("FailedPreStopHook"), "the kubelet says that the hook failed");
    Ok(())
}
