//! After the API server was away: the node's components work again, shown by what they do.
//!
//! client-go's watches come back 30 to 60 s after an absence of a minute: each waits out its own back-off
//! (`NewReflectorWithOptions`: 800 ms, doubled up to 30 s, with a jitter of as much again). Until then the
//! controllers and the kubelet do not hear of anything, which would be the next scenario's trouble, or that of
//! the agent's removal. Components that start anew have no back-off.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::stage::Stage;
use crate::app::{App, Hook, list};
use crate::cluster::Change;

/// Those that have watches, but the agent, which is there all the time.
const WATCHERS: [&str; 4] = ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
/// A workload's way from its manifest to a ready pod and back, on a loaded machine.
const LIFE: Duration = Duration::from_secs(180);

/// Starts the components anew, and returns when they have made a DaemonSet's pod and taken it away again with
/// its namespace, and the agent is ready.
pub(super) fn wait(stage: &Stage<'_>) -> Result<()> {
    for component in WATCHERS {
        stage.cluster.component(component, Change::Stop)?;
        if component == "kube-proxy" {
            stage.cluster.proxy_rules_away()?;
        }
        stage.cluster.component(component, Change::Start)?;
    }
    life(stage).context("the node does not work again after its API server came back")?;
    stage.agent.ready()?;
    // Its watch has a back-off too, and until that is over it does not know the next scenario's pods.
    stage.agent.renew()
}

/// A DaemonSet, as the agent is one: controllers, kubelet and garbage collector have a part in its life.
fn life(stage: &Stage<'_>) -> Result<()> {
    let namespace = format!("{}-after", stage.namespace);
    let mut set = App::new("canary", Hook::None).deployment(1);
    set["kind"] = json!("DaemonSet");
    if let Some(spec) = set["spec"].as_object_mut() {
        spec.remove("strategy");
        spec.remove("replicas");
    }
    let there = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    stage.cluster.apply(&there.to_string())?;
    let seconds = format!("--timeout={}s", LIFE.as_secs());
    let limit = LIFE + Duration::from_secs(10);
    let kubectl = |words: &[&str]| stage.cluster.kubectl_with(words, "", limit);
    kubectl(&["-n", &namespace, "wait", "--for=create", "serviceaccount/default", &seconds])?;
    stage.cluster.apply(&list(&namespace, vec![set]))?;
    kubectl(&["-n", &namespace, "rollout", "status", "daemonset/canary", &seconds])?;
    kubectl(&["-n", &namespace, "delete", "daemonset/canary", "--wait=true", &seconds])?;
    kubectl(&["delete", "namespace", &namespace, "--wait=true", &seconds]).map(drop)
}
