//! The ways in which a pod is stopped, and the one in which it is not: a container's restart.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{LONG, SOON, Stage, between};
use super::{Scenario, scenario};
use crate::app::{App, Hook};

pub(super) const ALL: &[Scenario] = &[
    scenario("delete_waits_for_a_request", delete),
    scenario("rolling_update_fails_nothing", rolling_update),
    scenario("eviction_waits_for_a_request", eviction),
    scenario("scale_to_zero_waits_for_requests", scale_to_zero),
    scenario("active_deadline_waits_for_a_request", active_deadline).long(),
    scenario("liveness_kill_of_one_container_is_a_restart", liveness_kill),
    scenario("liveness_kill_beside_another_is_a_restart", liveness_kill_beside_another),
    scenario("force_ends_the_wait", force),
    scenario("a_second_shorter_delete_ends_the_wait", second_delete),
    scenario("short_grace_leaves_a_reserve", short_grace),
    scenario("grace_of_an_hour", grace_of_an_hour).long(),
    scenario("pod_younger_than_a_second", young),
    scenario("ignores_sigterm", ignores_sigterm),
    scenario("drains_by_itself", drains_by_itself),
    scenario("preemption_waits_for_a_request", preemption).alone(),
    scenario("kubectl_drain_waits_for_requests", kubectl_drain).alone(),
];

/// How long the requests take that a stop has to wait for.
const WORK: u32 = 8_000;

fn delete(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 90;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 20_000)?;
    let answer = ask.answered()?;
    stage.ends_as("web", "drained")?;
    stage.goes_after(&pod, answer, 20.0)
}

fn rolling_update(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    stage.apply(vec![app.deployment(2), app.service("ClusterIP", None)])?;
    let old = stage.ready("web", 2)?;
    let asks = [stage.ask(&old[0], WORK)?, stage.ask(&old[1], WORK)?];
    stage.kubectl(&["set", "env", "deployment/web", "VERSION=2"])?;
    for ask in asks {
        ask.answered()?;
    }
    for pod in &old {
        stage.ends_as(&pod.name, "drained")?;
        stage.gone(pod, SOON)?;
    }
    stage.ready("web", 2).map(drop)
}

fn eviction(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![App::new("web", Hook::Drain("")).pod()])?;
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, WORK)?;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": { "name": "web", "namespace": stage.namespace },
    });
    let path = format!("/api/v1/namespaces/{}/pods/web/eviction", stage.namespace);
    stage.cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string(), SOON)?;
    ask.answered()?;
    stage.ends_as("web", "drained")
}

fn scale_to_zero(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    stage.apply(vec![app.deployment(2), app.service("NodePort", Some("Cluster"))])?;
    let old = stage.ready("web", 2)?;
    let asks = [stage.ask(&old[0], WORK)?, stage.ask(&old[1], WORK)?];
    stage.kubectl(&["scale", "deployment/web", "--replicas=0"])?;
    for ask in asks {
        ask.answered()?;
    }
    old.iter().try_for_each(|pod| stage.ends_as(&pod.name, "drained"))
}

/// No deletionTimestamp, no condition: only the kubelet knows that the pod ends.
fn active_deadline(stage: &Stage<'_>) -> Result<()> {
    let mut pod = App::new("web", Hook::Drain("")).pod();
    pod["spec"]["activeDeadlineSeconds"] = json!(45);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.apply(vec![pod])?;
    let pod = stage.ready_pod("web")?;
    let started =
        pod.object["status"]["startTime"].as_str().context("no startTime")?.parse::<jiff::Timestamp>()?;
    let left = 45.0 - jiff::Timestamp::now().duration_since(started).as_secs_f64();
    ensure!(left > 2.0, "this machine is too slow: the pod has {left:.1} s left");
    let ask = stage.ask(&pod, (left * 1000.0) as u32 + 6_000)?;
    ask.answered()?;
    stage.ends_as("web", "drained")
}

pub(super) fn with_liveness(mut pod: Value) -> Value {
    // The app answers that it is ill at once; one that is late is not ill.
    pod["spec"]["containers"][0]["livenessProbe"] = json!({
        "httpGet": { "path": "/healthz", "port": 8080 },
        "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 2,
    });
    pod
}

/// Of the pods whose containers are restarted: by far more than a restart may take.
const GRACE: u32 = 120;

/// The container alone is restarted, so a request on it is lost anyway; each second of waiting is one of an
/// app that does not work.
fn liveness_kill(stage: &Stage<'_>) -> Result<()> {
    stage.apply(vec![with_liveness(App { grace: GRACE, ..App::new("web", Hook::Drain("")) }.pod())])?;
    restarts(stage)
}

fn liveness_kill_beside_another(stage: &Stage<'_>) -> Result<()> {
    let app = App { grace: GRACE, ..App::new("web", Hook::Drain("")) };
    let mut pod = with_liveness(app.pod());
    let mut other = app.container();
    other["name"] = json!("other");
    other["env"] = json!([{ "name": "PORT", "value": "8081" }]);
    other["ports"] = json!([{ "containerPort": 8081 }]);
    other["readinessProbe"] = Value::Null;
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        containers.push(other);
    }
    stage.apply(vec![pod])?;
    restarts(stage)
}

fn restarts(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.ready_pod("web")?;
    let ask = stage.ask(&pod, 100_000)?;
    let begun = std::time::Instant::now();
    stage.kubectl(&["exec", "web", "-c", "app", "--", "/app", "get", "http://127.0.0.1:8080/ill"])?;
    stage.restarted(&pod, "app")?;
    // Seconds where nothing else is to do; who waited for the request would take all of the grace.
    between("the restart", begun.elapsed().as_secs_f64(), 0.0, 45.0)?;
    ask.cut()?;
    stage.ends_as("web", "restart")
}

