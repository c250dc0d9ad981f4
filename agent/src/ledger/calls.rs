//! Where each connection stands with the **last call**: told to leave, to be told, or never.
//!
//! In: an entry of the table, how often it has turned, whether clients of its port are told at all. Out: a
//! [`Call`] for people, and for the policy whether waiting for this one is in vain.

use std::{fmt, time::Duration};

use lastcall_ebpf::abi::{Connection, flag, protocol};

use crate::moment::Moment;

/// Exchanges after which a connection that has still not been told will not be. The kernel must have seen a
/// whole exchange before it is certain where an answer begins: where the drain began in the middle of one,
/// the third answer is the first that can tell.
const CHANCES: u32 = 5;
/// What a client has sent by then it may have sent before it heard. Longer than any round trip.
pub(super) const HEARD_AFTER: Duration = Duration::from_secs(1);

/// Where a connection stands with the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Its client was told then.
    Told(Moment),
    /// Its client was told then, and has begun something new since.
    Stays(Moment),
    /// The answer to its next request will tell it.
    WithTheNextAnswer,
    /// It has had its chances: no answer began where that was certain.
    NoBoundary,
    /// No message of HTTP in the clear was seen on it: TLS, another protocol, or silence.
    NotRecognised,
    /// It became something else.
    Upgraded,
}

/// What reads of the table have shown of a connection, see [`super::memory`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turned {
    /// Exchanges since the drain began.
    pub done: u32,
    /// After it had been told it began another.
    pub went_on: bool,
}

impl Call {
    pub(super) fn of(c: &Connection, turned: Turned) -> Self {
        let recognised =
            c.flags & flag::BOUNDARY != 0 && matches!(c.protocol, protocol::HTTP1 | protocol::HTTP2);
        match Some(Moment(c.told_at)).filter(|at| at.0 != 0) {
            Some(at) if turned.went_on => Self::Stays(at),
            Some(at) => Self::Told(at),
            None if c.flags & flag::UPGRADED != 0 => Self::Upgraded,
            None if !recognised && turned.done > 0 => Self::NotRecognised,
            // Of a connection that has not asked since the drain began nothing is known yet.
            None if turned.done < CHANCES => Self::WithTheNextAnswer,
            None => Self::NoBoundary,
        }
    }

    /// Its client may still go because of the last call; until when, where only time tells.
    pub(super) fn under_way(self, now: Moment, patience: Duration) -> Option<Option<Moment>> {
        match self {
            Self::WithTheNextAnswer => Some(None),
            Self::Told(at) if now < at + patience => Some(Some(at + patience)),
            _ => None,
        }
    }

    /// When its client was told.
    pub fn told(self) -> Option<Moment> {
        match self {
            Self::Told(at) | Self::Stays(at) => Some(at),
            _ => None,
        }
    }
}

/// What has become of the last call, but for the time, which is [`Call::told`].
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Told(_) => "told",
            Self::Stays(_) => "told, and stays",
            Self::WithTheNextAnswer => "with its next answer",
            Self::NoBoundary => "no: no answer began where that was certain",
            Self::NotRecognised => "no: no HTTP in the clear",
            Self::Upgraded => "no: upgraded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn http(flags: u32) -> Connection {
        Connection { protocol: protocol::HTTP1, flags: flag::BOUNDARY | flags, ..Connection::default() }
    }

    fn call(c: &Connection, done: u32, went_on: bool) -> Call {
        Call::of(c, Turned { done, went_on })
    }

    #[test]
    fn where_a_connection_stands() {
        let at = Moment(7);
        let told = Connection { told_at: 7, ..http(0) };
        assert_eq!(call(&told, 9, false), Call::Told(at));
        assert_eq!(call(&told, 9, true), Call::Stays(at));
        assert_eq!(call(&Connection { told_at: 7, ..http(flag::UPGRADED) }, 9, false), Call::Told(at));
        assert_eq!(call(&http(0), 0, false), Call::WithTheNextAnswer);
        assert_eq!(call(&http(0), CHANCES - 1, false), Call::WithTheNextAnswer);
        assert_eq!(call(&http(0), CHANCES, false), Call::NoBoundary);
        assert_eq!(call(&http(flag::UPGRADED), 0, false), Call::Upgraded);
        let silent = Connection { protocol: protocol::HTTP, ..Connection::default() };
        assert_eq!(call(&silent, 0, false), Call::WithTheNextAnswer, "who knows what it will say");
        assert_eq!(call(&silent, 1, false), Call::NotRecognised, "TLS");
        let by_port = Connection { flags: 0, ..http(0) };
        assert_eq!(call(&by_port, 1, false), Call::NotRecognised, "only the port says so");
    }

    #[test]
    fn under_way_ends() {
        let now = Moment(100) + PATIENCE;
        assert_eq!(Call::WithTheNextAnswer.under_way(now, PATIENCE), Some(None));
        let told = Moment(101);
        assert_eq!(Call::Told(told).under_way(now, PATIENCE), Some(Some(told + PATIENCE)));
        assert_eq!(Call::Told(Moment(100)).under_way(now, PATIENCE), None, "time enough to go");
        for call in [Call::Stays(told), Call::NoBoundary, Call::NotRecognised, Call::Upgraded] {
            assert_eq!(call.under_way(now, PATIENCE), None, "{call}");
        }
    }
}
