//! What packets show of a connection.
//!
//! In: an entry of the connection table, pure. Out: what is owed on it, when payload last moved, whether
//! the pod has closed its side.

use lastcall_ebpf::abi::{Connection, flag, follow, protocol};

use super::judgement::Reason;
use crate::moment::Moment;

/// `a` is before `b` in the circle of sequence numbers (RFC 9293, 3.4).
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A response whose end is not in sight: it is in progress, and no more is known.
const ENDLESS: u32 = flag::RESPONSE_CHUNKED | flag::RESPONSE_UNTIL_CLOSE | flag::RESPONSE_HEAD;

/// The readings of an entry that the judgement needs.
pub(super) trait Seen {
    fn has(&self, flags: u32) -> bool;
    /// Last payload either way; zero for none.
    fn last_payload(&self) -> Moment;
    /// Sent data has not been acknowledged.
    fn unacknowledged(&self) -> bool;
    /// The response in progress has not been sent to its end.
    fn unfinished(&self) -> bool;
    /// Several requests came at once, and something was sent since the last of them: nobody counts
    /// whether that was all the answers.
    fn perhaps_answered(&self) -> bool;
    /// HTTP/2: when a stream may last have been opened that nobody saw, and that may be open.
    fn unseen_stream(&self) -> Option<Moment>;
    /// What is owed by the messages: a request without an answer, a response without an end, streams.
    fn owed(&self) -> Option<(Reason, Moment)>;
}

impl Seen for Connection {
    fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    fn last_payload(&self) -> Moment {
        Moment(self.last_in.max(self.last_out))
    }

    fn unacknowledged(&self) -> bool {
        self.has(flag::OUT) && (!self.has(flag::ACKED) || before(self.out_acked, self.out_end))
    }

    fn unfinished(&self) -> bool {
        self.flags & ENDLESS != 0
            || (self.has(flag::RESPONSE_LENGTH) && before(self.out_end, self.response_end))
    }

    fn perhaps_answered(&self) -> bool {
        self.has(flag::PIPELINED) && self.last_out > self.last_in
    }

    fn unseen_stream(&self) -> Option<Moment> {
        let older = !self.has(flag::NEW) && self.h2_in.state != follow::WHOLLY;
        let since = self.h2_unseen.max(if older { self.first_seen } else { 0 });
        (self.protocol == protocol::HTTP2 && since > 0).then_some(Moment(since))
    }

    fn owed(&self) -> Option<(Reason, Moment)> {
        if self.has(flag::FIN_OUT) {
            // The pod has closed its side: whatever was asked, no more answer can come.
            None
        } else if self.has(flag::H2_FOLLOWED) && self.streams > 0 {
            Some((Reason::Streams(self.streams), Moment(self.last_in)))
        } else if self.has(flag::WAITING) && !self.perhaps_answered() {
            Some((Reason::Unanswered, Moment(self.last_in)))
        } else if self.unfinished() {
            Some((Reason::Unfinished, Moment(self.last_in.max(self.first_seen))))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(before(u32::MAX, 0));
        assert!(before(u32::MAX - 5, 5));
        assert!(!before(5, u32::MAX - 5));
        assert!(!before(7, 7));
    }

    #[test]
    fn data_is_unacknowledged_until_an_ack_covers_its_end_across_the_wrap() {
        let mut c = Connection { flags: flag::OUT, out_end: 3, ..Connection::default() };
        assert!(c.unacknowledged(), "no ACK has been seen");
        (c.flags, c.out_acked) = (flag::OUT | flag::ACKED, u32::MAX - 2);
        assert!(c.unacknowledged());
        c.out_acked = 3;
        assert!(!c.unacknowledged());
        c.out_acked = 4;
        assert!(!c.unacknowledged(), "the ACK of a FIN is one further");
    }

    #[test]
    fn nothing_is_owed_behind_the_pods_own_fin() {
        let flags = flag::WAITING | flag::RESPONSE_CHUNKED;
        let c = Connection { flags, ..Connection::default() };
        assert_eq!(c.owed().map(|o| o.0), Some(Reason::Unanswered));
        assert_eq!(Connection { flags: flags | flag::FIN_OUT, ..c }.owed(), None);
    }
}
