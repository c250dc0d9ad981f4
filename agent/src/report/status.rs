//! How things stand on a node, as the agent tells it and the command line reads it back.
//!
//! In: the agent's state. Out: JSON under [`PATH`], on loopback only: it names clients. Times are
//! seconds relative to the moment of the answer, because the reader's clock is not the agent's.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::labels::{ConnectionState, Outcome};

/// The node's status, without connections; [`drain_path`] has those of one pod.
pub const PATH: &str = "/status";

/// One drain with its connections. Kubernetes' names need no escaping; anything else does not exist.
pub fn drain_path(namespace: &str, name: &str) -> String {
    format!("{PATH}/{namespace}/{name}")
}

/// What a path under [`PATH`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A [`NodeStatus`], without connections.
    Node,
    /// A [`DrainStatus`] with its connections.
    Drain {
        /// metadata.namespace
        namespace: String,
        /// metadata.name
        name: String,
    },
}

impl Question {
    /// From a request's path, without its query. None: not found.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Node);
        }
        let (namespace, name) = rest.strip_prefix('/')?.split_once('/')?;
        let valid = |s: &str| !s.is_empty() && !s.contains('/');
        (valid(namespace) && valid(name))
            .then(|| Self::Drain { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The agent and its drains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The agent's version.
    pub version: String,
    /// Since the agent started.
    pub uptime_seconds: f64,
    /// How it sees connections.
    pub ebpf: EbpfStatus,
    /// What is wrong right now, a sentence each: manifests that cannot be read, a full table, ….
    pub problems: Vec<String>,
    /// Every pod that is Terminating here, also after its hook was answered, until it is gone.
    pub drains: Vec<DrainStatus>,
}

/// The kernel's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EbpfStatus {
    /// The programs are loaded.
    pub available: bool,
    /// `tcx`, `clsact`; why not, where they are not loaded.
    pub how: String,
    /// Entries in the connection table.
    pub table_entries: u64,
    /// Its capacity.
    pub table_capacity: u64,
}

/// One pod's drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// metadata.uid, empty where nothing names it.
    pub uid: String,
    /// Every address of the pod.
    pub addresses: Vec<IpAddr>,
    /// Since its end was seen first.
    pub began_seconds_ago: f64,
    /// Until the answer is given in any case; negative afterwards.
    pub deadline_in_seconds: f64,
    /// Hooks that wait for the answer.
    pub hooks_waiting: u32,
    /// `auto`, `closed`, `idle`, `settled`.
    pub until: String,
    /// The policy's own words, such as "settle: waited 1.2 s of 5 s" or "3 in flight".
    pub waiting_for: String,
    /// What was chosen for settling and why: "5 s: 0.3 connections/s, silence proves nothing". Empty until
    /// somebody has looked.
    #[serde(default)]
    pub settle: String,
    /// The last call; none where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_call: Option<LastCallStatus>,
    /// Connections by where they stand.
    pub counts: Counts,
    /// Connections by how they are known.
    pub known: KnownCounts,
    /// How it ended; none while it goes on.
    pub outcome: Option<Outcome>,
    /// Its connections, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionStatus>,
    /// How many more there are than `connections` holds, where it holds any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connections_left_out: u64,
}

/// What became of a drain's last call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCallStatus {
    /// At which ports: `http` (by their names), `all`.
    pub ports: String,
    /// Clients told to leave.
    pub told: u64,
    /// Of those, whose connections have ended.
    pub left: u64,
    /// Of those, who went on all the same.
    pub stayed: u64,
    /// Why nobody can be told, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unable: Option<String>,
}

/// Connections by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All TCP connections: the sum of the next five.
    pub open: u64,
    /// [`ConnectionState::InFlight`]
    pub in_flight: u64,
    /// [`ConnectionState::Idle`]
    pub idle: u64,
    /// [`ConnectionState::Closing`]
    pub closing: u64,
    /// [`ConnectionState::Vanished`]
    pub vanished: u64,
    /// [`ConnectionState::Doubt`]
    pub doubt: u64,
    /// UDP flows, not among `open`.
    pub flows: u64,
}

/// How a connection's state is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Its packets were seen.
    Seen,
    /// From its socket's queues and ages.
    Inferred,
    /// Not known: it counts until `doubt-after`.
    Doubt,
}

/// Connections by how they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCounts {
    /// [`Known::Seen`]
    pub seen: u64,
    /// [`Known::Inferred`]
    pub inferred: u64,
    /// [`Known::Doubt`]
    pub doubt: u64,
}

/// One connection, or UDP flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The client.
    pub peer: SocketAddr,
    /// The pod's end, as on the wire.
    pub local: SocketAddr,
    /// `http/1`, `http/2`, `http`, `tcp`, `udp`: as the packets or the port say.
    pub protocol: String,
    /// Where it stands.
    pub state: ConnectionState,
    /// Since it was opened; none where it is older than the drain.
    pub since_seconds: Option<f64>,
    /// Since the last payload came in; none where none was seen.
    pub last_in_seconds: Option<f64>,
    /// Since the last payload went out; none where none was seen.
    pub last_out_seconds: Option<f64>,
    /// How that is known.
    pub known: Known,
    /// Since its client was told to leave; none where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_seconds: Option<f64>,
    /// How it stands with the last call: "told", "with its next answer", "no: upgraded"; none where nobody
    /// asked for one at its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_call: Option<String>,
    /// A few words: "request without an answer", "in the send queue: 12 kB".
    pub why: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_questions() {
        let drain = |namespace: &str, name: &str| {
            Some(Question::Drain { namespace: namespace.into(), name: name.into() })
        };
        assert_eq!(Question::parse(PATH), Some(Question::Node));
        assert_eq!(Question::parse("/status/"), Some(Question::Node));
        assert_eq!(Question::parse(&drain_path("shop", "web-1.a")), drain("shop", "web-1.a"));
        for wrong in
            ["/", "/statusx", "/status/shop", "/status//web", "/status/shop/", "/status/shop/web/x", "/drain"]
        {
            assert_eq!(Question::parse(wrong), None, "{wrong}");
        }
    }
}
