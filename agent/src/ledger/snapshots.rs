//! The two witnesses' latest words: the connection table as read, the sockets as dumped.
//!
//! In: reads and dumps, in any order of arrival. Out: indexed snapshots, each with its time. An older
//! snapshot never replaces a newer one.

use std::collections::{BTreeMap, HashMap, HashSet};

use lastcall_ebpf::abi::{Connection, FlowKey, Pod};

use super::ends::{End, Ends};
use crate::{
    moment::Moment,
    sockets::{Dump, Socket, TcpState},
};

/// The connection table, read at one time.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Taken before the read began: whatever is in it was so at this time or later.
    pub at: Moment,
    /// In the order of their ends, so that nothing depends on the order of a hash map.
    pub entries: BTreeMap<(u8, Ends), (FlowKey, Connection)>,
    pub pod: Pod,
}

impl Table {
    pub(super) fn new(at: Moment, entries: &[(FlowKey, Connection)], pod: &Pod) -> Self {
        let mut by_ends: BTreeMap<_, (FlowKey, Connection)> = BTreeMap::new();
        for (key, connection) in entries {
            // A hash map that changes while it is read may show an entry twice: the later one holds.
            let id = (key.protocol, Ends::on_the_wire(key));
            let later = by_ends.get(&id).is_some_and(|(_, c)| c.last_packet > connection.last_packet);
            if !later {
                by_ends.insert(id, (*key, *connection));
            }
        }
        Self { at, entries: by_ends, pod: *pod }
    }
}

/// A namespace's sockets, dumped at one time.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    pub started: Moment,
    pub finished: Moment,
    /// What it does not show was not there: it was not interrupted.
    pub complete: bool,
    /// Begin of the latest dump that was not interrupted.
    pub complete_since: Option<Moment>,
    /// By cookie, in order.
    pub live: BTreeMap<u64, Socket>,
    /// By remote end: for entries that have no cookie yet.
    pub by_peer: HashMap<End, Vec<u64>>,
    /// Begin and end of the dump that showed a socket, where that was an earlier one.
    kept: HashMap<u64, (Moment, Moment)>,
    /// Remote ends of handshakes that have not ended: no connections, and no proof of absence either.
    pub half_open: HashSet<End>,
    pub listening: Vec<u16>,
    /// Local ports of connections whose both ends are in this namespace.
    pub inside: Vec<u16>,
}

impl Sockets {
    pub(super) fn new(dump: &Dump) -> Self {
        let mut new = Self {
            started: dump.started,
            finished: dump.finished,
            complete: !dump.interrupted,
            complete_since: (!dump.interrupted).then_some(dump.started),
            live: BTreeMap::new(),
            by_peer: HashMap::new(),
            kept: HashMap::new(),
            half_open: HashSet::new(),
            listening: Vec::new(),
            inside: Vec::new(),
        };
        let ends = |s: &Socket| Ends::of_socket(s.local, s.peer);
        let all: HashSet<Ends> = dump.sockets.iter().filter(|s| is_live(s.state)).map(ends).collect();
        for socket in &dump.sockets {
            let e = ends(socket);
            match socket.state {
                TcpState::Listen => new.listening.push(socket.local.port()),
                TcpState::SynReceived | TcpState::NewSynReceived => {
                    new.half_open.insert(e.peer);
                }
                state if is_live(state) => {
                    if e.is_loopback() || all.contains(&e.reversed()) {
                        new.inside.push(e.local.1);
                    } else {
                        new.hold(socket);
                    }
                }
                _ => {}
            }
        }
        new
    }

    fn hold(&mut self, socket: &Socket) {
        let peer = Ends::of_socket(socket.local, socket.peer).peer;
        self.by_peer.entry(peer).or_default().push(socket.cookie);
        self.live.insert(socket.cookie, socket.clone());
    }

    /// This dump was interrupted: what an earlier one showed may still be there, unless the kernel has
    /// removed it since, or its tuple belongs to another.
    pub(super) fn keep(&mut self, before: &Self, gone: impl Fn(u64, Ends) -> bool) {
        self.complete_since = before.complete_since;
        let ends = |s: &Socket| Ends::of_socket(s.local, s.peer);
        let taken: HashSet<Ends> = self.live.values().map(ends).collect();
        for (cookie, socket) in &before.live {
            let e = ends(socket);
            if !self.live.contains_key(cookie) && !taken.contains(&e) && !gone(*cookie, e) {
                self.hold(socket);
                self.kept.insert(*cookie, before.sampled(*cookie));
            }
        }
    }

    /// Begin and end of the dump that showed this socket as it is here.
    pub(super) fn sampled(&self, cookie: u64) -> (Moment, Moment) {
        self.kept.get(&cookie).copied().unwrap_or((self.started, self.finished))
    }
}

/// States in which a connection can still carry or owe something. TIME-WAIT cannot, nor can a
/// handshake that has not ended.
fn is_live(state: TcpState) -> bool {
    matches!(
        state,
        TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing
    )
}
