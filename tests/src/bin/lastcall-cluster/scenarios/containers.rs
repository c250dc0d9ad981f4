//! Pods of several containers: those with the hook, and those beside them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, Stage};
use super::{Scenario, scenario};
use crate::app::{App, Hook};
use crate::pods::Seen;

pub(super) const ALL: &[Scenario] = &[
    scenario("two_hooks_share_a_drain", two_hooks),
    scenario("container_without_the_hook_ends_at_once", one_without),
    scenario("native_sidecar_outlives_the_drain", sidecar),
];

/// How long the requests take that a stop has to wait for.
const WORK: u32 = 8_000;

/// The app's container again, under another name and on another port.
fn another(app: &App, name: &str) -> Value {
    let mut container = app.container();
    container["name"] = json!(name);
    container["env"] = json!([{ "name": "PORT", "value": "8081" }]);
    container["ports"] = json!([{ "containerPort": 8081 }]);
    container["readinessProbe"]["httpGet"]["port"] = json!(8081);
    container
}

fn with(mut pod: Value, field: &str, container: Value) -> Value {
    match pod["spec"][field].as_array_mut() {
        Some(containers) => containers.push(container),
        None => pod["spec"][field] = json!([container]),
    }
    pod
}

/// When a container of a pod ended, if it did.
fn ended(pod: &Seen, name: &str) -> Option<String> {
    let containers = pod.object["status"]["containerStatuses"].as_array()?;
    let container = containers.iter().find(|container| container["name"] == name)?;
    container["state"]["terminated"]["finishedAt"].as_str().map(str::to_owned)
}

fn two_hooks(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    stage.apply(vec![with(app.pod(), "containers", another(&app, "other"))])?;
    let pod = stage.ready_pod("web")?;
    let (short, long) = (stage.ask(&pod, 5_000)?, stage.ask_at(&pod, 8081, 20_000)?);
    stage.delete("pod/web", &[])?;
    short.answered()?;
    let answer = long.answered()?;
    stage.ends_as("web", "drained")?;
    stage.goes_after(&pod, answer, 20.0)
}

/// A hook holds its own container alone: what `lastcall check` warns of.
fn one_without(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    let mut other = another(&app, "other");
    other["lifecycle"] = Value::Null;
    stage.apply(vec![with(app.pod(), "containers", other)])?;
    let pod = stage.ready_pod("web")?;
    let kept = stage.ask(&pod, WORK)?;
    let lost = stage.ask_at(&pod, 8081, 60_000)?;
    stage.delete("pod/web", &[])?;
    lost.cut()?;
    kept.answered()?;
    stage.ends_as("web", "drained")
}

/// Sidecars get SIGTERM after the main containers have ended, so requests through one survive too.
fn sidecar(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    let mut other = another(&app, "sidecar");
    other["lifecycle"] = Value::Null;
    other["restartPolicy"] = json!("Always");
    stage.apply(vec![with(app.pod(), "initContainers", other)])?;
    let pod = stage.ready_pod("web")?;
    let through = stage.ask_at(&pod, 8081, WORK)?;
    stage.delete("pod/web", &[])?;
    through.answered()?;
    stage.ends_as("web", "drained")?;
    stage.gone(&pod, SOON)?;
    let all = stage.pods.all();
    let last = all.get(pod.uid());
    ensure!(last.is_some_and(|pod| ended(pod, "app").is_some()), "the app's end was not seen");
    Ok(())
}
