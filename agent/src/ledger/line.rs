//! One connection, for people: `lastcall status`, `lastcall connections`.

use std::net::SocketAddr;

use lastcall_ebpf::abi::{flag, protocol};

use super::{
    Call, Ledger,
    join::Row,
    judge::Frame,
    judgement::{Known, Reason, State},
    ports::Speaks,
    view::{awaits, counts},
};
use crate::{cluster::Transport, moment::Moment};

/// One connection or flow that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The other end.
    pub peer: SocketAddr,
    /// The pod's end, as on the wire where a packet was seen.
    pub local: SocketAddr,
    /// The socket's own port where the pod redirects.
    pub redirected_to: Option<u16>,
    /// TCP or UDP.
    pub transport: Transport,
    /// The socket's cookie, as `ss -e` shows it (`sk:…`); `None` until known.
    pub cookie: Option<u64>,
    /// `http/1`, `http/2`, `http`, `tcp`, `udp`: as the packets say, else the port.
    pub protocol: &'static str,
    /// When its handshake was seen; `None` where it is older than the attach.
    pub opened: Option<Moment>,
    /// Last inbound payload that was seen.
    pub last_in: Option<Moment>,
    /// Last outbound payload that was seen.
    pub last_out: Option<Moment>,
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// How that is known.
    pub known: Known,
    /// Why it counts, or does not.
    pub reason: Reason,
    /// Work is under way this instant.
    pub at_work: bool,
    /// The contract waits for it.
    pub awaited: bool,
    /// Where it stands with the last call; `None` where clients of its port are not told.
    pub call: Option<Call>,
}

pub(super) fn lines(ledger: &Ledger, frame: &Frame<'_>) -> Vec<Line> {
    let until = frame.contract.until;
    let judged = ledger.joined.rows.iter().map(|row| (row, frame.judge(row)));
    let mut lines: Vec<Line> = judged
        .filter(|(row, j)| counts(until, row, j) && !(row.udp && j.over))
        .map(|(row, j)| {
            let entry = row.entry.map(|(_, c)| c);
            let socket_port = row.socket.as_ref().map(|s| s.local.port());
            let socket_port = socket_port.or(row.entry.map(|(_, c)| c.socket_port)).filter(|p| *p != 0);
            Line {
                peer: row.ends.peer.into(),
                local: row.ends.local.into(),
                redirected_to: socket_port.filter(|p| *p != row.ends.local.1),
                transport: if row.udp { Transport::Udp } else { Transport::Tcp },
                cookie: Some(row.cookie()).filter(|c| *c != 0),
                protocol: protocol(row),
                opened: entry.filter(|c| c.flags & flag::NEW != 0).map(|c| Moment(c.first_seen)),
                last_in: entry.map(|c| Moment(c.last_in)).filter(|at| at.0 != 0),
                last_out: entry.map(|c| Moment(c.last_out)).filter(|at| at.0 != 0),
                state: j.state,
                since: j.since.min(frame.now),
                known: j.known,
                reason: j.reason,
                at_work: j.at_work,
                awaited: awaits(until, row, &j),
                call: frame.call(row),
            }
        })
        .collect();
    lines.sort_by_key(|l| (l.peer, l.local));
    lines
}

fn protocol(row: &Row) -> &'static str {
    let seen = row.entry.map(|(_, c)| c).filter(|c| c.flags & flag::BOUNDARY != 0).map(|c| c.protocol);
    match (row.udp, seen, row.speaks) {
        (true, ..) => "udp",
        (_, Some(protocol::HTTP1), _) => "http/1",
        (_, Some(protocol::HTTP2), _) => "http/2",
        (_, _, Speaks::Exchanges) => "http",
        (_, _, Speaks::Anything) => "tcp",
    }
}
