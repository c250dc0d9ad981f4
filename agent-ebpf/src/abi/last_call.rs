//! The last call: where the kernel keeps things, how far an announcement has come, what was refused.

use super::FlowKey;

/// Where the running kernel keeps what the last call has to know of a socket: offsets in `struct tcp_sock`,
/// from its BTF. All zero: inert.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastCallConfig {
    /// `tcp_sock.write_seq`: sequence number of the next byte that the app writes.
    pub write_seq: u32,
    /// `inet_connection_sock.icsk_ulp_ops`: set where something sits between the app and TCP (kTLS, MPTCP).
    pub ulp_ops: u32,
    /// `tcp_sock.copied_seq`: sequence number of the next byte that the app reads.
    pub copied_seq: u32,
    /// 1: HTTP/2 too.
    pub http2: u32,
    /// 1: a socket in the map tells how much of a large request is still to be read, see
    /// [`crate::announce::SMALL_REQUEST`].
    pub tells_unread: u32,
    /// Zero.
    pub pad: u32,
}

/// A large request that has come in completely. Its app may not have read it yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Its connection.
    pub key: FlowKey,
    /// Sequence number behind the request.
    pub in_end: u32,
    /// Sequence number of its answer's first byte.
    pub out_end: u32,
}

/// How far the announcement on one socket has come. Lives as long as the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcing {
    /// Its connection.
    pub key: FlowKey,
    /// Sequence number of the boundary: the response's first byte, or the next frame's.
    pub boundary: u32,
    /// Sequence number of the next byte that the pod writes, if all since the boundary was seen.
    pub next: u32,
    /// A [`crate::announce::phase`].
    pub phase: u32,
    /// How far the response's head was read.
    pub reader: crate::announce::Reader,
    /// Counts the times that a boundary was set.
    pub turns: u32,
    /// 1: in [`super::names::LAST_CALL_SOCKETS`], unless the agent has taken it out.
    pub held: u32,
}

/// Indices of [`super::names::LAST_CALL_COUNTS`], an array of `u64`.
pub mod last_call_count {
    /// Sockets put into the map.
    pub const INSERTED: u32 = 0;
    /// Sockets taken out by the response's first segment.
    pub const DELETED: u32 = 1;
    /// Announcements of `Connection: close` that have left the pod.
    pub const HTTP1: u32 = 2;
    /// Announcements of GOAWAY that have left the pod.
    pub const HTTP2: u32 = 3;
    /// A request in several segments finds its socket in the map: no refusal.
    pub const ALREADY_IN: u32 = 4;
    /// Refused: a segment that the socket has had, or one that has overtaken others.
    pub const DUPLICATE_SEGMENT: u32 = 5;
    /// Refused: no socket by that tuple.
    pub const NO_SOCKET: u32 = 6;
    /// Refused: a socket that is not ESTABLISHED.
    pub const NOT_ESTABLISHED: u32 = 7;
    /// Refused: something sits between the app and TCP (kTLS, MPTCP).
    pub const ULP: u32 = 8;
    /// Refused: the map is full, or the kernel does not take this socket.
    pub const NOT_TAKEN: u32 = 9;
    /// Refused: not one exchange was seen from its beginning to its end, or a response is in progress.
    pub const NO_BOUNDARY: u32 = 10;
    /// Refused: bytes of before are not sent, or not acknowledged.
    pub const UNSENT: u32 = 11;
    /// Refused: its client does not wait for answers.
    pub const PIPELINED: u32 = 12;
    /// Refused: the connection has become something else.
    pub const UPGRADED: u32 = 13;
    /// Given up: what was written does not begin where the boundary is.
    pub const MISSED: u32 = 14;
    /// Given up: what is at the boundary is no status line.
    pub const UNRECOGNISED: u32 = 15;
    /// Given up: no memory for the announcement, or the kernel's helper cannot put it there.
    pub const PUSH_FAILED: u32 = 16;
    /// Given up: what was written could not be looked at.
    pub const PULL_FAILED: u32 = 17;
    /// A message was dropped because a hole in it could be neither filled nor closed.
    pub const DROPPED: u32 = 18;
    /// Given up: so long a head of an interim response, or status line, is not read.
    pub const TOO_LONG: u32 = 19;
    /// Refused: a large request, of unknown end, or one whose answer began before anybody saw that it had been
    /// read; see [`crate::announce::SMALL_REQUEST`].
    pub const LARGE_REQUEST: u32 = 20;
    /// Large requests that wait to be read: no refusal.
    pub const UNREAD: u32 = 21;
    /// Length of the array.
    pub const LEN: u32 = 24;
}

const _: () = {
    assert!(size_of::<LastCallConfig>() == 24);
    assert!(size_of::<Unread>() == 52);
    assert!(size_of::<Announcing>() == 80);
};
