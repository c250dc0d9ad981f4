//! Where held hooks are written down: a pinned BPF map in production, memory in tests.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV4},
    sync::{Mutex, PoisonError},
};

use super::HeldConnection;
use crate::moment::Moment;

/// Changes with every change of [`HeldRecord`]; a record of another version is left alone.
pub const HELD_VERSION: u32 = 1;

/// A longer path with its query is kept without the query, or not at all.
pub const TARGET_MAX: usize = 512;

/// Bits of [`HeldRecord::flags`].
pub mod held_flag {
    /// The kubelet's own connection, as was found when it was accepted.
    pub const FROM_KUBELET: u32 = 1 << 0;
    /// The query was too long to be kept.
    pub const QUERY_LOST: u32 = 1 << 1;
}

/// The connection's four numbers: a held hook's key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeldKey {
    /// Our address, network byte order.
    pub local: [u8; 4],
    /// The kubelet's address, network byte order.
    pub peer: [u8; 4],
    /// Our port.
    pub local_port: u16,
    /// The kubelet's port.
    pub peer_port: u16,
}

/// A held hook: the connection, and what was asked for on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// [`HELD_VERSION`]
    pub version: u32,
    /// [`held_flag`]s.
    pub flags: u32,
    /// When the hook arrived, nanoseconds of CLOCK_MONOTONIC.
    pub began: u64,
    /// When it has to be answered, nanoseconds of CLOCK_MONOTONIC; 0: not known yet.
    pub deadline: u64,
    /// The address that was dialled, v4-mapped, or zeros.
    pub pod: [u8; 16],
    /// The connection.
    pub connection: HeldConnection,
    /// Length of the path and query in `target`.
    pub target_len: u32,
    /// Zero.
    pub pad: u32,
    /// Path and query of the request.
    pub target: [u8; TARGET_MAX],
}

const _: () = assert!(size_of::<HeldKey>() == 12 && size_of::<HeldRecord>() == 112 + TARGET_MAX);

// SAFETY: `repr(C)`, integers and arrays of integers only, no implicit padding (size asserted).
unsafe impl aya::Pod for HeldKey {}
// SAFETY: `repr(C)`, integers and arrays of integers only, no implicit padding (size asserted).
unsafe impl aya::Pod for HeldRecord {}

impl HeldRecord {
    /// A record of a hook whose connection is not held yet. `None` where not even the path fits.
    pub fn new(target: &str, pod: Option<IpAddr>, from_kubelet: bool, began: Moment) -> Option<Self> {
        let whole = target.len() <= TARGET_MAX;
        let kept = if whole { target } else { target.split('?').next().unwrap_or("") };
        let mut bytes = [0; TARGET_MAX];
        bytes.get_mut(..kept.len())?.copy_from_slice(kept.as_bytes());
        let mut flags = 0;
        if from_kubelet {
            flags |= held_flag::FROM_KUBELET;
        }
        if !whole {
            flags |= held_flag::QUERY_LOST;
        }
        Some(Self {
            version: HELD_VERSION,
            flags,
            began: began.0,
            deadline: 0,
            pod: pod.map_or([0; 16], address),
            connection: HeldConnection::default(),
            target_len: kept.len() as u32,
            pad: 0,
            target: bytes,
        })
    }

    /// Under which the store keeps it.
    pub fn key(&self) -> HeldKey {
        let HeldConnection { local, peer, local_port, peer_port, .. } = self.connection;
        HeldKey { local, peer, local_port, peer_port }
    }

    /// Path and query; `None` where the bytes are nobody's request.
    pub fn target(&self) -> Option<&str> {
        std::str::from_utf8(self.target.get(..self.target_len as usize)?).ok()
    }

    /// The address that was dialled.
    pub fn pod(&self) -> Option<IpAddr> {
        (self.pod != [0; 16]).then(|| Ipv6Addr::from(self.pod).to_canonical())
    }

    /// Whether the flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Network byte order, an IPv4 one v4-mapped.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl From<(SocketAddrV4, SocketAddrV4)> for HeldKey {
    fn from((local, peer): (SocketAddrV4, SocketAddrV4)) -> Self {
        Self {
            local: local.ip().octets(),
            peer: peer.ip().octets(),
            local_port: local.port(),
            peer_port: peer.port(),
        }
    }
}

/// Where held hooks are written down. None of it may block for long.
pub trait HeldStore: Send + Sync + 'static {
    /// Writes or overwrites a record.
    fn save(&self, record: &HeldRecord) -> io::Result<()>;
    /// Forgets a record; one that is not there is no error.
    fn remove(&self, key: &HeldKey);
    /// Every record, whatever its version.
    fn load_all(&self) -> Vec<HeldRecord>;
}

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<HashMap<HeldKey, HeldRecord>>);

impl HeldStore for MemoryStore {
    fn save(&self, record: &HeldRecord) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(record.key(), *record);
        Ok(())
    }

    fn remove(&self, key: &HeldKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn load_all(&self) -> Vec<HeldRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}
