//! Parts of the node that go away while a pod drains.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::{SOON, Stage};
use super::{Scenario, recovery, scenario};
use crate::app::{App, Hook};
use crate::cluster::Change;

pub(super) const ALL: &[Scenario] = &[
    scenario("kubelet_restarted_during_a_hook", kubelet).on_our_node(),
    scenario("kube_proxy_stopped_during_a_drain", kube_proxy).on_our_node(),
    scenario("api_server_stopped_for_a_minute", api_server).on_our_node().long(),
];

/// The next kubelet calls the hook again, and joins the drain that runs.
fn kubelet(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 20_000)?;
    stage.draining("web")?;
    stage.cluster.component("kubelet", Change::Kill)?;
    stage.cluster.component("kubelet", Change::Start)?;
    let answer = ask.answered()?;
    stage.ends_as("web", "drained")?;
    stage.goes_after(&pod, answer, 40.0)
}

/// New connections go on coming to the pod, because nothing takes it out of the rules: they must be served
/// for as long as its grace allows.
fn kube_proxy(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 16;
    stage.apply(vec![app.deployment(1), app.service("NodePort", Some("Cluster"))])?;
    let pod = stage.ready_pod("web")?;
    let mut load = stage.load("web", 20.0)?;
    load.begins()?;
    stage.cluster.component("kube-proxy", Change::Stop)?;
    let played = (|| {
        stage.kubectl(&["set", "env", "deployment/web", "VERSION=2"])?;
        stage.draining(&pod.name)?;
        let outcome = stage.outcome(&pod.name, SOON)?;
        ensure!(outcome == "deadline", "connections came all the time, and the drain ended as `{outcome}`");
        Ok(())
    })();
    stage.cluster.component("kube-proxy", Change::Start)?;
    drop(load);
    played
}

/// Nobody can say what becomes of the pod; the drain goes on by what it knows, and the kubelet by what it does.
fn api_server(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 120;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 45_000)?;
    stage.draining("web")?;
    stage.cluster.component("kube-apiserver", Change::Stop)?;
    // A minute is what the scenario is about.
    thread::sleep(Duration::from_secs(60));
    stage.cluster.component("kube-apiserver", Change::Start)?;
    ask.answered()?;
    stage.ends_as("web", "drained")?;
    // The kubelet tells the API of its pods again when its own back-off is over.
    stage.gone(&pod, 2 * SOON)?;
    recovery::wait(stage)
}
