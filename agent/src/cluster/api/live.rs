//! Questions to the API server that its caches do not answer: how a pod, its node and its Events are now.
//!
//! In: names. Out: what the answers say about a stop, as plain values; `drain` judges them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, api::ListParams};

use crate::cluster::PodName;

/// Nobody waits longer for an answer: what it would change is decided without it.
const PATIENCE: Duration = Duration::from_secs(3);
/// More Events of one pod say nothing new.
const EVENTS_MAX: u32 = 100;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server does not answer, or answers with an error of its own. Retried by whoever asks again.
    #[error("the API server does not answer")]
    Unreachable(#[source] Option<Box<kube::Error>>),
    /// The agent lacks the right.
    #[error("the API server refuses")]
    Refused(#[source] Box<kube::Error>),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Refused(Box::new(error)),
            _ => Self::Unreachable(Some(Box::new(error))),
        }
    }
}

/// How a pod is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNow {
    /// It has a deletionTimestamp or the condition DisruptionTarget, or is another one or none.
    pub stops: bool,
    /// When each container that runs was started, in seconds of the kubelet's clock.
    pub started: BTreeMap<String, i64>,
}

/// How the node is now, as far as it concerns its pods' end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeNow {
    /// Nothing is known against it.
    Fine,
    /// It shuts down.
    ShuttingDown,
    /// It lacks memory, disk or process ids, and evicts pods.
    UnderPressure,
}

/// What one of a pod's Events says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its UID and how often it has been said by now: each kill counts one up.
    pub id: (String, i32),
    /// The container that it is about.
    pub container: Option<String>,
    /// When it was said last, in seconds of the kubelet's clock.
    pub at: i64,
    /// What.
    pub what: Ending,
}

/// What an Event says of a pod or container that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The container is killed, and will be restarted.
    Restart,
    /// The pod stops.
    Stop,
}

/// Asks the API server about this node and its pods.
pub struct Live {
    client: Client,
    node: String,
}

impl Live {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// There is no such pod any more: no object, or another under its name.
    pub(super) async fn is_gone(&self, name: &PodName, uid: &str) -> Result<bool, Error> {
        Ok(self.get(name, uid).await?.is_none())
    }

    /// The pod by a quorum read; the one of another UID is another pod.
    async fn get(&self, name: &PodName, uid: &str) -> Result<Option<Pod>, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client(), &name.namespace);
        let pod = soon(pods.get_opt(&name.name)).await?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)))
    }

    /// How a pod is now.
    pub async fn pod(&self, name: &PodName, uid: &str) -> Result<PodNow, Error> {
        Ok(self.get(name, uid).await?.map_or(PodNow { stops: true, ..PodNow::default() }, |pod| now(&pod)))
    }

    /// How this node is now.
    pub async fn this_node(&self) -> Result<NodeNow, Error> {
        let nodes: Api<Node> = Api::all(self.client());
        Ok(soon(nodes.get_opt(&self.node)).await?.map_or(NodeNow::Fine, |node| condition(&node)))
    }

    /// What the Events of a pod say of its end.
    pub async fn events(&self, name: &PodName, uid: &str) -> Result<Vec<Said>, Error> {
        let events: Api<Event> = Api::namespaced(self.client(), &name.namespace);
        let of = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(EVENTS_MAX);
        Ok(soon(events.list(&of)).await?.items.iter().filter_map(said).collect())
    }
}

/// The answer, if it comes soon.
pub(super) async fn soon<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Unreachable(None)),
    }
}

fn now(pod: &Pod) -> PodNow {
    let status = pod.status.as_ref();
    let disrupted = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True"));
    let statuses = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    let started = statuses.filter_map(|container| {
        let running = container.state.as_ref()?.running.as_ref()?;
        Some((container.name.clone(), seconds(running.started_at.as_ref()?)))
    });
    PodNow { stops: pod.metadata.deletion_timestamp.is_some() || disrupted, started: started.collect() }
}

/// `Ready=False` with this message is how the kubelet announces that it shuts the node down
/// (`nodestatus/setters.go: ReadyCondition`).
fn condition(node: &Node) -> NodeNow {
    let conditions = || node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let down = conditions().any(|c| {
        c.type_ == "Ready"
            && c.status == "False"
            && c.message.as_deref().is_some_and(|m| m.contains("node is shutting down"))
    });
    let lacks = conditions().any(|c| {
        matches!(c.type_.as_str(), "MemoryPressure" | "DiskPressure" | "PIDPressure") && c.status == "True"
    });
    match (down, lacks) {
        (true, _) => NodeNow::ShuttingDown,
        (false, true) => NodeNow::UnderPressure,
        (false, false) => NodeNow::Fine,
    }
}

