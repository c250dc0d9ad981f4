//! The connection table: an entry for each connection, its HTTP/2 streams, the handshake before it.
//!
//! Written by the kernel alone, packet by packet; the agent reads, and asks for changes with a [`super::Command`].

/// What the packets of one connection have shown, updated in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The socket's cookie, as sock_diag names it; 0 until a packet of the socket left the pod.
    pub cookie: u64,
    /// When the entry was made.
    pub first_seen: u64,
    /// Last inbound payload, 0 for none.
    pub last_in: u64,
    /// Last outbound payload, 0 for none.
    pub last_out: u64,
    /// Last packet of any kind.
    pub last_packet: u64,
    /// Inbound payload, bytes.
    pub bytes_in: u64,
    /// Outbound payload, bytes.
    pub bytes_out: u64,
    /// Sequence number behind the last inbound payload.
    pub in_end: u32,
    /// Sequence number behind the last outbound payload (a FIN not counted).
    pub out_end: u32,
    /// Highest acknowledgement of the peer.
    pub out_acked: u32,
    /// Sequence number behind the response in progress, where [`flag::RESPONSE_LENGTH`] is set; of its next
    /// chunk header, where [`flag::RESPONSE_CHUNKED`] is.
    pub response_end: u32,
    /// Sequence number behind the peer's FIN, where [`flag::FIN_IN`] is set.
    pub fin_in: u32,
    /// Sequence number behind the pod's FIN, where [`flag::FIN_OUT`] is set.
    pub fin_out: u32,
    /// Complete exchanges: a turn from inbound payload to outbound payload.
    pub exchanges: u32,
    /// HTTP/2 streams opened by the peer and not ended, where [`flag::H2_FOLLOWED`] is set. Every
    /// processor adds to it by itself, so it may be one too many for an instant, never one too few.
    pub streams: u32,
    /// [`flag`]s.
    pub flags: u32,
    /// Highest acknowledgement of the pod, where [`flag::IN_ACKED`] is set.
    pub in_acked: u32,
    /// Sequence number behind the last request, where [`flag::REQUEST_LENGTH`] is set.
    pub request_end: u32,
    /// The socket's own local port, 0 until known.
    pub socket_port: u16,
    /// A [`protocol`].
    pub protocol: u8,
    /// Counts the times that [`Connection::streams`] began anew: streams of before are other streams.
    pub h2_epoch: u8,
    /// HTTP/2: where the peer's frames are.
    pub h2_in: H2Position,
    /// HTTP/2: where the pod's frames are.
    pub h2_out: H2Position,
    /// HTTP/2: frames of the peer that have overtaken others.
    pub h2_ahead: H2Ahead,
    /// How far that chunk header was read, see [`crate::chunks`].
    pub chunk: u32,
    /// HTTP/2: when the peer's frames, or the pod's, were last out of sight after they had been followed: a
    /// stream may have been opened, and may be open. 0 for never.
    pub h2_unseen: u64,
    /// When its client was told to leave: the announcement was sent. 0 for never.
    pub told_at: u64,
}

/// By its [`flag`]s: older than the attach, and nothing but an acknowledgement has passed since. What it was at
/// then only its socket tells.
#[inline(always)]
pub const fn is_silent(flags: u32) -> bool {
    flags & (flag::NEW | flag::IN | flag::OUT) == 0
}

