//! The agent goes away: rolled, killed, deleted, before pods drain and while they do.

use anyhow::{Context, Result, ensure};

use super::stage::{SOON, Stage, between};
use super::{Scenario, scenario};
use crate::agent;
use crate::app::{App, Hook};
use crate::pods::Seen;
use crate::run::output;

pub(super) const ALL: &[Scenario] = &[
    scenario("agent_rolled_during_a_drain", rolled).alone(),
    scenario("agent_killed_during_a_drain", killed).on_our_node(),
    scenario("agent_killed_just_before_a_drain", killed_before).on_our_node(),
    scenario("agent_deleted_during_a_drain", deleted).alone(),
    scenario("agent_out_of_memory_during_a_drain_and_before", out_of_memory).on_our_node().long(),
    scenario("agent_deleted_before_a_drain_is_a_sleep", deleted_before).alone(),
    scenario("uninstall_removes_the_programs", uninstall).on_our_node(),
];

fn rolled(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 20_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    stage.agent.remember()?;
    stage.cluster.kubectl(&["-n", agent::NAMESPACE, "rollout", "restart", "daemonset/lastcall"])?;
    stage.agent.ready()?;
    ask.answered()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&pod, SOON)?, 15.0, 45.0)
}

/// SIGKILL of all of the container, as the kernel does it when memory runs out.
fn killed(stage: &Stage<'_>) -> Result<()> {
    stage.agent.fresh()?;
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 16_000)?;
    stage.delete("pod/web", &[])?;
    stage.held("web")?;
    stage.agent.kill()?;
    stage.agent.ready()?;
    ask.answered()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&pod, SOON)?, 12.0, 40.0)
}

/// The hook finds nobody and begins to sleep; the next agent takes it over.
fn killed_before(stage: &Stage<'_>) -> Result<()> {
    stage.agent.fresh()?;
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 25_000)?;
    stage.agent.kill()?;
    stage.delete("pod/web", &[])?;
    ask.answered()?;
    stage.agent.ready()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&pod, SOON)?, 22.0, 50.0)
}

/// Killed by the kernel twice: while a pod drains, and so shortly before one's end that the hook finds nobody.
fn out_of_memory(stage: &Stage<'_>) -> Result<()> {
    stage.agent.fresh()?;
    let pods = ["web", "next"].map(|name| {
        let mut app = App::new(name, Hook::Drain(""));
        app.grace = 90;
        app.pod()
    });
    stage.apply(pods.to_vec())?;
    let (web, next) = (stage.ready_pod("web")?, stage.ready_pod("next")?);
    let ask = stage.ask(&web, 15_000)?;
    stage.delete("pod/web", &[])?;
    stage.held("web")?;
    stage.agent.exhaust()?;
    agent_ended_by(stage, "OOMKilled")?;
    stage.agent.ready()?;
    ask.answered()?;
    stage.agent.fresh()?;
    let ask = stage.ask(&next, 25_000)?;
    stage.agent.exhaust()?;
    stage.delete("pod/next", &[])?;
    ask.answered()?;
    stage.agent.ready()?;
    unfailed(stage)?;
    between("the pod's end", stage.gone(&next, SOON)?, 22.0, 50.0)?;
    let node = stage.cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let note = stage.warning_about("default", &node, "AgentWasAbsent")?;
    ensure!(note.starts_with("1 preStop hook found no"), "{note}");
    Ok(())
}

/// Waits until the kubelet says so of the agent's last container.
fn agent_ended_by(stage: &Stage<'_>, reason: &str) -> Result<()> {
    stage.pods.wait(SOON, &format!("an agent's container ended by {reason}"), |all| {
        let ended = |pod: &Seen| {
            let container = &pod.object["status"]["containerStatuses"][0];
            // Waiting for the next, or with the next already.
            ["state", "lastState"].iter().any(|state| container[state]["terminated"]["reason"] == reason)
        };
        all.values()
            .any(|pod| pod.namespace == agent::NAMESPACE && pod.gone.is_none() && ended(pod))
            .then_some(())
    })
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

/// `kubectl delete -f deploy/lastcall.yaml` leaves the programs that make hooks sleeps; `deploy/uninstall.yaml`
/// takes them away.
fn uninstall(stage: &Stage<'_>) -> Result<()> {
    stage.agent.remove()?;
    let played = (|| {
        let left = pins(stage)?;
        ensure!(!left.is_empty(), "nothing is pinned on the node, so there is nothing to remove");
        let file = stage.agent.beside("uninstall.yaml")?;
        stage.cluster.apply(&file)?;
        let words =
            ["-n", agent::NAMESPACE, "rollout", "status", "daemonset/lastcall-uninstall", "--timeout=80s"];
        let done = stage.cluster.kubectl_with(&words, "", SOON);
        let delete = ["delete", "--wait=true", "--timeout=80s", "-f", "-"];
        stage.cluster.kubectl_with(&delete, &file, SOON)?;
        done?;
        let left = pins(stage)?;
        ensure!(left.is_empty(), "still pinned on the node: {left}");
        Ok(())
    })();
    stage.agent.apply()?;
    played
}

/// What stands in the node's BPF file system.
fn pins(stage: &Stage<'_>) -> Result<String> {
    let said = output(stage.cluster.node("find").args(["/sys/fs/bpf", "-mindepth", "1"]), "", SOON)?;
    let said = String::from_utf8_lossy(&said.stdout);
    // The kernel's own `progs.debug` and `maps.debug` are always there.
    Ok(said.split_whitespace().filter(|path| !path.ends_with(".debug")).collect::<Vec<_>>().join(" "))
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
