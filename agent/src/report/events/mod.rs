//! Kubernetes Events (events.k8s.io/v1): what a person should see beside the pod.
//!
//! In: what went wrong with a drain. Out: an Event about that pod, or this node, and about nothing else.
//! Never in anybody's way: what cannot be written now is dropped and counted, and a failure to write
//! changes nothing. The same Event again becomes a series of the first.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use super::{labels::EventResult, metrics::Metrics};
use crate::{causes, moment::Moment};

mod budget;

use budget::Budget;

/// The `reportingController` of every Event.
const CONTROLLER: &str = "lastcall.dev/agent";
/// Events that wait to be written.
const WAITING_MAX: usize = 64;
/// The API server takes 1 kB.
const NOTE_MAX: usize = 1000;

/// Which Events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// None.
    None,
    /// What went wrong.
    Warnings,
    /// Each drain's end as well.
    All,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pod of this node.
    Pod {
        /// metadata.namespace, and the Event's own.
        namespace: String,
        /// metadata.name
        name: String,
        /// metadata.uid
        uid: String,
    },
    /// This node.
    Node,
}

/// What an Event says in one word; the same as people filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The grace was used up.
    DrainDeadline,
    /// A closed loop of clients, which no waiting ends.
    DrainBusy,
    /// The pod's end cut connections.
    ConnectionsCut,
    /// Routing takes longer to settle than the pod's grace leaves.
    SettleExceedsGrace,
    /// Hooks found no agent, and slept.
    AgentWasAbsent,
    /// It drained.
    Drained,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::DrainDeadline => "DrainDeadline",
            Self::DrainBusy => "DrainBusy",
            Self::ConnectionsCut => "ConnectionsCut",
            Self::SettleExceedsGrace => "SettleExceedsGrace",
            Self::AgentWasAbsent => "AgentWasAbsent",
            Self::Drained => "Drained",
        }
    }

    fn is_warning(self) -> bool {
        self != Self::Drained
    }
}

struct Told {
    subject: Subject,
    reason: Reason,
    note: String,
}

/// Takes what is to be written. Clones write to the same place.
#[derive(Clone)]
pub struct Events {
    to: Option<mpsc::Sender<Told>>,
    level: Level,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Writes nothing: there is no cluster.
    pub fn nowhere(metrics: Arc<Metrics>) -> Self {
        Self { to: None, level: Level::None, metrics }
    }

    /// Writes from now on, in a task of the runtime.
    pub fn start(client: Client, node: &str, level: Level, metrics: Arc<Metrics>) -> Self {
        let (to, told) = mpsc::channel(WAITING_MAX);
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.to_owned()) };
        let writer = Writer {
            recorder: Recorder::new(client, reporter),
            node: node.to_owned(),
            metrics: Arc::clone(&metrics),
        };
        tokio::spawn(writer.run(told));
        Self { to: Some(to), level, metrics }
    }

    /// Has an Event written, if there is room for it; `note` is one sentence for people.
    pub fn tell(&self, subject: Subject, reason: Reason, note: impl Into<String>) {
        let wanted = match self.level {
            Level::None => false,
            Level::Warnings => reason.is_warning(),
            Level::All => true,
        };
        let Some(to) = self.to.as_ref().filter(|_| wanted) else { return };
        let mut note = note.into();
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
        }
        if to.try_send(Told { subject, reason, note }).is_err() {
            self.metrics.event(EventResult::Dropped);
        }
    }
}

struct Writer {
    recorder: Recorder,
    node: String,
    metrics: Arc<Metrics>,
}

impl Writer {
    async fn run(self, mut told: mpsc::Receiver<Told>) {
        let mut budget = Budget::new(Moment::now());
        while let Some(Told { subject, reason, note }) = told.recv().await {
            let regarding = self.reference(subject);
            let uid = regarding.uid.clone().unwrap_or_default();
            if !budget.take(&uid, Moment::now()) {
                self.metrics.event(EventResult::Dropped);
                continue;
            }
            let event = Event {
                type_: if reason.is_warning() { EventType::Warning } else { EventType::Normal },
                reason: reason.as_str().to_owned(),
                note: Some(note),
                action: "Drain".to_owned(),
                secondary: None,
            };
            match self.recorder.publish(&event, &regarding).await {
                Ok(()) => self.metrics.event(EventResult::Written),
                Err(error) => {
                    self.metrics.event(EventResult::Failed);
                    // Mostly a namespace that is being deleted, which takes no Events.
                    tracing::debug!(error = %causes(&error), "an Event was not written");
                }
            }
        }
    }

    fn reference(&self, subject: Subject) -> ObjectReference {
        let api_version = Some("v1".to_owned());
        match subject {
            Subject::Pod { namespace, name, uid } => ObjectReference {
                api_version,
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                uid: Some(uid),
                ..ObjectReference::default()
            },
            // The kubelet's own Events name the node by this "UID", and `kubectl describe node` looks for it.
            Subject::Node => ObjectReference {
                api_version,
                kind: Some("Node".to_owned()),
                name: Some(self.node.clone()),
                uid: Some(self.node.clone()),
                ..ObjectReference::default()
            },
        }
    }
}
