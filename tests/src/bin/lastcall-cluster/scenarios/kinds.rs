//! Kinds of workloads, Services and namespaces.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::stage::{SOON, Stage, between};
use super::{Scenario, scenario};
use crate::app::{App, Hook};
use crate::pods::Seen;

pub(super) const ALL: &[Scenario] = &[
    scenario("stateful_set_waits_for_a_request", stateful_set),
    scenario("job_waits_for_a_request", job),
    scenario("headless_waits_for_names_to_expire", headless).long(),
    scenario("pod_security_baseline_admits_the_hook", baseline)
        .labelled(|| json!({ "pod-security.kubernetes.io/enforce": "baseline" })),
    scenario("pod_security_restricted_admits_the_hook", restricted)
        .labelled(|| json!({ "pod-security.kubernetes.io/enforce": "restricted" })),
    scenario("host_network_names_its_pod", host_network),
    scenario("host_network_names_its_workload", workload).long(),
    scenario("static_pod_waits_for_a_request", static_pod).with_our_node().long(),
];

/// How long the requests take that a stop has to wait for.
const WORK: u32 = 8_000;

fn stateful_set(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    let mut set = app.deployment(1);
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("web");
    if let Some(spec) = set["spec"].as_object_mut() {
        spec.remove("strategy");
    }
    stage.apply(vec![set, app.service("ClusterIP", None)])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, WORK)?;
    stage.kubectl(&["set", "env", "statefulset/web", "VERSION=2"])?;
    ask.answered()?;
    stage.ends_as("web-0", "drained")?;
    stage.gone(&pod, SOON)?;
    // Another pod of the same name, which is not Terminating.
    let next = stage.ready_pod("web")?;
    ensure!(next.uid() != pod.uid(), "the old pod is ready again");
    Ok(())
}

fn job(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    let mut spec = app.spec();
    spec["restartPolicy"] = json!("Never");
    stage.apply(vec![json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "web" },
        "spec": { "template": { "metadata": { "labels": { "app": "web" } }, "spec": spec } },
    })])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, WORK)?;
    stage.delete("job/web", &[])?;
    ask.answered()?;
    stage.ends_as(&pod.name, "drained")
}

/// Clients that resolved the name may come until it expires, and nothing but time shows that none will.
fn headless(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 120;
    let mut service = app.service("ClusterIP", None);
    service["spec"]["clusterIP"] = json!("None");
    stage.apply(vec![app.pod(), service])?;
    let pod = stage.ready_pod("web")?;
    let deleted = stage.delete("pod/web", &[])?;
    stage.ends_as("web", "drained")?;
    between("the pod's end", stage.gone(&pod, SOON)? - deleted, 29.0, 75.0)
}

fn baseline(stage: &Stage<'_>) -> Result<()> {
    admitted(stage)
}

fn restricted(stage: &Stage<'_>) -> Result<()> {
    admitted(stage)
}

fn admitted(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![App::new("web", Hook::Drain("")).pod()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, WORK)?;
    stage.delete("pod/web", &[])?;
    ask.answered()?;
    stage.ends_as("web", "drained")
}

/// Its address is the node's, so the hook says whose it is.
fn host_network(stage: &Stage<'_>) -> Result<()> {
    let path = format!("/drain/{}/web", stage.namespace);
    let mut app = App::new("web", Hook::ByName(path));
    app.env.push(("PORT", "18080"));
    let mut pod = app.pod();
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 18080 }]);
    pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!(18080);
    stage.apply(vec![pod])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask_at(&pod, 18080, WORK)?;
    stage.delete("pod/web", &[])?;
    ask.answered()?;
    stage.ends_as("web", "drained")
}

/// A template cannot name its pods. The hook that names the workload is answered when all of its pods here that
/// are Terminating have drained, whichever of them it is the hook of.
fn workload(stage: &Stage<'_>) -> Result<()> {
    let version = |port: u16| {
        let mut app = App::new("web", Hook::ByName(format!("/drain/{}/deployment/web", stage.namespace)));
        app.grace = 60;
        let mut deployment = app.deployment(1);
        let spec = &mut deployment["spec"]["template"]["spec"];
        spec["hostNetwork"] = json!(true);
        spec["containers"][0]["env"] = json!([{ "name": "PORT", "value": port.to_string() }]);
        spec["containers"][0]["ports"] = json!([{ "containerPort": port }]);
        spec["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!(port);
        deployment
    };
    stage.apply(vec![version(18_181)])?;
    let first = stage.ready_pod("web")?;
    let long = stage.ask_at(&first, 18_181, 20_000)?;
    stage.apply(vec![version(18_182)])?;
    stage.draining(&first.name)?;
    // The watch may not have shown yet that the first is going.
    let second = stage.pods.wait(SOON, "the second pod", |all| {
        let ours = |pod: &&Seen| pod.namespace == stage.namespace && pod.uid() != first.uid();
        all.values().find(|pod| ours(pod) && pod.is_ready()).cloned()
    })?;
    let short = stage.ask_at(&second, 18_182, 4_000)?;
    stage.apply(vec![version(18_183)])?;
    short.answered()?;
    stage.ends_as(&second.name, "drained")?;
    let answered = long.answered()?;
    stage.ends_as(&first.name, "drained")?;
    for pod in [&first, &second] {
        let gone = stage.sees(pod, SOON, "its end", |pod| pod.gone)?;
        ensure!(gone > answered, "{} went before its workload had drained", pod.name);
    }
    Ok(())
}

/// The kubelet runs it from a file, and the API has only its mirror.
fn static_pod(stage: &Stage<'_>) -> Result<()> {
    let mut pod = App::new("web", Hook::Drain("")).pod();
    pod["metadata"]["namespace"] = json!(stage.namespace);
    let folder = stage.cluster.home().node().join("static-pods");
    let file = folder.join(format!("{}.json", stage.namespace));
    // Written beside and moved, so that the kubelet never reads half of it.
    let beside = stage.cluster.home().node().join("static-pod.json");
    fs::write(&beside, pod.to_string())?;
    fs::rename(&beside, &file).with_context(|| file.display().to_string())?;
    let played = (|| {
        let pod = stage.ready_pod("web")?;
        let ask = stage.ask(&pod, 25_000)?;
        fs::remove_file(&file)?;
        ask.answered()?;
        stage.ends_as(&pod.name, "drained")
    })();
    let _ = fs::remove_file(&file);
    played
}
