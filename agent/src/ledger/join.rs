//! One row per connection: what the packets showed and what the socket says, put together.
//!
//! In: the latest [`Table`] and the latest [`Sockets`]. Out: [`Row`]s, and the entries that the sockets
//! prove stale. Identity is the socket's cookie; a tuple is an alias, and where a pod redirects, the
//! tuple on the wire is not the socket's at all. A dump proves an entry gone only if it began after
//! the entry's last packet.

use std::{collections::BTreeSet, time::Duration};

use lastcall_ebpf::abi::{self, Connection, FlowKey, flag};

use super::{
    Stale,
    ends::Ends,
    excluded::Excluded,
    memory::Memory,
    ports::{Ports, Speaks},
    snapshots::{Sockets, Table},
};
use crate::{moment::Moment, sockets::Socket};

/// The ACK that ends a handshake passes TC before the socket is in the table that sock_diag walks: an
/// entry this young is not disproved by a dump.
const HANDSHAKE: Duration = Duration::from_millis(10);

/// What is known of one connection or flow.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// On the wire where packets were seen, else the socket's.
    pub ends: Ends,
    pub entry: Option<(FlowKey, Connection)>,
    pub socket: Option<Socket>,
    pub speaks: Speaks,
    /// On a port that nobody declared: counts unless idle.
    pub candidate: bool,
    /// `ignore-sources` names the peer, or it has only ever checked health.
    pub unimportant: bool,
    pub udp: bool,
}

impl Row {
    /// The socket's cookie, 0 until known.
    pub(super) fn cookie(&self) -> u64 {
        self.entry
            .map(|(_, c)| c.cookie)
            .filter(|c| *c != 0)
            .or(self.socket.as_ref().map(|s| s.cookie))
            .unwrap_or(0)
    }

    /// Names under which another join may know the same connection.
    pub(super) fn names(&self) -> impl Iterator<Item = (u64, Option<Ends>)> {
        let by_cookie = Some(self.cookie()).filter(|c| *c != 0).map(|c| (c, None));
        let by_ends = self.entry.map(|(_, c)| (c.first_seen, Some(self.ends)));
        by_cookie.into_iter().chain(by_ends)
    }
}

/// The result of one join.
#[derive(Clone, Debug, Default)]
pub(super) struct Joined {
    pub rows: Vec<Row>,
    pub stale: Vec<Stale>,
}

pub(super) fn join(
    table: Option<&Table>,
    sockets: Option<&Sockets>,
    ports: &mut Ports,
    excluded: &Excluded,
    memory: &Memory,
) -> Joined {
    let mut joined = Joined::default();
    let mut claimed: BTreeSet<u64> = BTreeSet::new();
    learn(table, sockets, ports);
    let entries = table.iter().flat_map(|t| t.entries.iter());
    // Entries that know their cookie choose first: what they leave may be an alias of the others'.
    let (named, nameless): (Vec<_>, Vec<_>) = entries.partition(|(_, (_, c))| c.cookie != 0);
    for ((proto, ends), (key, c)) in named.into_iter().chain(nameless) {
        let udp = *proto == abi::UDP;
        let socket = match sockets {
            Some(s) if !udp => match find(*ends, c, s, &claimed) {
                Found::Socket(cookie) => {
                    claimed.insert(cookie);
                    s.live.get(&cookie).cloned()
                }
                Found::Perhaps => None,
                Found::Gone => {
                    joined.stale.push(Stale { key: *key, cookie: c.cookie, last_packet: c.last_packet });
                    continue;
                }
            },
            _ => None,
        };
        let speaks = if udp {
            ports.flow_counts(ends.local.1).then_some(Speaks::Exchanges)
        } else {
            let answered = c.flags & flag::NEW != 0;
            ports.on_the_wire(ends.local.1, c.socket_port, answered, sockets.is_some())
        };
        let Some(speaks) = speaks else { continue };
        joined.rows.push(Row {
            ends: *ends,
            entry: Some((*key, *c)),
            socket,
            speaks: spoken(c, speaks),
            candidate: false,
            unimportant: excluded.ignores(ends.peer.0) || c.flags & flag::HEALTH_ONLY != 0,
            udp,
        });
    }
    if let Some(s) = sockets {
        joined.rows.extend(unseen(table, s, &claimed, ports, excluded, memory));
    }
    joined
}