/// The object goes at once; the kubelet would wait for the hook, whatever comes after it.
fn force(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 120;
    let (_, ask, _) = stage.deleted_while_asked(&app, 110_000)?;
    stage.draining("web")?;
    stage.delete("pod/web", &["--force", "--grace-period=0"])?;
    // The grace becomes 0, then the object goes: which of the two the agent hears first is not ours to say.
    let outcome = stage.outcome("web", SOON)?;
    ensure!(["forced", "deadline", "gone"].contains(&outcome.as_str()), "the drain ended as `{outcome}`");
    between("the cut of the request", ask.cut()?, 0.0, 60.0)
}

fn second_delete(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 300;
    let (pod, ask, deleted) = stage.deleted_while_asked(&app, 120_000)?;
    stage.draining("web")?;
    stage.delete("pod/web", &["--grace-period=12"])?;
    stage.ends_as("web", "deadline")?;
    ask.cut()?;
    between("the pod's end", stage.gone(&pod, SOON)? - deleted, 5.0, 80.0)
}

fn short_grace(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 4;
    let (pod, ask, deleted) = stage.deleted_while_asked(&app, 60_000)?;
    stage.ends_as("web", "deadline")?;
    ask.cut()?;
    let events = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(!events.contains("FailedPreStopHook"), "the kubelet says that the hook failed: {events}");
    between("the pod's end", stage.gone(&pod, SOON)? - deleted, 2.5, 30.0)
}

fn grace_of_an_hour(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 3600;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 40_000)?;
    let answer = ask.answered()?;
    stage.ends_as("web", "drained")?;
    stage.goes_after(&pod, answer, 20.0)
}

/// It may have no address yet that anybody knows; the hook must not hang for that.
fn young(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 120;
    stage.apply(vec![app.pod()])?;
    let pod = stage.pods.wait(SOON, "a running container", |all| {
        let pod = all.values().find(|pod| pod.namespace == stage.namespace)?;
        (pod.object["status"]["phase"] == "Running").then(|| pod.clone())
    })?;
    let deleted = stage.delete("pod/web", &[])?;
    between("the pod's end", stage.gone(&pod, SOON)? - deleted, 0.0, 45.0)
}

fn ignores_sigterm(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain(""));
    app.env.push(("IGNORE", "1"));
    app.grace = 12;
    stage.apply(vec![app.pod()])?;
    let pod = stage.ready_pod("web")?;
    let deleted = stage.delete("pod/web", &[])?;
    stage.ends_as("web", "drained")?;
    between("the pod's end", stage.gone(&pod, SOON)? - deleted, 10.0, 45.0)
}

/// With `until=settled` the app is told as soon as no new connection comes, and finishes by itself.
fn drains_by_itself(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::Drain("?until=settled"));
    app.env.push(("GRACEFUL", "1"));
    app.grace = 90;
    let (_, ask, _) = stage.deleted_while_asked(&app, 30_000)?;
    stage.ends_as("web", "drained")?;
    ask.still_waits("the drain has ended")?;
    ask.answered().map(drop)
}

/// The API shows nothing of a preemption until the containers have ended.
fn preemption(stage: &Stage<'_>) -> Result<()> {
    let node: Value = serde_json::from_str(&stage.cluster.kubectl(&["get", "nodes", "-o", "json"])?)?;
    let node = &node["items"][0];
    let name = node["metadata"]["name"].as_str().context("the node's name")?;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().context("allocatable")?;
    let millis: u64 = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse()?,
        None => cpu.parse::<u64>()? * 1000,
    };
    let request = format!("{}m", millis * 6 / 10);
    let resources = json!({ "requests": { "cpu": request } });
    let mut victim = App::new("victim", Hook::Drain("")).pod();
    victim["spec"]["containers"][0]["resources"] = resources.clone();
    stage.apply(vec![victim])?;
    let pod = stage.ready_pod("victim")?;
    let ask = stage.ask(&pod, WORK)?;
    let mut critical = App::new("critical", Hook::None).pod();
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    critical["spec"]["nodeName"] = json!(name);
    critical["spec"]["containers"][0]["resources"] = resources;
    stage.apply(vec![critical])?;
    ask.answered()?;
    let outcome = stage.outcome("victim", SOON)?;
    ensure!(outcome != "restart", "a preemption was taken for a restart");
    // The app ends well, so its pod does.
    stage.sees(&pod, SOON, "its end", |pod| (pod.object["status"]["phase"] == "Succeeded").then_some(()))
}

fn kubectl_drain(stage: &Stage<'_>) -> Result<()> {
    let app = App::new("web", Hook::Drain(""));
    stage.apply(vec![app.deployment(2), app.service("ClusterIP", None)])?;
    let old = stage.ready("web", 2)?;
    let asks = [stage.ask(&old[0], WORK)?, stage.ask(&old[1], WORK)?];
    let node = stage.cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let drained = stage.cluster.kubectl_with(
        &[
            "drain",
            &node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--pod-selector=app=web",
            "--timeout=120s",
        ],
        "",
        LONG,
    );
    stage.cluster.kubectl(&["uncordon", &node])?;
    drained?;
    for ask in asks {
        ask.answered()?;
    }
    old.iter().try_for_each(|pod| stage.ends_as(&pod.name, "drained"))
}
