//! What people are told: Events, the log, the status page, the hook's answer, and `lastcall check`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, Stage};
use super::{Scenario, scenario};
use crate::app::{App, Hook, PORT};
use crate::load::Load;
use crate::rollout::trial::Traffic;
use crate::run::output;

pub(super) const ALL: &[Scenario] = &[
    scenario("deadline_and_cut_are_events", deadline),
    scenario("busy_is_an_event", busy),
    scenario("settle_beyond_the_grace_is_an_event_at_once", settle_exceeds).long(),
    scenario("what_was_chosen_for_settling_is_told", chosen).with_our_node().long(),
    scenario("check_reads_the_cluster", check).with_our_node(),
];

fn deadline(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 8;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 60_000)?;
    stage.ends_as("web", "deadline")?;
    ask.cut()?;
    let note = stage.warning(&pod, "DrainDeadline")?;
    ensure!(note.contains("1 connection in flight"), "{note}");
    let note = stage.warning(&pod, "ConnectionsCut")?;
    ensure!(note.starts_with("1 connection"), "{note}");
    Ok(())
}

/// Clients that always have a request on its way, and whom nobody tells to leave.
fn busy(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain("?last-call=off"));
    app.grace = 60;
    stage.apply(vec![app.pod()])?;
    let pod = stage.ready_pod("web")?;
    let traffic = Traffic { post: true, work_ms: 200, keep: 5, rate: 500.0 };
    let target = std::net::SocketAddr::new(pod.ip().context("no address")?.parse()?, PORT);
    let mut load = Load::start(stage.cluster, &traffic, target, 1)?;
    load.begins()?;
    stage.delete("pod/web", &[])?;
    stage.ends_as("web", "busy")?;
    let note = stage.warning(&pod, "DrainBusy")?;
    ensure!(note.contains("5 connections") && note.contains("last-call=http"), "{note}");
    Ok(())
}

/// Names take 30 s to expire, and this pod has 29: whoever reads it may still change the next one's grace, so it
/// is said when the drain begins.
fn settle_exceeds(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 34;
    let mut service = app.service("ClusterIP", None);
    service["spec"]["clusterIP"] = json!("None");
    stage.apply(vec![app.pod(), service])?;
    let pod = stage.ready_pod("web")?;
    stage.delete("pod/web", &[])?;
    let note = stage.warning(&pod, "SettleExceedsGrace")?;
    stage.still_drains("web")?;
    ensure!(note.contains("takes 30 s") && note.contains("leaves 29.0 s"), "{note}");
    stage.ends_as("web", "deadline")
}

/// In the same words to whoever looks at the node, reads the log or calls the hook by hand.
fn chosen(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    stage.apply(vec![app.pod(), app.service("NodePort", Some("Local"))])?;
    let pod = stage.ready_pod("web")?;
    // So that the drain is still there when everybody has looked.
    let ask = stage.ask(&pod, 30_000)?;
    stage.delete("pod/web", &[])?;
    stage.draining("web")?;
    let words = "15 s: externalTrafficPolicy Local, and the last ready endpoint of the node";
    let answer = thread::scope(|scope| {
        let caller = scope.spawn(|| call(stage, pod.ip().context("no address")?));
        let seen = status(stage, words);
        let answer = caller.join().map_err(|_| anyhow::anyhow!("the caller panicked"))?;
        seen.and(answer)
    })?;
    ensure!(answer.contains(words) && answer.contains("\"drained\""), "the hook's answer: {answer}");
    ask.answered()?;
    stage.ends_as("web", "drained")?;
    let log = stage.agent.log()?;
    let ours =
        |line: &&str| line.contains("drain ends") && line.contains(&format!("{}/web", stage.namespace));
    let line = log.lines().find(ours).context("no end of the drain in the log")?;
    ensure!(line.contains(words), "the log: {line}");
    Ok(())
}

/// Waits until `lastcall status` on the node has a text about the pod.
fn status(stage: &Stage<'_>, words: &str) -> Result<()> {
    let until = Instant::now() + SOON;
    loop {
        // A busy node may be late with the answer to this too.
        let drain = stage.status("web");
        if matches!(&drain, Ok(Some(drain)) if drain["settle"] == words) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "`lastcall status` says {drain:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The hook as the kubelet calls it: from its cgroup, to the pod's address. Returns the whole answer.
fn call(stage: &Stage<'_>, address: &str) -> Result<String> {
    let script = r#"
        cgroup2=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
        echo $$ >"$cgroup2/$1/kubelet/cgroup.procs"
        exec 3<>"/dev/tcp/$0/9902"
        printf 'GET /drain HTTP/1.1\r\nHost: %s:9902\r\n\r\n' "$0" >&3
        exec cat <&3"#;
    let cgroup = stage.cluster.home().cgroup();
    let said = output(stage.cluster.node("bash").args(["-c", script, address, &cgroup]), "", SOON)?;
    if !said.status.success() {
        bail!("the call failed: {}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Against the API server, by the agent's own program: what breaks a rolling update is found, and nothing in a
/// workload that is as it should be.
fn check(stage: &Stage<'_>) -> Result<()> {
    let mut good = App::new("good", Hook::Drain("?last-call=http"));
    good.grace = 60;
    let app = App::new("bad", Hook::Sleep(20));
    let mut bad = app.deployment(1);
    bad["spec"]["strategy"]["rollingUpdate"] = json!({ "maxSurge": 0, "maxUnavailable": 1 });
    bad["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = Value::Null;
    stage.apply(vec![good.deployment(2), good.service("ClusterIP", None)])?;
    stage.apply(vec![bad, app.service("ClusterIP", None)])?;
    let (code, findings) = checked(stage)?;
    let of = |name: &str| {
        let ours = findings.iter().filter(move |finding| finding["object"]["name"] == name);
        ours.map(|finding| finding["rule"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let (of_bad, of_good) = (of("bad"), of("good"));
    for rule in ["no-readiness-probe", "last-pod-may-go", "leftover-sleep"] {
        ensure!(of_bad.iter().any(|found| found == rule), "{rule} was not found: {findings:#?}");
    }
    ensure!(of_good.is_empty(), "found in a good workload: {of_good:?}");
    ensure!(code == Some(1), "it ended with {code:?}, not with 1");
    stage.kubectl(&["delete", "deployment,service", "bad", "--wait=true"])?;
    let (code, findings) = checked(stage)?;
    ensure!(code == Some(0) && findings.is_empty(), "{code:?}: {findings:#?}");
    Ok(())
}

/// `lastcall check -n NAMESPACE`: its exit code and its findings.
fn checked(stage: &Stage<'_>) -> Result<(Option<i32>, Vec<Value>)> {
    let program = format!("/proc/{}/root/lastcall", stage.agent.pid()?);
    let mut command = stage.cluster.node(&program);
    command.args(["check", "-n", stage.namespace, "-o", "json"]);
    let said = output(&mut command, "", SOON)?;
    let text = String::from_utf8_lossy(&said.stdout);
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text:?}, {}", String::from_utf8_lossy(&said.stderr)))?;
    Ok((said.status.code(), report["findings"].as_array().cloned().unwrap_or_default()))
}
