//! The chart in a cluster, by helm itself, and the hook that a label gives.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::stage::{LONG, SOON, Stage};
use super::{Scenario, scenario};
use crate::agent::NAMESPACE;
use crate::app::{App, Hook, list};
use crate::run::output;

pub(super) const ALL: &[Scenario] = &[
    scenario("helm_installs_upgrades_and_uninstalls", helm).on_our_node().long(),
    scenario("a_label_gives_the_hook", label)
        .on_our_node()
        .labelled(|| serde_json::json!({ "lastcall.dev/inject": "true" })),
];

/// helm waits for every pod, on a loaded machine.
const HELM: Duration = Duration::from_secs(200);
/// What the agent leaves on a node on purpose.
const PINS: &str = "/sys/fs/bpf/lastcall";

/// `helm install`, `upgrade` and `uninstall`, as `deploy/README.md` has them, instead of the manifests.
fn helm(stage: &Stage<'_>) -> Result<()> {
    stage.agent.remove()?;
    let played = by_helm(stage);
    // A release is in the way of the manifests; which one is still there depends on where the play ended.
    for namespace in ["default", NAMESPACE] {
        let all = ["uninstall", "lastcall", "--ignore-not-found", "--wait", "--timeout=180s"];
        let _ = run_helm(stage, &[&all[..], &["-n", namespace]].concat());
    }
    stage.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"])?;
    let waited = no_namespace(stage);
    stage.agent.apply()?;
    played.and(waited)
}

fn by_helm(stage: &Stage<'_>) -> Result<()> {
    let chart = deploy()?.join("chart/lastcall");
    let chart = chart.to_str().context("a path that is no text")?;
    // As the image is called here, no value is needed.
    run_helm(stage, &["install", "lastcall", chart, "--wait", "--timeout=180s"])?;
    // Ready is enough for helm. Kubernetes forgets an update that begins before the agent counts as available
    // (minReadySeconds) until something else happens to the DaemonSet.
    stage.agent.ready()?;
    let agents = ["-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=lastcall", "-o", "json"];
    let count = |text: String| -> Result<Vec<Value>> {
        let found: Value = serde_json::from_str(&text)?;
        Ok(found["items"].as_array().cloned().unwrap_or_default())
    };
    let first = count(stage.cluster.kubectl(&agents)?)?;
    ensure!(first.len() == 1, "{} agents on one node", first.len());

    // An upgrade in the middle of a drain, which outlasts what the old agent may go on for.
    let mut app = App::new("web", Hook::Drain(""));
    app.grace = 180;
    let (pod, ask, _) = stage.deleted_while_asked(&app, 75_000)?;
    // The hook comes while one agent hands over to the next.
    stage.draining("web")?;
    stage.agent.remember()?;
    let changed = ["--reuse-values", "--set=flags.min-settle=3s", "--wait", "--timeout=180s"];
    run_helm(stage, &[&["upgrade", "lastcall", chart], &changed[..]].concat())?;
    ask.still_waits("the upgrade was not in the middle of the drain: it was done")?;
    let answer = ask.answered().context("the request that was in flight when the chart was upgraded")?;
    let reasons = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(!reasons.contains("FailedPreStopHook"), "the kubelet says that the hook failed");
    stage.goes_after(&pod, answer, 40.0)?;
    let next = count(stage.cluster.kubectl(&agents)?)?;
    let next: Vec<&Value> =
        next.iter().filter(|agent| agent["metadata"]["deletionTimestamp"].is_null()).collect();
    ensure!(next.len() == 1 && next[0]["metadata"]["uid"] != first[0]["metadata"]["uid"], "no new agent");
    let flags = next[0]["spec"]["containers"][0]["args"].to_string();
    ensure!(flags.contains("--min-settle=3s"), "the value did not reach the agent: {flags}");
    ensure!(flags.contains("--last-call=auto"), "the chart's own value is gone: {flags}");

    // What outlives the release is there until it is asked to go.
    run_helm(stage, &["uninstall", "lastcall", "--wait", "--timeout=180s"])?;
    no_namespace(stage)?;
    ensure!(pinned(stage)?, "helm uninstall took {PINS} away, and hooks fail now");
    // As many install everything: the release in the namespace that helm makes for it.
    let there = ["-n", NAMESPACE, "--wait", "--timeout=180s"];
    run_helm(stage, &[&["install", "lastcall", chart, "--create-namespace"], &there[..]].concat())?;
    let asked = ["upgrade", "lastcall", chart, "--reuse-values", "--set=uninstall=true"];
    run_helm(stage, &[&asked, &there[..]].concat())?;
    ensure!(!pinned(stage)?, "helm says that it is done, and {PINS} is still there");
    Ok(())
}

