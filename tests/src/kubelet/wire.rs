//! What goes into the small kubelet and what comes out: one JSON object a line.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The 2 s that a container has after its hook, however much of the grace the hook took
/// (`minimumGracePeriodInSeconds` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`).
pub const MINIMUM_GRACE_SECONDS: u64 = 2;

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Run the hooks, then stop the containers: a deletion, an eviction or a restart, which look the same.
    Stop(Orders),
    /// Run the hooks only, as a kubelet does that delivers one a second time.
    Call(Orders),
    /// Probe the pod from now on.
    Probe(Probe),
    /// Ask on every hook that comes after this whether the other end is still there, every so many seconds
    /// instead of every 15.
    KeepAlive(u64),
}

/// Which containers, and how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Comes back in the events.
    pub id: u64,
    /// Comes back in the events.
    pub pod: String,
    /// Where hooks without a host go.
    pub ip: IpAddr,
    /// The pod's grace.
    pub grace_seconds: u64,
    /// Stopped side by side.
    pub containers: Vec<Target>,
}

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its hook.
    pub hook: Call,
}

/// A hook, as the pod's spec has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// SIGTERM at once.
    None,
    /// So many seconds.
    Sleep(u64),
    /// A GET to the pod's own address.
    Http {
        /// Path and query.
        path: String,
        /// The port to dial.
        port: u16,
        /// Sent as they are; a `Host` replaces the usual one.
        headers: Vec<(String, String)>,
    },
}

/// GET a path every so often, on a new connection each time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Whom.
    pub ip: IpAddr,
    /// Where.
    pub port: u16,
    /// What.
    pub path: String,
    /// How often.
    pub period_ms: u64,
    /// When the kubelet gives one up.
    pub timeout_ms: u64,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The [`Orders::id`] it belongs to.
    pub id: u64,
    /// When, by [`crate::clock::now`].
    pub at: f64,
    /// The pod's name.
    pub pod: String,
    /// The container, where it is about one.
    pub container: String,
    /// What.
    pub what: What,
}

/// The things that happen, in the order in which they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The hook starts: this is where the dial begins.
    HookStarted,
    /// The endpoint answered; to the kubelet every status is the same.
    HookAnswered {
        /// The HTTP status.
        status: u16,
        /// The first 10 KiB of the body.
        body: String,
    },
    /// `FailedPreStopHook`: the transport failed.
    HookFailed {
        /// What a kubelet only logs.
        error: String,
    },
    /// The grace ended before the hook did.
    HookTimedOut,
    /// A sleep hook ended.
    HookSlept,
    /// SIGTERM went out.
    Terminated {
        /// Seconds until SIGKILL.
        remaining_seconds: u64,
    },
    /// SIGKILL went out.
    Killed,
    /// The container's process has ended.
    Exited,
    /// All of the pod's containers have ended.
    Gone,
}
