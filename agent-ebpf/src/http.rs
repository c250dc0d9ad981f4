//! Where an HTTP/1 message begins and where it ends. Pure.
//!
//! In: the first bytes of a segment's payload, the [`Head`] of a message, and what is known of its
//! connection. Out: the connection's flags. By start lines and the two headers that frame a body (RFC 9112
//! section 6). Nothing else of a message is looked at, and nothing of it is kept.
//!
//! Where this is wrong it must be wrong on the side of "in flight".

pub use crate::start::{H2_PREFACE, REQUEST_PEEK, Start, start, target_hash};
use crate::{
    abi::{Connection, flag, protocol},
    announce::SMALL_REQUEST,
    chunks,
    head::Head,
    resync,
    tcp::after,
};

/// The payload of one segment, by its sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of its first byte.
    pub sequence: u32,
    /// Bytes.
    pub payload: u32,
}

impl Piece {
    /// Behind its last byte.
    #[inline(always)]
    pub fn end(self) -> u32 {
        self.sequence.wrapping_add(self.payload)
    }
}

const REQUEST: u32 = flag::REQUEST_LENGTH | flag::REQUEST_CHUNKED;

/// Nothing says that this is HTTP.
#[inline(always)]
fn unknown(c: &Connection) -> bool {
    c.protocol == protocol::UNKNOWN && c.flags & flag::BOUNDARY == 0
}

/// The first bytes that come in on a connection, at the beginning of a message therefore.
#[inline(always)]
pub fn opens(c: &mut Connection, start: Start) {
    if start.is_request() && c.protocol == protocol::HTTP2 {
        c.protocol = protocol::HTTP; // Whatever the port is called.
    }
    if matches!(start, Start::Short) && c.protocol == protocol::HTTP {
        c.protocol = protocol::HTTP1;
        c.flags |= flag::BOUNDARY;
    }
}

/// The segment goes on with the body of a request whose answer has begun already. Whatever it looks like: its end
/// is known, and something is in flight anyway. Not behind the answer: a client that was refused may send no more
/// of the body (RFC 9110 section 10.1.1), and then this is another request.
#[inline(always)]
fn in_answered_body(c: &Connection, piece: Piece) -> bool {
    c.flags & RESPONSE != 0
        && c.flags & (flag::WAITING | flag::REQUEST_LENGTH) == flag::REQUEST_LENGTH
        && after(c.request_end, piece.sequence)
}

/// A request begins with this segment, and its head is worth reading.
#[inline(always)]
pub fn request_begins(c: &Connection, start: Start, piece: Piece) -> bool {
    start.is_request()
        && !in_answered_body(c, piece)
        && c.flags & flag::UPGRADED == 0
        && (c.flags & flag::WAITING == 0 || resync::tries(c, start, piece))
        && c.protocol != protocol::HTTP2
        && !unknown(c)
}

/// An inbound segment that advanced, not of HTTP/2: does a request wait for its answer now? `head` is
/// its head, where [`request_begins`]; `last_chunk`: the segment ends with one.
#[inline(always)]
pub fn request(c: &mut Connection, start: Start, piece: Piece, head: &Head, last_chunk: bool) {
    let perhaps_one = start.is_request() || matches!(start, Start::Short | Start::Blank);
    let begins_one = request_begins(c, start, piece);
    resync::asked(c, start, piece);
    if perhaps_one && c.flags & (RESPONSE | flag::REQUEST_CHUNKED) != 0 && !in_answered_body(c, piece) {
        uncertain(c);
    }
    if c.flags & flag::UPGRADED != 0 {
        c.flags |= flag::WAITING;
    } else if unknown(c) {
        anything(c, start);
    } else if begins_one {
        begins(c, start, piece, head, last_chunk);
    } else if c.flags & flag::BOUNDARY == 0 {
        c.flags |= flag::WAITING | flag::MIDWAY;
    } else if c.flags & flag::REQUEST_LENGTH != 0 && after(c.request_end, piece.sequence) {
        // The rest of a body: its request waits since its first line, or its answer came early and no
        // more is to come. Unless the next request is in the same segment.
        if after(piece.end(), c.request_end) {
            one_more(c);
        }
    } else if c.flags & flag::REQUEST_CHUNKED != 0
        && (c.flags & flag::WAITING != 0 || !matches!(start, Start::Short) && !start.is_request())
    {
        // Once it was answered, a few capital letters may be the beginning of the next one.
        if last_chunk {
            c.flags &= !flag::REQUEST_CHUNKED;
        }
    } else if start.is_request() || c.flags & flag::REQUEST_LENGTH != 0 && !matches!(start, Start::Blank) {
        one_more(c);
    } else {
        // Behind a request of unknown length, or the beginning of one that does not look like any.
        c.flags |= flag::WAITING;
    }
}