/// A Deployment that says nothing of lastcall, in a namespace that asks, is rolled and fails nothing.
fn label(stage: &Stage<'_>) -> Result<()> {
    let file = deploy()?.join("inject/policy-v1beta1.yaml");
    let policy = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    stage.cluster.apply(&policy)?;
    let played = labelled(stage);
    stage.cluster.kubectl_with(&["delete", "--ignore-not-found", "-f", "-"], &policy, SOON)?;
    played
}

fn labelled(stage: &Stage<'_>) -> Result<()> {
    let mut app = App::new("web", Hook::None);
    app.env.push(("VERSION", "1"));
    // A policy counts some seconds after it was made.
    let until = Instant::now() + SOON;
    while !hooked(&dry_run(stage, stage.namespace, &app)?) {
        ensure!(Instant::now() < until, "the policy does not count after {} s", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(500));
    }
    ensure!(!hooked(&dry_run(stage, "default", &app)?), "a namespace without the label got the hook too");

    stage.apply(vec![app.deployment(2), app.service("NodePort", Some("Cluster"))])?;
    let old = stage.ready("web", 2)?;
    for pod in &old {
        ensure!(hooked(&pod.object), "{} has no hook", pod.name);
    }
    let mut load = stage.load("web", 20.0)?;
    load.begins()?;
    let asks = [stage.ask(&old[0], 8_000)?, stage.ask(&old[1], 8_000)?];
    stage.kubectl(&["set", "env", "deployment/web", "VERSION=2"])?;
    for ask in asks {
        ask.answered()?;
    }
    for pod in &old {
        stage.ends_as(&pod.name, "drained")?;
        stage.gone(pod, SOON)?;
    }
    stage.ready("web", 2)?;
    let report = load.finish()?;
    let failures = report.failures.iter().map(|f| f.error.as_str()).collect::<Vec<_>>();
    ensure!(report.failed == 0, "{} of {} requests failed: {failures:?}", report.failed, report.requests);
    ensure!(report.requests > 100, "a load of {} requests proves little", report.requests);
    let template = stage.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.spec.template}"])?;
    ensure!(!template.contains("preStop"), "the Deployment was changed: {template}");
    Ok(())
}

/// The pod that a namespace would make of this one.
fn dry_run(stage: &Stage<'_>, namespace: &str, app: &App) -> Result<Value> {
    let words = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let text = stage.cluster.kubectl_with(&words, &list(namespace, vec![app.pod()]), SOON)?;
    let made: Value = serde_json::from_str(&text)?;
    Ok(if made["kind"] == "List" { made["items"][0].clone() } else { made })
}

fn hooked(pod: &Value) -> bool {
    let get = &pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"];
    get["path"] == "/drain" && get["port"] == 9902
}

/// The checkout's `deploy/`.
fn deploy() -> Result<PathBuf> {
    let manifest = env::var_os("LASTCALL_E2E_MANIFEST").context("LASTCALL_E2E_MANIFEST is not set")?;
    Ok(PathBuf::from(manifest).parent().context("the manifest lies in a folder")?.to_owned())
}

/// Where the clients are, since there the checkout can be seen.
fn run_helm(stage: &Stage<'_>, words: &[&str]) -> Result<String> {
    let home = stage.cluster.home();
    let program = home.program("helm");
    ensure!(program.is_file(), "there is no {}: `cargo xtask e2e` makes it", program.display());
    let mut helm: Command = stage.cluster.client(program);
    let own = home.node().join("helm");
    helm.args(words).env("KUBECONFIG", home.node().join("pki/admin.kubeconfig"));
    helm.env("HELM_CACHE_HOME", &own).env("HELM_CONFIG_HOME", &own).env("HELM_DATA_HOME", &own);
    let said = output(&mut helm, "", HELM)?;
    if !said.status.success() {
        bail!("helm {}: {}", words.join(" "), String::from_utf8_lossy(&said.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// helm does not wait for what a namespace holds beside its own objects.
fn no_namespace(stage: &Stage<'_>) -> Result<()> {
    let words = ["wait", "--for=delete", "namespace/lastcall", "--timeout=120s"];
    stage.cluster.kubectl_with(&words, "", LONG).map(drop)
}

fn pinned(stage: &Stage<'_>) -> Result<bool> {
    Ok(output(stage.cluster.node("ls").arg(PINS), "", SOON)?.status.success())
}
