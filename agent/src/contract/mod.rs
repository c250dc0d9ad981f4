//! What a hook asks for: the parameters of its path, with their defaults.

use std::time::Duration;

mod audience;
pub mod parameters;

pub use audience::{Audience, Calls};
pub use parameters::read;

/// What may remain of a pod's connections once it has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Until {
    /// Nothing in flight, judged by protocol (the default).
    Auto,
    /// No connection at all.
    Closed,
    /// No bytes moving, whatever the protocol.
    Idle,
    /// Anything: the app drains by itself on SIGTERM.
    Settled,
}

/// Whether clients are told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LastCall {
    /// As the agent's `--last-call` says.
    Default,
    /// HTTP/1 and HTTP/2 in the clear, whatever the port is called.
    Http,
    /// Never.
    Off,
}

/// The contract of one drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// What may remain.
    pub until: Until,
    /// Overrides the floor of the pod's kind of Service, never below the cluster's `--min-settle`.
    pub settle: Option<Duration>,
    /// How long a connection that is not at work must be silent to be idle.
    pub idle_after: Duration,
    /// How long a connection older than the attach, of which nothing certain is known, counts.
    pub doubt_after: Duration,
    /// How long a UDP flow must be silent to be gone.
    pub udp_idle: Duration,
    /// How long nobody may have left before a closed loop of clients is called stalled.
    pub patience: Duration,
    /// What of the grace is left to the app after the answer; at most a quarter of the grace.
    pub reserve: Duration,
    /// Whether clients are told to leave.
    pub last_call: LastCall,
}

impl Default for Contract {
    fn default() -> Self {
        Self {
            until: Until::Auto,
            settle: None,
            idle_after: Duration::from_secs(1),
            doubt_after: Duration::from_secs(10),
            udp_idle: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            reserve: Duration::from_secs(5),
            last_call: LastCall::Default,
        }
    }
}
