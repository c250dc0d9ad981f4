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
    /// By cookie, in order.
    pub live: BTreeMap<u64, Socket>,
    /// By remote end: for entries that have no cookie yet.
    pub by_peer: HashMap<End, Vec<u64>>,
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
            live: BTreeMap::new(),
            by_peer: HashMap::new(),
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
                        new.by_peer.entry(e.peer).or_default().push(socket.cookie);
                        new.live.insert(socket.cookie, socket.clone());
                    }
                }
                _ => {}
            }
        }
        new
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
