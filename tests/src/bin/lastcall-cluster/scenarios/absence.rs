//! The agent goes away: rolled, killed, deleted, before pods drain and while they do.

use anyhow::{Context, Result, ensure};

use super::stage::{LONG, SOON, Stage, between};
use super::{Scenario, scenario};
use crate::agent;
use crate::app::{App, Hook};
use crate::cluster::Change;
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

/// Seconds from a client's answer to the end of its pod, on a loaded machine where agents come and go: about half
/// of what the pod's grace would leave.
const LATE: f64 = 35.0;

fn rolled(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 20_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    stage.agent.remember()?;
    stage.cluster.kubectl(&["-n", agent::NAMESPACE, "rollout", "restart", "daemonset/lastcall"])?;
    stage.agent.ready()?;
    let answer = ask.answered()?;
    unfailed(stage)?;
    stage.goes_after(&pod, answer, LATE)
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
    let answer = ask.answered()?;
    unfailed(stage)?;
    stage.goes_after(&pod, answer, LATE)
}

/// The hook finds nobody and begins to sleep; the next agent takes it over.
fn killed_before(stage: &Stage<'_>) -> Result<()> {
    stage.agent.fresh()?;
    stage.apply(vec![patient()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 25_000)?;
    deleted_without_an_agent(stage, "pod/web", || stage.agent.kill())?;
    let answer = ask.answered()?;
    stage.agent.ready()?;
    unfailed(stage)?;
    stage.goes_after(&pod, answer, LATE)
}

/// Deletes a pod when its node has lost the agent and has no other yet. The kubelet stands still meanwhile: at
/// once it would start the next one, which must not be there before the deletion is.
fn deleted_without_an_agent(
    stage: &Stage<'_>,
    pod: &str,
    lose_it: impl FnOnce() -> Result<()>,
) -> Result<()> {
    stage.cluster.component("kubelet", Change::Pause)?;
    let done = lose_it().and_then(|()| stage.delete(pod, &[]));
    stage.cluster.component("kubelet", Change::Resume)?;
    done.map(drop)
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
    deleted_without_an_agent(stage, "pod/next", || stage.agent.exhaust())?;
    let answer = ask.answered()?;
    stage.agent.ready()?;
    unfailed(stage)?;
    stage.goes_after(&next, answer, LATE)?;
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
    let ask = stage.ask(&pod, 20_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    let removed = stage.agent.remove();
    let answered = ask.answered();
    stage.agent.apply()?;
    removed?;
    stage.goes_after(&pod, answered?, 60.0)
}

/// `kubectl delete` of everything in `deploy/`: the hooks are sleeps from then on.
fn deleted_before(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    stage.apply(vec![app.deployment(1), app.service("ClusterIP", None)])?;
    let pod = stage.ready_pod("web")?;
    stage.agent.remove()?;
    let played = (|| {
        let ask = stage.ask(&pod, 12_000)?;
        let deleted = stage.delete(&format!("pod/{}", pod.name), &[])?;
        ask.answered()?;
        between("the pod's end", stage.gone(&pod, SOON)? - deleted, 18.0, 50.0)
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
            ["-n", agent::NAMESPACE, "rollout", "status", "daemonset/lastcall-uninstall", "--timeout=120s"];
        let done = stage.cluster.kubectl_with(&words, "", LONG);
        let delete = ["delete", "--wait=true", "--timeout=120s", "-f", "-"];
        stage.cluster.kubectl_with(&delete, &file, LONG)?;
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