/// Not HTTP so far as anybody knows. A request line on any port says otherwise, and only ever makes a wait
/// shorter once the response's own first line has confirmed it.
#[inline(always)]
fn anything(c: &mut Connection, start: Start) {
    if c.flags & flag::WAITING == 0 {
        c.flags &= !(flag::ASKED | flag::HEAD | flag::CONNECT);
        if start.is_request() {
            c.flags |= flag::ASKED | method(start);
        }
    }
    c.flags |= flag::WAITING;
}

#[inline(always)]
fn method(start: Start) -> u32 {
    match start {
        Start::Head => flag::HEAD,
        Start::Connect => flag::CONNECT,
        _ => 0,
    }
}

#[inline(always)]
fn begins(c: &mut Connection, start: Start, piece: Piece, head: &Head, last_chunk: bool) {
    c.protocol = protocol::HTTP1;
    c.flags &= !(flag::MIDWAY | flag::HEAD | flag::CONNECT | REQUEST);
    c.flags |= flag::BOUNDARY | flag::WAITING | flag::LARGE_REQUEST | method(start);
    if head.body == 0 {
        return; // It goes on in the next segment.
    }
    if head.chunked != 0 {
        if last_chunk {
            size(c, piece, piece.end());
        } else {
            c.flags |= flag::REQUEST_CHUNKED;
        }
    } else if let Some(end) = head.end() {
        size(c, piece, end);
        c.request_end = end;
        c.flags |= flag::REQUEST_LENGTH;
        if after(piece.end(), end) {
            one_more(c);
        }
    }
}

/// The request that begins with this segment goes to `end`.
#[inline(always)]
fn size(c: &mut Connection, piece: Piece, end: u32) {
    if !after(end, piece.sequence.wrapping_add(SMALL_REQUEST)) {
        c.flags &= !flag::LARGE_REQUEST;
    }
}

/// A request begins behind another in the same segment, or before the other was answered.
#[inline(always)]
fn one_more(c: &mut Connection) {
    if c.flags & flag::WAITING != 0 {
        c.flags |= flag::PIPELINED;
    }
    if c.flags & (flag::WAITING | RESPONSE) != 0 {
        uncertain(c);
    }
    c.flags |= flag::WAITING;
    c.flags &= !(REQUEST | flag::HEAD | flag::CONNECT);
}

/// Where answers begin is not certain any more.
#[inline(always)]
fn uncertain(c: &mut Connection) {
    c.flags |= flag::UNCERTAIN;
    resync::failed(c);
}

/// The connection is not HTTP any more: as long as it is open, it is in use.
#[inline(always)]
pub fn upgraded(c: &mut Connection) {
    c.flags |= flag::UPGRADED;
    c.protocol = protocol::UNKNOWN;
}

/// Reads a status line's beginning, `HTTP/1.1 200`: the code.
#[inline(always)]
pub fn status(b: &[u8; 12]) -> Option<u16> {
    let prefix = u64::from_be_bytes([0, b[0], b[1], b[2], b[3], b[4], b[5], b[6]]);
    if prefix != u64::from_be_bytes(*b"\0HTTP/1.") || !b[7].is_ascii_digit() || b[8] != b' ' {
        return None;
    }
    let digit = |b: u8| if b.is_ascii_digit() { Some(u16::from(b - b'0')) } else { None };
    Some(digit(b[9])? * 100 + digit(b[10])? * 10 + digit(b[11])?)
}

/// Bits of a request without its complete answer, as far as the packets tell.
pub const UNFINISHED: u32 =
    flag::WAITING | flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED | flag::RESPONSE_HEAD;

/// A response has begun, and its end was not seen.
pub const RESPONSE: u32 =
    flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED | flag::RESPONSE_UNTIL_CLOSE | flag::RESPONSE_HEAD;

/// What looks like a status line is one: not a body that contains one, nor another protocol.
#[inline(always)]
pub fn is_response(c: &Connection) -> bool {
    if c.flags & flag::UPGRADED != 0 {
        return false;
    }
    if unknown(c) {
        return c.flags & (flag::ASKED | flag::WAITING) == flag::ASKED | flag::WAITING;
    }
    c.flags & RESPONSE == 0 || c.flags & (flag::WAITING | flag::TRIAL_ANSWERED) == flag::WAITING
}

