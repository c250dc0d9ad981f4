//! The last call's programs and maps, typed: who may be told to leave, until when, and what came of it.
//!
//! Nothing of it is pinned. What the programs may do ends with the lease, a second after the agent last
//! renewed it; the sockets in the map are ordinary ones again when the process that holds it is gone.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, SockHash},
    programs::{SchedClassifier, SkMsg},
};
use lastcall_ebpf::abi::{FlowKey, LastCallConfig, Unread, last_call_count as index, names};

use super::{
    Error,
    btf::Btf,
    map_error,
    observer::{PodNumber, program},
    sys, take, unread,
};
use crate::moment::Moment;

/// The link header of a packet that is made up.
const ETHERNET: usize = 14;

/// The sockets whose clients are about to be told to leave, and the programs' lease.
pub struct LastCall {
    maps: Mutex<Maps>,
    look: OwnedFd,
    tells_unread: bool,
}

struct Maps {
    sockets: SockHash<MapData, FlowKey>,
    unread: HashMap<MapData, u32, Unread>,
    lease: Array<MapData, u64>,
    counts: Array<MapData, u64>,
}

/// What the last call's programs have done, and why they did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastCallCounts {
    /// Sockets put into the map.
    pub inserted: u64,
    /// Sockets taken out by their response's first segment.
    pub deleted: u64,
    /// Announcements of `Connection: close` that have left a pod.
    pub http1: u64,
    /// Announcements of GOAWAY that have left a pod.
    pub http2: u64,
    /// Refusals, and announcements given up, by reason.
    pub refused: [(&'static str, u64); 15],
}

/// Reasons, as metrics have them.
const REASONS: [(&str, u32); 15] = [
    ("duplicate_segment", index::DUPLICATE_SEGMENT),
    ("no_socket", index::NO_SOCKET),
    ("not_established", index::NOT_ESTABLISHED),
    ("ulp", index::ULP),
    ("not_taken", index::NOT_TAKEN),
    ("no_boundary", index::NO_BOUNDARY),
    ("unsent", index::UNSENT),
    ("pipelined", index::PIPELINED),
    ("large_request", index::LARGE_REQUEST),
    ("upgraded", index::UPGRADED),
    ("missed", index::MISSED),
    ("unrecognised", index::UNRECOGNISED),
    ("too_long", index::TOO_LONG),
    ("push_failed", index::PUSH_FAILED),
    ("pull_failed", index::PULL_FAILED),
];

/// The names of all reasons in [`LastCallCounts::refused`].
pub const REFUSALS: [&str; REASONS.len()] = {
    let mut names = [""; REASONS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = REASONS[i].0;
        i += 1;
    }
    names
};

/// Why there is no last call on this node.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel does not tell where it keeps a socket's position.
    #[error("the kernel's types")]
    Btf(#[from] super::btf::Error),
    /// A program or a map was refused.
    #[error("the last call's programs")]
    Kernel(#[from] Error),
}

impl LastCall {
    /// Loads the programs and puts the announcer behind the map; attaches nothing to any link.
    ///
    /// `http2`: clients of HTTP/2 as well, whose sockets may be in the map for longer.
    pub fn load(ebpf: &mut Ebpf, http2: bool) -> Result<Self, Unavailable> {
        let btf = Btf::kernel()?;
        // In doubt it does not: large requests are then read first.
        let tells_unread = unread::is_told().unwrap_or(false);
        let config = LastCallConfig {
            write_seq: btf.offset("tcp_sock", "write_seq")?,
            // The first member of each of tcp_sock, inet_connection_sock and inet_sock is the next of them.
            ulp_ops: btf.offset("inet_connection_sock", "icsk_ulp_ops")?,
            copied_seq: btf.offset("tcp_sock", "copied_seq")?,
            http2: u32::from(http2),
            tells_unread: u32::from(tells_unread),
            pad: 0,
        };
        for name in [names::LAST_CALL_INGRESS, names::LAST_CALL_EGRESS, names::LAST_CALL_LOOK] {
            let program: &mut SchedClassifier = program(ebpf, name)?;
            program.load().map_err(|e| Error::Program { name, source: Box::new(e) })?;
        }
        let name = names::LAST_CALL_LOOK;
        let look: &mut SchedClassifier = program(ebpf, name)?;
        let look = look.fd().and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?));
        let look = look.map_err(|e| Error::Program { name, source: Box::new(e) })?;
        let sockets: SockHash<MapData, FlowKey> = take(ebpf, names::LAST_CALL_SOCKETS)?;
        let name = names::ANNOUNCE;
        let announcer: &mut SkMsg = program(ebpf, name)?;
        let attached = announcer.load().and_then(|()| announcer.attach(sockets.fd()));
        attached.map_err(|e| Error::Program { name, source: Box::new(e) })?;
        let mut configs: Array<MapData, LastCallConfig> = take(ebpf, names::LAST_CALL_CONFIG)?;
        configs.set(0, config, 0).map_err(map_error("write", names::LAST_CALL_CONFIG))?;
        let maps = Maps {
            sockets,
            unread: take(ebpf, names::LAST_CALL_UNREAD)?,
            lease: take(ebpf, names::LAST_CALL_LEASE)?,
            counts: take(ebpf, names::LAST_CALL_COUNTS)?,
        };
        Ok(Self { maps: Mutex::new(maps), look, tells_unread })
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The programs may act until then.
    pub fn renew(&self, until: Moment) -> Result<(), Error> {
        self.maps().lease.set(0, until.0, 0).map_err(map_error("write", names::LAST_CALL_LEASE))
    }

    /// Connections whose sockets are in the map.
    pub fn sockets(&self) -> Vec<FlowKey> {
        self.maps().sockets.keys().filter_map(Result::ok).collect()
    }

    /// Takes a connection's socket out; one that is not there is no error.
    pub fn remove(&self, key: &FlowKey) {
        let _ = self.maps().sockets.remove(key);
    }

    /// Whether large requests need no [`LastCall::look`].
    pub fn tells_unread(&self) -> bool {
        self.tells_unread
    }

    /// A large request waits to be read, of whichever pod.
    pub fn has_unread(&self) -> bool {
        self.maps().unread.keys().next().is_some()
    }

    /// Looks which of the pod's large requests have been read. To be called inside its network namespace.
    pub fn look(&self, pod: PodNumber) -> Result<(), Error> {
        let mut packet = [0; 64];
        packet[ETHERNET..ETHERNET + 4].copy_from_slice(&pod.0.to_ne_bytes());
        let name = names::LAST_CALL_LOOK;
        sys::run_program(self.look.as_fd(), &packet, unread::LOOKS)
            .map(drop)
            .map_err(|e| Error::Program { name, source: Box::new(e.into()) })
    }

    /// Takes all of a pod's sockets out, and what waits to be read.
    pub fn forget(&self, pod: PodNumber) {
        let mut maps = self.maps();
        let waits: Vec<u32> = maps
            .unread
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, u)| u.key.pod == pod.0)
            .map(|(p, _)| p)
            .collect();
        for place in waits {
            let _ = maps.unread.remove(&place);
        }
        drop(maps);
        self.sockets().iter().filter(|k| k.pod == pod.0).for_each(|k| self.remove(k));
    }

    /// What the programs did.
    pub fn counts(&self) -> LastCallCounts {
        let maps = self.maps();
        let get = |i| maps.counts.get(&i, 0).unwrap_or(0);
        LastCallCounts {
            inserted: get(index::INSERTED),
            deleted: get(index::DELETED),
            http1: get(index::HTTP1),
            http2: get(index::HTTP2),
            refused: REASONS.map(|(reason, i)| (reason, get(i))),
        }
    }
}
