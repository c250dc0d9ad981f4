//! In flight, idle, closing or vanished: one row, one judgement.
//!
//! In: a [`Row`], the contract, now. Out: a [`Judgement`]. Packets come before sockets, and a dump adds
//! to packets only what it saw later than they did. Where the two witnesses differ, the one that says
//! "in flight" is believed.

use std::time::Duration;

use lastcall_ebpf::abi::{Connection, flag, protocol};

use super::{
    calls::Call,
    inferred::Sample,
    join::Row,
    judgement::{Judgement, Known, Reason, State},
    memory::Memory,
    ports::{Ports, Speaks},
    seen::Seen,
    snapshots::Sockets,
};
use crate::{
    contract::{Contract, Until},
    moment::Moment,
};

/// `udp-idle` where the port looks like QUIC: a request there may think for longer than other UDP is silent.
const QUIC_IDLE: Duration = Duration::from_secs(30);

/// What all rows of one view are judged by.
pub(super) struct Frame<'a> {
    pub now: Moment,
    pub contract: &'a Contract,
    pub attached: Moment,
    /// The latest dump.
    pub dump: Option<&'a Sockets>,
    pub memory: &'a Memory,
    pub ports: &'a Ports,
}

impl Frame<'_> {
    pub(super) fn judge(&self, row: &Row) -> Judgement {
        if row.udp {
            return self.flow(row);
        }
        let sample = row.socket.as_ref().zip(self.dump).map(|(socket, dump)| {
            let (started, finished) = dump.sampled(socket.cookie);
            Sample { socket, past: self.memory.past(socket.cookie), started, finished }
        });
        let Some((_, entry)) = &row.entry else {
            return match sample {
                Some(sample) => self.by_socket(row, sample, false),
                None => Judgement::rest(State::Idle, Reason::NeverAsked, Known::Inferred, self.now),
            };
        };
        // What a dump says of the end of a connection holds if no packet came later.
        let last = sample.filter(|s| s.started > Moment(entry.last_packet));
        if last.is_some_and(|s| s.over()) || over(entry) {
            return Judgement::over(Known::Seen, Moment(entry.last_packet));
        }
        if last.is_some_and(|s| s.vanished()) {
            return vanished(Known::Seen, Moment(entry.last_packet));
        }
        let mut judgement = self.by_packets(row, entry, sample);
        // No other packet tells whether the reset was the peer's.
        judgement.by_dump |= entry.has(flag::RESET_IN);
        self.leniently(row, entry.owed().is_some(), judgement)
    }

    /// Where it stands with the last call; `None` where clients of its port are not told.
    pub(super) fn call(&self, row: &Row) -> Option<Call> {
        let told_already = row.entry.is_some_and(|(_, c)| c.told_at != 0);
        let asked = !row.udp && (told_already || self.ports.tells(row.ends.local.1));
        asked.then(|| match row.entry {
            Some((key, c)) => Call::of(&c, self.memory.turned(&key, &c)),
            None => Call::WithTheNextAnswer,
        })
    }

    /// The effective `udp-idle` of a port.
    pub(super) fn udp_idle(&self, wire: u16) -> Duration {
        let asked = self.contract.udp_idle;
        let by_default = asked == Contract::default().udp_idle;
        if by_default && self.ports.looks_like_quic(wire) { asked.max(QUIC_IDLE) } else { asked }
    }

    fn flow(&self, row: &Row) -> Judgement {
        let Some((_, entry)) = &row.entry else {
            return Judgement::over(Known::Seen, self.now);
        };
        let active = entry.last_payload().max(Moment(entry.first_seen));
        let wait = self.udp_idle(row.ends.local.1);
        let judged =
            Judgement::until(self.now, (active, Reason::Datagrams), wait, (Reason::Silent, Known::Seen));
        match judged.state {
            State::InFlight if row.unimportant => {
                Judgement::rest(State::Idle, Reason::Unimportant, Known::Seen, active)
            }
            State::InFlight => Judgement { at_work: entry.has(flag::WAITING), by_dump: false, ..judged },
            // A flow has no end but its silence.
            _ => Judgement { over: true, by_dump: false, ..judged },
        }
    }

    fn by_socket(&self, row: &Row, sample: Sample<'_>, witnessed: bool) -> Judgement {
        if sample.over() {
            return Judgement::over(Known::Inferred, sample.started);
        }
        if sample.vanished() {
            return vanished(Known::Inferred, sample.started);
        }
        let judgement = if self.contract.until == Until::Idle {
            sample.judge_bytes(self.now, self.contract)
        } else {
            let judgement = sample.judge_exchange(self.now, self.contract, witnessed);
            match (row.speaks, judgement.at_work) {
                (Speaks::Anything, false) => {
                    Judgement::open(Reason::UnknownProtocol, Known::Inferred, sample.started)
                }
                _ => judgement,
            }
        };
        match row.entry {
            None => self.leniently(row, judgement.at_work, judgement),
            Some(_) => judgement,
        }
    }

    /// Sources that do not count for settle are not waited for unless they are being served.
    fn leniently(&self, row: &Row, at_work: bool, judgement: Judgement) -> Judgement {
        let served = match row.speaks {
            Speaks::Exchanges => at_work || judgement.at_work,
            Speaks::Anything => {
                judgement.at_work && matches!(judgement.reason, Reason::Unacknowledged | Reason::Queued)
            }
        };
        if row.unimportant && judgement.state == State::InFlight && !served {
            return Judgement::rest(State::Idle, Reason::Unimportant, judgement.known, judgement.since);
        }
        judgement
    }

    fn by_packets(&self, row: &Row, c: &Connection, sample: Option<Sample<'_>>) -> Judgement {
        let payload = c.last_payload();
        let trusted = payload >= self.attached && payload > Moment(0);
        let bytes_only = self.contract.until == Until::Idle;
        if let Some(owed) = self.owed(c, sample, trusted, bytes_only) {
            return owed;
        }
        // Bytes of which the packets say nothing: a link that is not watched, a gap between two attaches.
        let unseen = sample.filter(|s| self.saw_more(c, *s));
        let by_packets = if trusted {
            self.after_payload(c, bytes_only)
        } else if c.has(flag::NEW) && Moment(c.first_seen) >= self.attached {
            self.just_opened(c)
        } else {
            let witnessed = c.owed().is_some();
            let fresh = sample.filter(|s| s.started > Moment(c.last_packet));
            match fresh {
                Some(sample) => self.by_socket(row, sample, witnessed),
                None => self.doubt(c, bytes_only),
            }
        };
        let judged = match unseen.map(|s| self.by_socket(row, s, true)) {
            Some(by_socket) if by_socket.state == State::InFlight && outlasts(&by_socket, &by_packets) => {
                by_socket
            }
            _ => by_packets,
        };
        if row.speaks == Speaks::Exchanges || bytes_only || judged.at_work {
            return judged;
        }
        let reason = if c.has(flag::UPGRADED) { Reason::Upgraded } else { Reason::UnknownProtocol };
        // The end of an open connection of an unknown protocol shows in the packets, but for an orphan.
        let by_dump = c.has(flag::FIN_OUT);
        Judgement { by_dump, ..Judgement::open(reason, Known::Seen, payload.max(Moment(c.first_seen))) }
    }

    /// What is owed this instant.
    fn owed(
        &self,
        c: &Connection,
        sample: Option<Sample<'_>>,
        trusted: bool,
        bytes_only: bool,
    ) -> Option<Judgement> {
        // A dump speaks of the queues as they were after the last payload, or not at all.
        let fresh = sample.filter(|s| s.started > c.last_payload());
        let acknowledged = fresh.is_some_and(|s| s.socket.info.is_some() && !s.sending() && !s.not_sent());
        if trusted && c.unacknowledged() && !acknowledged {
            return Some(Judgement::at_work(Reason::Unacknowledged, Known::Seen, Moment(c.last_out)));
        }
        if trusted
            && !bytes_only
            && let Some((reason, since)) = c.owed()
        {
            return Some(Judgement::at_work(reason, Known::Seen, since));
        }
        let queued = fresh.is_some_and(|s| s.unread() || s.not_sent());
        queued.then(|| Judgement::at_work(Reason::Queued, Known::Inferred, c.last_payload()))
    }

    /// The socket's counters and ages prove payload that is not in the table.
    fn saw_more(&self, c: &Connection, sample: Sample<'_>) -> bool {
        let since = self.attached.max(Moment(c.first_seen));
        let later = |socket: Option<Moment>, packets: u64| {
            socket.is_some_and(|at| at > Moment(packets) && at > since)
        };
        later(sample.earliest_in(), c.last_in) || later(sample.earliest_out(), c.last_out)
    }

    /// Payload was seen and nothing is owed.
    fn after_payload(&self, c: &Connection, bytes_only: bool) -> Judgement {
        let payload = c.last_payload();
        let idle_after = self.contract.idle_after;
        let rest = if bytes_only { Reason::Silent } else { Reason::Answered };
        if c.has(flag::FIN_OUT) {
            // No request can be answered any more.
            let by_dump = true;
            return Judgement {
                by_dump,
                ..Judgement::rest(State::Closing, Reason::Closing, Known::Seen, payload)
            };
        }
        let older = !c.has(flag::NEW);
        // An answer of HTTP/1 seen from its status line to its end is one; of anything else nobody knows
        // how much of it there is.
        let followed = c.has(flag::BOUNDARY) && c.protocol == protocol::HTTP1 || c.has(flag::H2_FOLLOWED);
        if older && c.has(flag::OUT) && !c.has(flag::IN) && !followed && !bytes_only {
            return self.in_doubt(payload, Reason::Midway);
        }
        if c.has(flag::WAITING) && c.perhaps_answered() && !bytes_only {
            return self.in_doubt(payload, Reason::Pipelined);
        }
        // The two directions write their flags without a lock, and one of a request could be lost to the
        // other. Payload that came in last and waits for nothing is that, or the rest of an upload that was
        // answered early.
        if c.protocol == protocol::HTTP1 && c.last_in > c.last_out && !bytes_only {
            return self.in_doubt(payload, Reason::Unanswered);
        }
        let judged = Judgement::until(self.now, (payload, Reason::Recent), idle_after, (rest, Known::Seen));
        // What other streams do says nothing of one that was opened unseen.
        match c.unseen_stream().filter(|_| !bytes_only).map(|since| self.in_doubt(since, Reason::Unseen)) {
            Some(doubt) if doubt.state == State::InFlight && outlasts(&doubt, &judged) => doubt,
            _ => Judgement { by_dump: false, ..judged },
        }
    }

    /// Packets leave it open whether something is owed: in flight until `doubt-after`.
    fn in_doubt(&self, payload: Moment, reason: Reason) -> Judgement {
        let wait = self.contract.doubt_after.max(self.contract.idle_after);
        let judged =
            Judgement::until(self.now, (payload, reason), wait, (Reason::SilentTooLong, Known::Seen));
        let known = if judged.ends.is_some() { Known::Doubt } else { Known::Seen };
        Judgement { known, by_dump: false, ..judged }
    }

    /// A handshake, and nothing more yet.
    fn just_opened(&self, c: &Connection) -> Judgement {
        let opened = Moment(c.first_seen);
        if c.has(flag::FIN_OUT) {
            return Judgement::rest(State::Closing, Reason::Closing, Known::Seen, opened);
        }
        let judged = Judgement::until(
            self.now,
            (opened, Reason::JustOpened),
            self.contract.idle_after,
            (Reason::NeverAsked, Known::Seen),
        );
        Judgement { by_dump: false, ..judged }
    }

    /// A packet without payload came after the last dump: perhaps the ACK of a request that ingress could
    /// not find the socket of. The next dump tells.
    fn doubt(&self, c: &Connection, bytes_only: bool) -> Judgement {
        let wait = if bytes_only { self.contract.idle_after } else { self.contract.doubt_after };
        let judged = Judgement::until(
            self.now,
            (Moment(c.last_packet.max(c.first_seen)), Reason::Doubt),
            wait,
            (Reason::SilentTooLong, Known::Inferred),
        );
        Judgement { by_dump: true, ..judged }
    }
}

/// Both sides have sent their FIN and everything the pod sent has arrived.
fn over(c: &Connection) -> bool {
    c.has(flag::FIN_OUT | flag::FIN_IN | flag::FIN_IN_ACKED) && !c.unacknowledged()
}

fn vanished(known: Known, since: Moment) -> Judgement {
    Judgement { by_dump: true, ..Judgement::rest(State::Vanished, Reason::Vanished, known, since) }
}

/// `a` keeps the connection in flight for longer than `b`.
fn outlasts(a: &Judgement, b: &Judgement) -> bool {
    match (b.state, a.ends, b.ends) {
        (State::InFlight, _, None) => false,
        (State::InFlight, None, Some(_)) => true,
        (State::InFlight, Some(a), Some(b)) => a > b,
        _ => true,
    }
}