/// Bits of [`Connection::flags`].
pub mod flag {
    /// The handshake was seen: the connection is newer than the attach.
    pub const NEW: u32 = 1 << 0;
    /// Inbound payload was seen; `in_end` is valid.
    pub const IN: u32 = 1 << 1;
    /// Outbound payload was seen; `out_end` is valid.
    pub const OUT: u32 = 1 << 2;
    /// `out_acked` is valid.
    pub const ACKED: u32 = 1 << 3;
    /// The last payload was inbound: a request waits for its answer.
    pub const WAITING: u32 = 1 << 4;
    /// The peer's FIN was seen.
    pub const FIN_IN: u32 = 1 << 5;
    /// The pod's FIN was seen.
    pub const FIN_OUT: u32 = 1 << 6;
    /// The peer's FIN was acknowledged by the pod.
    pub const FIN_IN_ACKED: u32 = 1 << 7;
    /// A reset came in, and nothing has left since. Anybody can forge one: a reason to look, not a
    /// removal.
    pub const RESET_IN: u32 = 1 << 8;
    /// The request in progress is a HEAD: its response has no body.
    pub const HEAD: u32 = 1 << 9;
    /// The response in progress has a known end, `response_end`.
    pub const RESPONSE_LENGTH: u32 = 1 << 10;
    /// The response in progress is chunked and its last chunk has not been seen.
    pub const RESPONSE_CHUNKED: u32 = 1 << 11;
    /// The response in progress ends with the connection.
    pub const RESPONSE_UNTIL_CLOSE: u32 = 1 << 12;
    /// An HTTP message boundary was seen: `protocol` is what the packets say, not the port.
    pub const BOUNDARY: u32 = 1 << 13;
    /// The connection became something else (status 101, or 2xx to CONNECT): every open one counts.
    pub const UPGRADED: u32 = 1 << 14;
    /// The pod's HTTP/2 frames are followed, which end streams: `streams` is valid. Where the peer's
    /// are not followed from the first byte as well ([`super::H2Position::state`],
    /// [`super::Connection::h2_unseen`]), there may be more of them than it says; while they are not
    /// followed at all, [`WAITING`] says what the bytes say.
    pub const H2_FOLLOWED: u32 = 1 << 15;
    /// Everything asked for so far was for a health check.
    pub const HEALTH_ONLY: u32 = 1 << 16;
    /// Counted in [`crate::abi::Pod::new_connections`].
    pub const COUNTED: u32 = 1 << 17;
    /// Payload was seen that is in the middle of a message: no boundary known yet.
    pub const MIDWAY: u32 = 1 << 18;
    /// `in_acked` is valid.
    pub const IN_ACKED: u32 = 1 << 19;
    /// The last request has a known end, `request_end`.
    pub const REQUEST_LENGTH: u32 = 1 << 20;
    /// The last request is chunked and its last chunk has not been seen.
    pub const REQUEST_CHUNKED: u32 = 1 << 21;
    /// A request came before the answer to the one before it. How many wait is not known, so
    /// [`WAITING`] stays. For as long as the connection is open, but see [`crate::resync`].
    pub const PIPELINED: u32 = 1 << 22;
    /// What came in last began as an HTTP request does, on a port of which nothing is known.
    pub const ASKED: u32 = 1 << 23;
    /// The request in progress is a CONNECT: what follows its 2xx response is anything.
    pub const CONNECT: u32 = 1 << 24;
    /// The response in progress has sent a part of its head.
    pub const RESPONSE_HEAD: u32 = 1 << 25;
    /// A request came before the end of the answer to the one before it, or what was sent did not end where
    /// it was taken to: where answers begin is not certain, for as long as the connection is open, but see
    /// [`crate::resync`].
    pub const UNCERTAIN: u32 = 1 << 26;
    /// The request in progress is larger than [`crate::announce::SMALL_REQUEST`], or may be.
    pub const LARGE_REQUEST: u32 = 1 << 27;
    /// On trial, see [`crate::resync`]: a request has begun where nothing else was under way.
    pub const TRIAL: u32 = 1 << 28;
    /// One answer to the request on trial has begun.
    pub const TRIAL_ANSWERED: u32 = 1 << 29;
}

/// What a connection speaks, as far as the drain decision cares.
pub mod protocol {
    /// Nothing known: every open connection counts, its silence is not idleness.
    pub const UNKNOWN: u8 = 0;
    /// Request and response, one at a time (HTTP/1.0, HTTP/1.1).
    pub const HTTP1: u8 = 1;
    /// HTTP/2 with prior knowledge, gRPC.
    pub const HTTP2: u8 = 2;
    /// HTTP by the port's name, the version not seen yet.
    pub const HTTP: u8 = 3;
}

/// How far one direction of an HTTP/2 connection has been followed. Each direction writes its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Position {
    /// Sequence number of the next byte of a frame header.
    pub next: u32,
    /// Highest id of a stream that the peer has opened; only inbound.
    pub highest: u32,
    /// The first bytes of a header that goes on in the next segment.
    pub head: [u8; 8],
    /// How many of them.
    pub have: u8,
    /// A [`follow`].
    pub state: u8,
    /// 1: the last frame header was one of HEADERS that go on in CONTINUATION; only outbound.
    pub within_headers: u8,
    /// Zero.
    pub pad: u8,
}

/// Whole frames behind a gap in [`Connection::h2_in`], until what they have overtaken comes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Ahead {
    /// Sequence number of their first byte.
    pub start: u32,
    /// Sequence number behind their last; the same as `start`: there are none.
    pub end: u32,
    /// [`H2Position::highest`] before the gap.
    pub highest: u32,
}

/// Values of [`H2Position::state`].
pub mod follow {
    /// Not followed, or not any more: `next` and `head` mean nothing.
    pub const NO: u8 = 0;
    /// One segment of whole frames was seen; `next` is behind it.
    pub const CANDIDATE: u8 = 1;
    /// Followed from somewhere: there may be streams that were opened before.
    pub const PARTLY: u8 = 2;
    /// Followed from the first byte: every stream is known.
    pub const WHOLLY: u8 = 3;
}

/// A stream that the pod has not ended, see [`super::names::STREAMS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// [`Connection::first_seen`] of its connection.
    pub first_seen: u64,
    /// The pod's number.
    pub pod: u32,
    /// Its id (RFC 9113 section 5.1.1).
    pub stream: u32,
    /// The peer's port.
    pub peer_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// [`Connection::h2_epoch`].
    pub epoch: u32,
}

/// A handshake answered by the pod, until the peer's ACK proves that it is not forged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The pod's initial sequence number.
    pub isn: u32,
    /// What the SYN+ACK acknowledges: behind the peer's SYN, and behind data that came with it.
    pub acknowledged: u32,
    /// 1: data came with the SYN (TCP Fast Open), and the pod has taken it. A SYN+ACK has yet to come
    /// where this is [`Handshake::SYN`]; `isn` is the peer's then.
    pub asked: u32,
    /// Zero.
    pub pad: u32,
}

impl Handshake {
    /// See [`Handshake::asked`].
    pub const SYN: u32 = 2;
}

const _: () = {
    assert!(size_of::<Connection>() == 176);
    assert!(size_of::<H2Position>() == 20);
    assert!(size_of::<StreamKey>() == 24);
    assert!(size_of::<Handshake>() == 16);
};
