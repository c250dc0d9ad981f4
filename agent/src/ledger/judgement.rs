//! The words for what a connection is doing, and how that is known.

use std::{fmt, time::Duration};

use crate::moment::Moment;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Something would be lost if the pod were stopped now, or may be.
    InFlight,
    /// Open, and nothing is owed.
    Idle,
    /// The pod has closed its side and everything it sent has arrived.
    Closing,
    /// The client has not answered six or more retransmissions.
    Vanished,
}

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Known {
    /// Packets showed it.
    Seen,
    /// The socket's queues, counters and ages show it.
    Inferred,
    /// Nothing shows it: it counts until `doubt-after`.
    Doubt,
}

/// Why a connection counts, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A request without an answer.
    Unanswered,
    /// A response whose end has not been sent.
    Unfinished,
    /// Sent data that the client has not acknowledged.
    Unacknowledged,
    /// Data that the app has not read, or that the client has no room for.
    Queued,
    /// HTTP/2 streams, so many.
    Streams(u32),
    /// Payload within `idle-after`.
    Recent,
    /// The handshake has just ended: the request is on its way.
    JustOpened,
    /// An unknown protocol: its silence is not idleness.
    UnknownProtocol,
    /// Upgraded (status 101, CONNECT): its silence is not idleness.
    Upgraded,
    /// Older than the attach, and nothing tells whether it was answered.
    Doubt,
    /// HTTP/2, and a stream may be open that nobody saw being opened.
    Unseen,
    /// The middle of a response whose beginning was not seen.
    Midway,
    /// Several requests came at once, and not so many answers have been seen.
    Pipelined,
    /// Datagrams within `udp-idle`.
    Datagrams,
    /// Answered, and silent since.
    Answered,
    /// Has never asked anything.
    NeverAsked,
    /// No bytes for `idle-after`, whatever the protocol.
    Silent,
    /// Unclear for `doubt-after`, and silent all that time.
    SilentTooLong,
    /// It only checks health, or its source is ignored.
    Unimportant,
    /// Both sides are done, but for the last acknowledgement.
    Closing,
    /// Nobody acknowledges any more.
    Vanished,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InFlight => "in flight",
            Self::Idle => "idle",
            Self::Closing => "closing",
            Self::Vanished => "vanished",
        })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "seen",
            Self::Inferred => "inferred",
            Self::Doubt => "doubt",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unanswered => "request unanswered",
            Self::Unfinished => "response unfinished",
            Self::Unacknowledged => "data not acknowledged",
            Self::Queued => "data queued",
            Self::Streams(1) => "1 stream open",
            Self::Streams(n) => return write!(f, "{n} streams open"),
            Self::Recent => "bytes moved just now",
            Self::JustOpened => "just opened",
            Self::UnknownProtocol => "open, protocol unknown",
            Self::Upgraded => "open, upgraded",
            Self::Doubt => "older than the attach, not known whether answered",
            Self::Unseen => "streams may be open that were opened unseen",
            Self::Midway => "middle of a response whose start was not seen",
            Self::Pipelined => "several requests at once, not known whether all were answered",
            Self::Datagrams => "datagrams just now",
            Self::Answered => "answered",
            Self::NeverAsked => "never asked anything",
            Self::Silent => "silent",
            Self::SilentTooLong => "silent for doubt-after",
            Self::Unimportant => "health checks or an ignored source",
            Self::Closing => "closed, last acknowledgement outstanding",
            Self::Vanished => "client vanished",
        })
    }
}

/// What is judged of one connection at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub state: State,
    pub known: Known,
    pub reason: Reason,
    /// Work is under way this instant: not merely within `idle-after` of it.
    pub at_work: bool,
    /// Nothing more can be lost with it, whatever the contract: `closed` does not wait for it either.
    pub over: bool,
    /// Since when it is in this state.
    pub since: Moment,
    /// When it stops being in flight if nothing more happens; later than now.
    pub ends: Option<Moment>,
    /// Only another dump can change this: no packet will.
    pub by_dump: bool,
}

impl Judgement {
    /// Something is owed this instant.
    pub(super) fn at_work(reason: Reason, known: Known, since: Moment) -> Self {
        Self {
            state: State::InFlight,
            known,
            reason,
            at_work: true,
            over: false,
            since,
            ends: None,
            by_dump: known != Known::Seen,
        }
    }

    /// In flight as long as it is open.
    pub(super) fn open(reason: Reason, known: Known, since: Moment) -> Self {
        Self { at_work: false, ..Self::at_work(reason, known, since) }
    }

    /// Not in flight.
    pub(super) fn rest(state: State, reason: Reason, known: Known, since: Moment) -> Self {
        Self { state, ..Self::open(reason, known, since) }
    }

    /// In flight until `ends`, then idle: no packet announces it.
    pub(super) fn until(
        now: Moment,
        (active, reason): (Moment, Reason),
        wait: Duration,
        (idle, known): (Reason, Known),
    ) -> Self {
        let ends = active + wait;
        if now < ends {
            let known = if reason == Reason::Doubt { Known::Doubt } else { known };
            Self { ends: Some(ends), ..Self::open(reason, known, active) }
        } else {
            Self::rest(State::Idle, idle, known, ends)
        }
    }

    /// Nothing more can be lost with it.
    pub(super) fn over(known: Known, since: Moment) -> Self {
        Self { over: true, ..Self::rest(State::Closing, Reason::Closing, known, since) }
    }
}