/// A response begins; its head is in `head`, as far as it was sent. Answers whether another one follows it:
/// this one was interim.
#[inline(always)]
pub fn response_begins(c: &mut Connection, code: u16, head: &mut Head) -> bool {
    c.flags |= flag::BOUNDARY;
    c.flags &= !(flag::MIDWAY | RESPONSE);
    c.protocol = protocol::HTTP1;
    if code == 101 || c.flags & flag::CONNECT != 0 && code / 100 == 2 {
        upgraded(c);
        answered(c);
        return false;
    }
    if code < 200 {
        // The request still waits for the final one, also where it came before the attach.
        c.flags |= flag::WAITING;
        if head.body == 0 {
            head.follows = Head::INTERIM;
            c.flags |= flag::RESPONSE_HEAD;
        }
        return true;
    }
    resync::answered(c);
    answered(c);
    if c.flags & flag::HEAD != 0 || code == 204 || code == 304 {
        head.follows = Head::NOTHING;
    }
    // What comes in next may be the beginning of a request that does not say yet what it is.
    c.flags &= !(flag::HEAD | flag::CONNECT);
    if head.body == 0 {
        c.flags |= flag::RESPONSE_HEAD;
    } else {
        response_framed(c, head);
    }
    false
}

/// The head of a response has been sent completely.
#[inline(always)]
pub fn response_framed(c: &mut Connection, head: &Head) {
    c.flags &= !flag::RESPONSE_HEAD;
    if head.follows != Head::BODY {
        return;
    }
    if head.chunked != 0 {
        c.flags |= flag::RESPONSE_CHUNKED;
        chunks::begin(c, head.start.wrapping_add(head.body));
        return;
    }
    match head.end() {
        Some(end) if head.has_length != 0 => {
            c.flags |= flag::RESPONSE_LENGTH;
            c.response_end = end;
        }
        _ => c.flags |= flag::RESPONSE_UNTIL_CLOSE,
    }
}

/// The head of a response is too long, or its beginning is forgotten.
#[inline(always)]
pub fn response_unframed(c: &mut Connection) {
    c.flags &= !flag::RESPONSE_HEAD;
    c.flags |= flag::RESPONSE_UNTIL_CLOSE;
}

/// An outbound segment that advanced and does not begin a response.
#[inline(always)]
pub fn response_continues(c: &mut Connection) {
    if c.protocol == protocol::HTTP1 && c.flags & flag::BOUNDARY != 0 {
        if c.flags & (RESPONSE | flag::MIDWAY) == 0 {
            uncertain(c);
            resync::goes_on(c);
        }
        return; // In the middle of a body; or of a response whose request is the next one.
    }
    answered(c);
    if c.flags & (flag::BOUNDARY | flag::UPGRADED | flag::MIDWAY) == 0 && c.protocol != protocol::UNKNOWN {
        c.flags |= flag::MIDWAY;
    }
}

/// The last chunk, behind the end of the one before it.
///
/// Five bytes less would also match a chunk of data that ends in a zero and an empty line.
pub const LAST_CHUNK: [u8; 7] = *b"\r\n0\r\n\r\n";

/// Has the response in progress ended with what was sent so far? `last_chunk`: the segment ends with one.
#[inline(always)]
pub fn response_ends(c: &mut Connection, last_chunk: bool) {
    if c.flags & flag::RESPONSE_LENGTH != 0 && !after(c.response_end, c.out_end) {
        c.flags &= !flag::RESPONSE_LENGTH;
        if c.response_end != c.out_end {
            uncertain(c);
        }
    }
    // Where chunks are not followed, their end is only likely.
    if c.flags & flag::RESPONSE_CHUNKED != 0 && !chunks::followed(c) {
        uncertain(c);
        if last_chunk {
            c.flags &= !flag::RESPONSE_CHUNKED;
        }
    }
}

/// The chunks of the response in progress have been followed to its end.
#[inline(always)]
pub fn chunks_end(c: &mut Connection) {
    c.flags &= !flag::RESPONSE_CHUNKED;
    if c.response_end != c.out_end {
        uncertain(c);
    }
}

/// The pod closes this connection: is something cut by it?
#[inline(always)]
pub fn is_cut(c: &Connection) -> bool {
    // Of a protocol that nobody knows, a last word before the peer's own FIN is no question.
    let farewell = c.protocol == protocol::UNKNOWN && c.flags & flag::FIN_IN != 0;
    let streams = c.flags & flag::H2_FOLLOWED != 0 && c.streams != 0;
    streams || c.flags & UNFINISHED != 0 && !farewell
}

/// Something was answered.
#[inline(always)]
pub fn answered(c: &mut Connection) {
    if c.flags & flag::WAITING != 0 {
        if c.flags & flag::PIPELINED == 0 {
            c.flags &= !flag::WAITING;
        }
        c.exchanges = c.exchanges.wrapping_add(1);
    }
}
