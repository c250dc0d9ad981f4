//! The values that labels can have: closed sets, and workloads up to a bound.
//!
//! A label is worth its cost only when somebody can write an alert or a question with it, and when
//! the number of its values is known beforehand.

use std::{collections::HashSet, sync::Mutex};

use serde::{Deserialize, Serialize};

/// Makes an enum whose values are a label's, and lists them all for the catalogue.
macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, as it is written.
            pub const ALL: &[&str] = &[$($text),+];

            /// The value as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

label! {
    /// How a drain ended.
    Outcome {
        /// Nothing that counts was left.
        Drained = "drained",
        /// A closed loop of clients, which no waiting ends.
        Busy = "busy",
        /// The grace was used up.
        Deadline = "deadline",
        /// The pod was deleted by force, or replaced.
        Forced = "forced",
        /// The container is only being restarted.
        Restart = "restart",
        /// Nothing of the pod was left to wait for.
        Gone = "gone",
    }
}

label! {
    /// Where a connection of a draining pod stands, the most pressing first.
    ConnectionState {
        /// A request without its complete answer, or one that must be taken for that.
        InFlight = "in_flight",
        /// Older than the drain, nothing certain known yet.
        Doubt = "doubt",
        /// Being closed, with data still on its way.
        Closing = "closing",
        /// Its client is gone without a word.
        Vanished = "vanished",
        /// Open, and not in flight.
        Idle = "idle",
    }
}

label! {
    /// How a client was told to leave.
    Announcement {
        /// `Connection: close`.
        Http1 = "http1",
        /// GOAWAY.
        Http2 = "http2",
    }
}

label! {
    /// Why a pod is judged by polling its sockets, without the kernel programs.
    Fallback {
        /// The kernel has no eBPF, or forbids it.
        NoEbpf = "no_ebpf",
        /// A link of the pod could not be attached to.
        AttachFailed = "attach_failed",
        /// Packets pass unseen: something before the programs ends their way.
        Blind = "blind",
        /// A connection found no place in the table.
        TableFull = "table_full",
        /// The pod shares the node's network namespace.
        HostNetwork = "host_network",
        /// `--attach none`.
        Forced = "forced",
    }
}

label! {
    /// Why a request to the hook's port was refused, or part of it left out of account.
    BadRequest {
        /// Not GET.
        Method = "method",
        /// No such path.
        Path = "path",
        /// It names no pod of this node.
        NoPod = "no_pod",
        /// An unknown or malformed parameter; the drain goes on by the defaults.
        Parameter = "parameter",
        /// Headers too long, too many or malformed.
        Headers = "headers",
        /// Headers that did not come in time.
        Slow = "slow",
        /// A body.
        Body = "body",
        /// More hooks than one pod or the node may hold.
        TooMany = "too_many",
        /// `Host` does not name the pod that the kernel says was dialled.
        Host = "host",
        /// A pod was dialled, and not by the kubelet.
        NotTheKubelet = "not_the_kubelet",
    }
}

label! {
    /// What became of a call to the hook's port, by the kernel's own count.
    HookCall {
        /// Led to the agent.
        Agent = "agent",
        /// Left alone: the pod listens on the port itself.
        PassedThrough = "passed_through",
        /// Left alone: the caller is not the kubelet.
        NotTheKubelet = "not_the_kubelet",
        /// Led to the agent without a name, because too many pods were dialled at once.
        NoName = "no_name",
    }
}

label! {
    /// What became of a Kubernetes Event.
    EventResult {
        /// It is there.
        Written = "written",
        /// Left out: too many of late.
        Dropped = "dropped",
        /// The API server did not take it.
        Failed = "failed",
    }
}

/// Whose drain it was, as far as metrics may tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// metadata.namespace
    pub namespace: String,
    /// The owner of the pod, `Deployment/web`; empty where it has none.
    pub workload: String,
}

/// What stands for every workload beyond the bound.
pub const OTHER: &str = "other";

/// The workloads that have a series of their own: the first `max` that came.
///
/// Jobs have a new name each time, so without a bound a node that runs them for a year would have as
/// many series. Series are never dropped: a counter that vanishes and comes back reads as a reset.
pub(crate) struct Workloads {
    seen: Mutex<HashSet<Labels>>,
    max: usize,
}

impl Workloads {
    pub(crate) fn new(max: usize) -> Self {
        Self { seen: Mutex::new(HashSet::new()), max }
    }

    /// The labels themselves, or `other` twice.
    pub(crate) fn bound<'a>(&self, labels: &'a Labels) -> [&'a str; 2] {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.contains(labels) || (seen.len() < self.max && seen.insert(labels.clone())) {
            [&labels.namespace, &labels.workload]
        } else {
            [OTHER, OTHER]
        }
    }
}