/// The words are the kubelet's (`kuberuntime_container.go: killContainer`, `eviction_manager.go`,
/// `preemption.go`).
fn said(event: &Event) -> Option<Said> {
    let message = event.message.as_deref().unwrap_or_default();
    let what = match event.reason.as_deref()? {
        "Killing" if message.contains("will be restarted") => Ending::Restart,
        "Killing" if message.starts_with("Stopping container") => Ending::Stop,
        "Evicted" | "Preempting" => Ending::Stop,
        _ => return None,
    };
    let at = event.last_timestamp.as_ref().map(seconds);
    let at = at.or_else(|| event.event_time.as_ref().map(|time| time.0.as_second()))?;
    let path = event.involved_object.field_path.as_deref().unwrap_or_default();
    Some(Said {
        id: (event.metadata.uid.clone()?, event.count.unwrap_or(1)),
        // `spec.containers{app}`
        container: path.split_once('{').and_then(|(_, name)| name.strip_suffix('}')).map(str::to_owned),
        at,
        what,
    })
}

fn seconds(time: &Time) -> i64 {
    time.0.as_second()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(reason: &str, message: &str) -> Value {
        json!({"metadata": {"uid": "e1", "namespace": "n", "name": "e"}, "reason": reason, "message": message,
               "involvedObject": {"fieldPath": "spec.containers{app}"}, "count": 3,
               "lastTimestamp": "2026-11-20T09:00:05Z"})
    }

    #[test]
    fn the_kubelets_words() {
        let rows = [
            ("Killing", "Container app failed liveness probe, will be restarted", Some(Ending::Restart)),
            ("Killing", "Container app definition changed, will be restarted", Some(Ending::Restart)),
            ("Killing", "Stopping container app", Some(Ending::Stop)),
            ("Killing", "something else", None),
            ("Evicted", "The node was low on resource: memory.", Some(Ending::Stop)),
            ("Preempting", "Preempted in order to admit critical pod", Some(Ending::Stop)),
            ("Unhealthy", "Liveness probe failed", None),
        ];
        for (reason, message, want) in rows {
            let event: Event = serde_json::from_value(event(reason, message)).unwrap();
            assert_eq!(said(&event).map(|said| said.what), want, "{reason}: {message}");
        }
        let event: Event = serde_json::from_value(event("Evicted", "")).unwrap();
        let got = said(&event).unwrap();
        assert_eq!((got.id, got.container.as_deref()), (("e1".into(), 3), Some("app")));
    }

    #[test]
    fn the_nodes_conditions() {
        let ready =
            |status: &str, message: &str| json!({"type": "Ready", "status": status, "message": message});
        let pressure = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let rows = [
            (json!([]), NodeNow::Fine),
            (json!([ready("True", "")]), NodeNow::Fine),
            (json!([ready("False", "container runtime network not ready")]), NodeNow::Fine),
            (json!([ready("False", "node is shutting down")]), NodeNow::ShuttingDown),
            (
                json!([pressure("MemoryPressure", "False"), pressure("DiskPressure", "True")]),
                NodeNow::UnderPressure,
            ),
            (json!([pressure("PIDPressure", "Unknown")]), NodeNow::Fine),
        ];
        for (conditions, want) in rows {
            let node: Node =
                serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}}))
                    .unwrap();
            assert_eq!(condition(&node), want, "{conditions}");
        }
    }

    #[test]
    fn a_pod_that_stops_and_what_runs_in_it() {
        let running = json!({"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                             "state": {"running": {"startedAt": "1970-01-01T00:01:00Z"}}});
        let status = json!({"containerStatuses": [running]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        assert_eq!(now(&pod), PodNow { stops: false, started: [("app".into(), 60)].into() });
        let disrupted = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": disrupted})).unwrap();
        assert!(now(&pod).stops);
        let deleted = json!({"deletionTimestamp": "2026-11-20T09:00:05Z"});
        let pod: Pod = serde_json::from_value(json!({"metadata": deleted})).unwrap();
        assert!(now(&pod).stops);
    }
}
