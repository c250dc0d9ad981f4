//! What a socket tells of a connection of which no payload was seen.
//!
//! In: one socket of one dump, and how it changed since the dump before. Out: a [`Judgement`]. The order
//! of the questions matters and was found by experiment (400 of 400 back-to-back requests share a jiffy
//! with the response before them): queues first, bytes that moved, then the ages, where a tie says
//! nothing unless an ACK came later, and everything else is doubt.

use std::time::Duration;

use super::{
    TICK, VANISHED_AFTER, VANISHED_FOR,
    judgement::{Judgement, Known, Reason, State},
    memory::Past,
};
use crate::{
    contract::Contract,
    moment::Moment,
    sockets::{Socket, TcpInfo, TcpState},
};

/// The latest at which the ACK of a response can follow it: half a second of delay (RFC 1122, 4.2.3.2)
/// and a round trip. A later one answers a keep-alive probe and says nothing about a response.
const DELAYED_ACK: Duration = Duration::from_secs(1);

/// A socket as one dump showed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    pub socket: &'a Socket,
    pub past: Past,
    pub started: Moment,
    pub finished: Moment,
}

impl Sample<'_> {
    fn info(&self) -> TcpInfo {
        self.socket.info.unwrap_or_default()
    }

    /// The pod has sent its FIN.
    fn closed_by_pod(&self) -> bool {
        use TcpState::{Closing, FinWait1, FinWait2, LastAck};
        matches!(self.socket.state, FinWait1 | FinWait2 | Closing | LastAck)
    }

    /// Sent and not acknowledged, or not sent for want of room. The FIN takes one of the queue.
    pub(super) fn sending(&self) -> bool {
        let fin = u32::from(self.closed_by_pod() && self.socket.state != TcpState::FinWait2);
        self.socket.send_queue > fin
    }

    /// Written by the app and not sent: the client has no room for it.
    pub(super) fn not_sent(&self) -> bool {
        let fin = u32::from(self.closed_by_pod());
        self.info().not_sent > fin
    }

    /// Received and not read by the app. The peer's FIN takes one of the queue until it is read.
    pub(super) fn unread(&self) -> bool {
        use TcpState::{CloseWait, Closing, LastAck};
        let fin = u32::from(matches!(self.socket.state, CloseWait | LastAck | Closing));
        self.socket.receive_queue > fin
    }

    /// Nobody acknowledges what is sent. The count alone does not tell for how long: each "host
    /// unreachable" of a router takes one step of the backoff back (RFC 6069), and six retransmissions
    /// then fit into four seconds. So nothing may have come from the client for as long either.
    pub(super) fn vanished(&self) -> bool {
        self.socket.retransmits.max(self.info().retransmits) >= VANISHED_AFTER
            && self.socket.info.is_none_or(|info| info.last_ack_received >= VANISHED_FOR)
    }

    /// Whatever the app did with it, nothing can be lost any more: both sides have sent their FIN, or
    /// the pod's end has no owner, and all data has arrived.
    pub(super) fn over(&self) -> bool {
        let done = match self.socket.state {
            TcpState::Closing | TcpState::LastAck => true,
            TcpState::FinWait1 | TcpState::FinWait2 => self.socket.inode == 0,
            _ => false,
        };
        done && !self.sending() && !self.unread()
    }

    /// Earliest time at which the last data can have come in; `None` if none ever did.
    pub(super) fn earliest_in(&self) -> Option<Moment> {
        let info = self.info();
        (info.bytes_received > 0).then(|| self.started - info.last_data_received - TICK)
    }

    /// Earliest time at which the last data can have been sent; `None` if none ever was.
    pub(super) fn earliest_out(&self) -> Option<Moment> {
        let info = self.info();
        has_sent(&info).then(|| self.started - info.last_data_sent - TICK)
    }

    /// Latest time at which data can have moved.
    fn latest_activity(&self) -> Option<Moment> {
        let info = self.info();
        let came = (info.bytes_received > 0).then(|| self.finished - info.last_data_received);
        let left = has_sent(&info).then(|| self.finished - info.last_data_sent);
        came.max(left).max(self.past.moved)
    }

    /// Under `until=idle`: bytes alone, any protocol.
    pub(super) fn judge_bytes(&self, now: Moment, contract: &Contract) -> Judgement {
        if let Some(judgement) = self.judge_queues() {
            return judgement;
        }
        match self.latest_activity() {
            Some(active) => Judgement::until(
                now,
                (active, Reason::Recent),
                contract.idle_after,
                (Reason::Silent, Known::Inferred),
            ),
            None => Judgement::rest(State::Idle, Reason::Silent, Known::Inferred, self.started),
        }
    }

    fn judge_queues(&self) -> Option<Judgement> {
        let reason = if self.unread() || self.not_sent() {
            Reason::Queued
        } else if self.sending() || (self.info().unacked > 0 && !self.closed_by_pod()) {
            Reason::Unacknowledged
        } else {
            return None;
        };
        Some(Judgement::at_work(reason, Known::Inferred, self.started))
    }

    /// A connection of a request/response protocol. `witnessed`: that the last request came is seen,
    /// only its answer is asked for.
    pub(super) fn judge_exchange(&self, now: Moment, contract: &Contract, witnessed: bool) -> Judgement {
        if let Some(judgement) = self.judge_queues() {
            return judgement;
        }
        let Some(info) = self.socket.info else {
            return self.doubt(now, contract, self.finished);
        };
        if self.closed_by_pod() {
            return Judgement::rest(State::Closing, Reason::Closing, Known::Inferred, self.started);
        }
        let active = self.latest_activity().unwrap_or(self.started);
        let rests = |reason| {
            Judgement::until(now, (active, Reason::Recent), contract.idle_after, (reason, Known::Inferred))
        };
        if info.bytes_received == 0 {
            let moved = self.past.moved.is_some();
            return match moved {
                true => rests(Reason::NeverAsked),
                false => Judgement::rest(State::Idle, Reason::NeverAsked, Known::Inferred, self.started),
            };
        }
        // It has asked, and nothing has ever been sent on it: no ages are needed.
        if !has_sent(&info) {
            return Judgement::at_work(Reason::Unanswered, Known::Inferred, self.started);
        }
        match answered(&info, self.socket.state == TcpState::CloseWait) {
            Some(true) => rests(Reason::Answered),
            Some(false) if witnessed || self.past.witnessed => {
                Judgement::at_work(Reason::Unanswered, Known::Inferred, self.started)
            }
            _ => {
                let judgement = self.doubt(now, contract, self.finished - info.last_data_received);
                // `doubt-after` may be shorter than `idle-after`.
                match rests(Reason::SilentTooLong) {
                    recent if judgement.ends < recent.ends => recent,
                    _ => judgement,
                }
            }
        }
    }

    fn doubt(&self, now: Moment, contract: &Contract, since: Moment) -> Judgement {
        Judgement::until(
            now,
            (since, Reason::Doubt),
            contract.doubt_after,
            (Reason::SilentTooLong, Known::Inferred),
        )
    }
}

/// `tcpi_bytes_acked` may count a SYN.
fn has_sent(info: &TcpInfo) -> bool {
    info.bytes_acked > 1 || info.unacked > 0 || info.not_sent > 0
}

/// Whether the last data received has been answered; `None` where the ages tie and no ACK tells.
fn answered(info: &TcpInfo, fin_received: bool) -> Option<bool> {
    let (received, sent) = (info.last_data_received, info.last_data_sent);
    if received > sent + TICK {
        return Some(true);
    }
    if sent > received + TICK {
        return Some(false);
    }
    // The client's delayed ACK came after the response. A request in the same jiffy carries its own. A FIN
    // carries one too, and then nothing is delayed.
    if fin_received {
        return None;
    }
    let ack = info.last_ack_received;
    let delayed = received > ack + TICK && received - ack <= DELAYED_ACK;
    delayed.then_some(true)
}
