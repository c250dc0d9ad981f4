//! A pod under observation: what the agent says of it, what the kernel counts, and when it calls.

use super::FlowKey;

/// A pod's counters. Written by the kernel alone, see [`Command`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// TCP entries in the table.
    pub open: u64,
    /// UDP entries in the table.
    pub flows: u64,
    /// Packets seen on ingress, of any kind.
    pub packets_in: u64,
    /// Packets seen on egress, of any kind.
    pub packets_out: u64,
    /// Last payload in either direction.
    pub last_payload: u64,
    /// Last new connection that carried a request other than a health check's.
    pub last_new: u64,
    /// How many of those.
    pub new_connections: u64,
    /// New connections that only checked health.
    pub health_connections: u64,
    /// Last inbound datagram of a port that counts.
    pub last_datagram: u64,
    /// Connections that found no place in the table: the view is incomplete.
    pub refused: u64,
    /// Connections that the pod ended, by FIN or RST, with a request or a response unfinished.
    pub cut: u64,
    /// Connections that the pod ended, by FIN or RST, of which no packet had been seen before: they are older
    /// than the attach and have been silent since.
    pub silent_ends: u64,
    /// Edge events that found no place in the ring.
    pub edges_lost: u64,
    /// Clients that were told to leave, by [`told`].
    pub told: [u64; told::LEN],
    /// Connections that ended after that, by [`told`].
    pub left: [u64; told::LEN],
    /// How long they took from the announcement to their end, added up, nanoseconds, by [`told`].
    pub left_ns: [u64; told::LEN],
    /// When its drain began. Written once, by the agent.
    pub began: u64,
    /// Its clients are told to leave one after another, in so many nanoseconds from then on. Written once, by
    /// the agent.
    pub told_within: u64,
    /// 1: the next removal sends an [`Edge`] and disarms. Set by [`command::ARM`].
    pub armed: u32,
    /// Zero.
    pub pad: u32,
}

/// Indices of what a [`Pod`] counts of the last call.
pub mod told {
    /// `Connection: close`.
    pub const HTTP1: usize = 0;
    /// GOAWAY.
    pub const HTTP2: usize = 1;
    /// How many there are.
    pub const LEN: usize = 2;
}

/// What the agent asks of the program [`super::names::COMMAND`], behind an Ethernet header.
///
/// The agent cannot do these by itself: a count has to follow in the same step, or counts that the
/// kernel is adding to meanwhile stand in the same value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Which entry; for [`command::ARM`] only its pod.
    pub key: FlowKey,
    /// A [`command`].
    pub kind: u32,
    /// The entry's `last_packet`, as the agent read it: an entry that has moved since stays.
    pub last_packet: u64,
}

/// Kinds of [`Command`].
pub mod command {
    /// Take an entry out of the table that a dump has proved gone. Returns 1 where it did.
    pub const REMOVE: u32 = 0;
    /// Send one [`super::Edge`] at the pod's next removal.
    pub const ARM: u32 = 1;
}

/// A port of a pod that counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The pod's number.
    pub pod: u32,
    /// The wire port.
    pub port: u16,
    /// [`super::TCP`] or [`super::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// What is known of a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// A [`super::protocol`].
    pub protocol: u8,
    /// 1: new connections to it keep the pod unsettled.
    pub settles: u8,
    /// 1: its clients are told to leave.
    pub announce: u8,
    /// Zero.
    pub pad: u8,
}

/// "Look now": the one thing the kernel tells without being asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// When.
    pub at: u64,
    /// The pod's number.
    pub pod: u32,
    /// An [`edge`].
    pub kind: u32,
}

/// Kinds of [`Edge`].
pub mod edge {
    /// The pod's last open connection was removed.
    pub const NOTHING_OPEN: u32 = 1;
    /// A connection was removed while the pod was armed.
    pub const REMOVED: u32 = 2;
    /// A reset or a FIN says that a connection has ended: look whether its socket is gone. Only while
    /// armed.
    pub const LOOK: u32 = 3;
}

/// A path of a pod that only health checks ask for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HealthPath {
    /// The pod's number.
    pub pod: u32,
    /// [`path_hash`] of the path.
    pub hash: u32,
}

/// FNV-1a, 32 bits, over the path of a request target: how [`super::names::HEALTH_PATHS`] is keyed.
///
/// The kernel hashes at most [`HEALTH_PATH_MAX`] bytes, up to `?`, `#`, a space or a line end.
pub const fn path_hash(path: &[u8]) -> u32 {
    let mut hash = FNV_OFFSET;
    let mut i = 0;
    while i < path.len() && i < HEALTH_PATH_MAX {
        hash = path_hash_step(hash, path[i]);
        i += 1;
    }
    hash
}

/// Start value of [`path_hash`].
pub const FNV_OFFSET: u32 = 0x811c_9dc5;

/// Longest path that is looked at, bytes.
pub const HEALTH_PATH_MAX: usize = 48;

/// One step of [`path_hash`].
#[inline(always)]
pub const fn path_hash_step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

const _: () = {
    assert!(size_of::<Pod>() == 176);
    assert!(size_of::<Command>() == 56);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<Port>() == 4);
    assert!(size_of::<Edge>() == 16);
    assert!(size_of::<HealthPath>() == 8);
};