/// What the snapshots say about ports, before anything is judged by them.
fn learn(table: Option<&Table>, sockets: Option<&Sockets>, ports: &mut Ports) {
    if let Some(s) = sockets {
        s.listening.iter().for_each(|p| ports.listens(*p));
        s.inside.iter().for_each(|p| ports.connected_from_inside(*p));
    }
    for ((proto, ends), (_, c)) in table.iter().flat_map(|t| &t.entries) {
        let socket_port = match sockets.and_then(|s| s.live.get(&c.cookie)) {
            Some(socket) => socket.local.port(),
            None => c.socket_port,
        };
        if *proto == abi::TCP && socket_port != 0 && socket_port != ends.local.1 {
            ports.redirected(ends.local.1, socket_port);
        }
    }
}

/// What the packets showed beats what the port is called, but for one thing: that they showed nothing
/// does not make a port that is said to speak HTTP an unknown one.
fn spoken(c: &Connection, by_port: Speaks) -> Speaks {
    if c.flags & flag::UPGRADED != 0 {
        Speaks::Anything
    } else if c.protocol != abi::protocol::UNKNOWN {
        Speaks::Exchanges
    } else {
        by_port
    }
}

enum Found {
    /// This is its socket.
    Socket(u64),
    /// The dump does not tell.
    Perhaps,
    /// The dump proves that it has none any more.
    Gone,
}

fn find(ends: Ends, c: &Connection, s: &Sockets, claimed: &BTreeSet<u64>) -> Found {
    let later = s.complete && s.started > Moment(c.last_packet);
    if c.cookie != 0 {
        return match s.live.contains_key(&c.cookie) {
            true => Found::Socket(c.cookie),
            false if later => Found::Gone,
            false => Found::Perhaps,
        };
    }
    let peers = s.by_peer.get(&ends.peer).map(Vec::as_slice).unwrap_or_default();
    let free = || peers.iter().filter(|cookie| !claimed.contains(cookie));
    let exact = free().find(|cookie| {
        s.live.get(cookie).is_some_and(|socket| Ends::of_socket(socket.local, socket.peer) == ends)
    });
    if let Some(cookie) = exact.or_else(|| free().min()) {
        return Found::Socket(*cookie);
    }
    let young = c.flags & flag::NEW != 0 && s.started <= Moment(c.last_packet) + HANDSHAKE;
    if !peers.is_empty() || s.half_open.contains(&ends.peer) || !later || young {
        Found::Perhaps
    } else {
        Found::Gone
    }
}

/// Sockets of which the table holds nothing: older than the attach and silent since, or refused a place.
fn unseen(
    table: Option<&Table>,
    s: &Sockets,
    claimed: &BTreeSet<u64>,
    ports: &Ports,
    excluded: &Excluded,
    memory: &Memory,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (cookie, socket) in &s.live {
        let ends = Ends::of_socket(socket.local, socket.peer);
        if claimed.contains(cookie) || memory.is_gone(*cookie, ends, s.started) {
            continue;
        }
        // The same tuple under another cookie, with packets later than the whole dump: this one has
        // gone, or the other could not have come.
        let replaced = table
            .and_then(|t| t.entries.get(&(abi::TCP, ends)))
            .is_some_and(|(_, c)| c.cookie != 0 && c.cookie != *cookie && Moment(c.last_packet) > s.finished);
        let Some(standing) = ports.of_socket(ends.local.1) else { continue };
        if replaced || excluded.is_probe(ends, standing.redirected) {
            continue;
        }
        rows.push(Row {
            ends,
            entry: None,
            socket: Some(socket.clone()),
            speaks: standing.speaks,
            candidate: standing.candidate,
            unimportant: excluded.ignores(ends.peer.0),
            udp: false,
        });
    }
    rows
}
