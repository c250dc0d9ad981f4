//! The node evicts pods: an eviction of which the API shows nothing until the containers have ended.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{LONG, SOON, Stage};
use super::{Scenario, scenario};
use crate::app::{App, Hook};

pub(super) const ALL: &[Scenario] =
    &[scenario("node_pressure_waits_for_a_request", node_pressure).on_our_node().long()];

/// The kubelet looks every 10 s, and evicts when it has seen the signal twice.
const EVICTED: Duration = Duration::from_secs(120);

/// The kubelet finds that the node runs out of process ids: `kernel.pid_max` is a file of ours there, which
/// `node.sh` has bound over the entry, and a soft threshold of its own configuration is crossed.
fn node_pressure(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 45;
    stage.apply(vec![app.pod()])?;
    let pod = stage.ready_pod("web")?;
    let setting = stage.cluster.home().node().join("sysctl/pid_max");
    let usual = fs::read_to_string(&setting).with_context(|| setting.display().to_string())?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let tasks: u32 = load
        .split(['/', ' '])
        .nth(4)
        .and_then(|tasks| tasks.parse().ok())
        .context("tasks in /proc/loadavg")?;
    // Longer than the kubelet takes to evict.
    let ask = stage.ask(&pod, 30_000)?;
    // Written in place: a new file would not be the one that is bound.
    // Of the thousand that the threshold leaves, room for what ends beside it meanwhile.
    fs::write(&setting, format!("{}\n", tasks + 100))?;
    let drains = stage.agent.begins(&format!("{}/web", stage.namespace), EVICTED);
    fs::write(&setting, usual)?;
    drains?;
    let before = stage.sees(&pod, SOON, "its state", |pod| Some(pod.clone()))?;
    ensure!(before.deleting.is_none(), "somebody has deleted the pod");
    ask.answered()?;
    stage.ends_as("web", "drained")?;
    // The app ends well, so its pod does; the rest says whose doing it was.
    stage.sees(&pod, SOON, "its disruption by the kubelet", |pod| {
        let conditions = pod.object["status"]["conditions"].as_array()?;
        let is = |c: &Value| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet";
        conditions.iter().any(is).then_some(())
    })?;
    let events = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(events.contains("Evicted"), "the kubelet's Events are {events}");
    // Until then the node takes no pods.
    let wait = ["wait", "--for=condition=PIDPressure=false", "node", "--all", "--timeout=120s"];
    stage.cluster.kubectl_with(&wait, "", LONG).map(drop)
}
