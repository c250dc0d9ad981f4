//! Where an HTTP message begins and where it ends. Pure.
//!
//! In: the first bytes of a segment's payload, and what is known of its connection. Out: the
//! connection's flags. HTTP/1 by start lines and the two headers that frame a body (RFC 9112
//! section 6); HTTP/2 by its preface and frame headers (RFC 9113 sections 3.4 and 4.1). Nothing else
//! of a message is looked at, and nothing of it is kept.
//!
//! Where this is wrong it must be wrong on the side of "in flight".

use crate::{
    abi::{Connection, FNV_OFFSET, HEALTH_PATH_MAX, flag, path_hash_step, protocol},
    tcp::after,
};

/// How many bytes of an inbound segment are looked at: a method, and the path behind it.
pub const REQUEST_PEEK: usize = 64;
/// How many bytes of a response's head are looked at. A longer head leaves the length unknown.
pub const RESPONSE_PEEK: usize = 768;
/// `PRI * HTTP/2.0`: how an HTTP/2 connection with prior knowledge begins.
pub const H2_PREFACE: [u8; 8] = *b"PRI * HT";
/// An HTTP/2 frame header, bytes.
pub const H2_HEADER: usize = 9;

/// What an inbound segment's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Start {
    /// A method and a space: a request begins here.
    Request,
    /// The same, of a HEAD, whose response has no body whatever its headers say.
    Head,
    /// Too short to tell; may well be the beginning of a request.
    Short,
    /// An HTTP/2 preface.
    Preface,
    /// Anything else: a body, another protocol.
    Other,
}

/// The longest method that is recognised, bytes (`VERSION-CONTROL`, `BASELINE-CONTROL` is longer).
const METHOD_MAX: usize = 15;

/// Says what `bytes`, the first of a segment's payload, begin with. `len` of them are valid.
#[inline(always)]
pub fn start(bytes: &[u8; REQUEST_PEEK], len: usize) -> (Start, usize) {
    if len >= 8 && eight(bytes) == u64::from_be_bytes(H2_PREFACE) {
        return (Start::Preface, 0);
    }
    for (i, &b) in bytes.iter().enumerate().take(METHOD_MAX + 1) {
        if i >= len {
            return (Start::Short, 0);
        }
        if b == b' ' {
            if i < 3 {
                return (Start::Other, 0);
            }
            let head = i == 4 && eight(bytes) >> 24 == u64::from_be_bytes(*b"\0\0\0HEAD ");
            return (if head { Start::Head } else { Start::Request }, i + 1);
        }
        if !(b.is_ascii_uppercase() || b == b'-') {
            return (Start::Other, 0);
        }
    }
    (Start::Other, 0)
}

#[inline(always)]
fn eight(b: &[u8; REQUEST_PEEK]) -> u64 {
    u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

/// Hash of the request target's path, which begins at `from`; see [`crate::abi::path_hash`].
#[inline(always)]
pub fn target_hash(bytes: &[u8; REQUEST_PEEK], from: usize, len: usize) -> u32 {
    let mut hash = FNV_OFFSET;
    for i in 0..HEALTH_PATH_MAX {
        let at = from + i;
        if at >= len || at >= REQUEST_PEEK {
            break;
        }
        let b = bytes[at];
        if b == b' ' || b == b'?' || b == b'#' || b == b'\r' || b == b'\n' {
            break;
        }
        hash = path_hash_step(hash, b);
    }
    hash
}

/// An inbound segment that advanced: does a request wait for its answer now?
#[inline(always)]
pub fn request(c: &mut Connection, start: Start, frame: H2Frame) {
    if c.flags & flag::UPGRADED != 0 || c.protocol == protocol::UNKNOWN && c.flags & flag::BOUNDARY == 0 {
        // Not HTTP so far as anybody knows; a request line on any port says otherwise, and only
        // ever makes a wait shorter once the response's own boundary has confirmed it.
        c.flags |= flag::WAITING;
        if matches!(start, Start::Preface) && c.flags & flag::UPGRADED == 0 {
            c.protocol = protocol::HTTP2;
            c.flags |= flag::BOUNDARY;
        } else if matches!(start, Start::Head) {
            c.flags |= flag::HEAD;
        } else if matches!(start, Start::Request) {
            c.flags &= !flag::HEAD;
        }
        return;
    }
    match start {
        Start::Preface => {
            c.protocol = protocol::HTTP2;
            c.flags |= flag::BOUNDARY;
            c.flags &= !flag::MIDWAY;
        }
        _ if c.protocol == protocol::HTTP2 => {
            if !frame.housekeeping {
                c.flags |= flag::WAITING;
            }
        }
        Start::Request | Start::Head => {
            c.protocol = protocol::HTTP1;
            c.flags |= flag::BOUNDARY | flag::WAITING;
            c.flags &= !(flag::MIDWAY | flag::HEAD);
            if matches!(start, Start::Head) {
                c.flags |= flag::HEAD;
            }
        }
        Start::Short => c.flags |= flag::WAITING,
        Start::Other => {
            if c.flags & flag::BOUNDARY == 0 {
                c.flags |= flag::WAITING | flag::MIDWAY;
            }
            // Behind a boundary: the rest of a request's body. It waits since its first line, or
            // its answer came early and no more is to come.
        }
    }
}

/// Requests do not always wait for each other (RFC 9112, 9.3.2): with `head`, that of the request which
/// begins this segment of `payload` bytes, says how many more than one may wait now. `waited`: one did.
///
/// Without the end of a head it is no request for certain: bodies begin with words like `SELECT`, too.
#[inline(always)]
pub fn pipelined(c: &mut Connection, waited: bool, head: &HeadScan, payload: u32) {
    if c.protocol != protocol::HTTP1 || head.body == 0 {
        return;
    }
    let more = head.chunked == 0 && u64::from(head.body) + head.length < u64::from(payload);
    c.streams = c.streams.wrapping_add(u32::from(waited) + u32::from(more));
}

/// What the first bytes of a segment say as an HTTP/2 frame header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Frame {
    /// The whole segment is one frame that only keeps house: SETTINGS, PING, WINDOW_UPDATE, PRIORITY.
    pub housekeeping: bool,
}

/// Reads a frame header at the start of a segment with `payload` bytes.
#[inline(always)]
pub fn frame(bytes: &[u8; REQUEST_PEEK], len: usize, payload: u32) -> H2Frame {
    if len < H2_HEADER {
        return H2Frame::default();
    }
    let length = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
    let kind = bytes[3];
    let whole = length + H2_HEADER as u32 == payload;
    H2Frame { housekeeping: whole && matches!(kind, 2 | 4 | 6 | 8) }
}

/// Is this segment of `payload` bytes one whole WebSocket frame of a client?
///
/// Of a connection older than the attach nobody has seen the upgrade. A client's frames are masked and
/// say how long they are (RFC 6455 section 5.2); TLS records and HTTP/2 frames do not look like them,
/// and the pieces of an upload have the length that the link gives them.
#[inline(always)]
pub fn websocket(bytes: &[u8; REQUEST_PEEK], len: usize, payload: u32) -> bool {
    // Final fragment or not, no extension but compression; text, binary, close, ping or pong.
    let known = bytes[0] & 0x30 == 0 && matches!(bytes[0] & 0x0f, 1 | 2 | 8 | 9 | 10);
    if len < 6 || !known || bytes[1] & 0x80 == 0 {
        return false;
    }
    let short = u32::from(bytes[1] & 0x7f);
    let long = u32::from(bytes[2]) << 8 | u32::from(bytes[3]);
    match short {
        126 => len >= 8 && long + 8 == payload,
        127 => false,
        _ => short + 6 == payload,
    }
}

/// The connection is not HTTP any more: as long as it is open, it is in use.
#[inline(always)]
pub fn upgraded(c: &mut Connection) {
    c.flags |= flag::UPGRADED;
    c.protocol = protocol::UNKNOWN;
}

/// The bytes `HTTP/1.`, with which a response begins.
pub const STATUS_LINE: [u8; 7] = *b"HTTP/1.";

/// Scans a response's head byte by byte: its end, and the two headers that frame the body.
///
/// A window of the last sixteen bytes, without regard to case, is compared with the names: sixteen is just
/// `\ncontent-length:`, and enough of `transfer-encoding:` to be sure.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    hi: u64,
    lo: u64,
    /// Value of Content-Length, where `has_length`.
    pub length: u64,
    /// Bytes scanned.
    pub position: u32,
    /// Where the body starts; 0 until the head's end was seen.
    pub body: u32,
    /// 1 while inside the value of Content-Length.
    in_value: u32,
    /// 1 once Content-Length was seen.
    pub has_length: u32,
    /// 1 once Transfer-Encoding was seen.
    pub chunked: u32,
    /// The last four bytes as they came.
    raw: u32,
}

const CONTENT_LENGTH: (u64, u64) = split(*b"\ncontent-length:");
const TRANSFER_ENCODING: (u64, u64) = split(*b"ansfer-encoding:");

/// The bit of a letter's case.
const CASE: u64 = 0x20;

const fn split(b: [u8; 16]) -> (u64, u64) {
    let v = u128::from_be_bytes(b) | u128::from_be_bytes([CASE as u8; 16]);
    ((v >> 64) as u64, v as u64)
}

impl HeadScan {
    /// The next byte.
    ///
    /// The fields are read and written through memory at every step: what the verifier knows of a
    /// register it follows through each turn of the loop, a million instructions in all; of memory
    /// it knows nothing, and one turn is like the other.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) {
        use core::ptr::{read_volatile, write_volatile};
        // SAFETY: pointers to own fields.
        unsafe {
            let last = u64::from(byte);
            // Sets the bit that tells lower from upper case, in what is compared as well.
            let hi = read_volatile(&raw const self.hi) << 8 | read_volatile(&raw const self.lo) >> 56;
            let lo = read_volatile(&raw const self.lo) << 8 | last | CASE;
            write_volatile(&raw mut self.hi, hi);
            write_volatile(&raw mut self.lo, lo);
            let raw = read_volatile(&raw const self.raw) << 8 | u32::from(byte);
            write_volatile(&raw mut self.raw, raw);
            let position = read_volatile(&raw const self.position) + 1;
            write_volatile(&raw mut self.position, position);
            if read_volatile(&raw const self.in_value) != 0 {
                let digit = byte.wrapping_sub(b'0');
                if digit < 10 {
                    let length = read_volatile(&raw const self.length);
                    write_volatile(
                        &raw mut self.length,
                        length.wrapping_mul(10).wrapping_add(u64::from(digit)),
                    );
                } else if byte == b'\n' {
                    write_volatile(&raw mut self.in_value, 0);
                }
            }
            // Both names end in a colon, the head in a line feed: few bytes go further than this.
            if byte == b':' {
                if lo == CONTENT_LENGTH.1 && hi == CONTENT_LENGTH.0 {
                    write_volatile(&raw mut self.in_value, 1);
                    write_volatile(&raw mut self.has_length, 1);
                    write_volatile(&raw mut self.length, 0);
                }
                if lo == TRANSFER_ENCODING.1 && hi == TRANSFER_ENCODING.0 {
                    write_volatile(&raw mut self.chunked, 1);
                }
            }
            if byte == b'\n' && (raw == 0x0d0a_0d0a || raw & 0xffff == 0x0a0a) {
                write_volatile(&raw mut self.body, position);
            }
        }
    }

    /// The head's end was seen.
    #[inline(always)]
    pub fn ended(&self) -> bool {
        // SAFETY: a pointer to an own field.
        unsafe { core::ptr::read_volatile(&raw const self.body) != 0 }
    }
}

/// What a response segment's start says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The status code, 100 to 599.
    pub code: u16,
    /// HTTP/1.0: without a length the body ends with the connection.
    pub http10: bool,
}

/// Reads a status line's beginning, `HTTP/1.1 200`.
#[inline(always)]
pub fn status(b: &[u8; 12]) -> Option<Status> {
    let prefix = u64::from_be_bytes([0, b[0], b[1], b[2], b[3], b[4], b[5], b[6]]);
    if prefix != u64::from_be_bytes(*b"\0HTTP/1.") || b[8] != b' ' {
        return None;
    }
    let digit = |b: u8| if b.is_ascii_digit() { Some(u16::from(b - b'0')) } else { None };
    let code = digit(b[9])? * 100 + digit(b[10])? * 10 + digit(b[11])?;
    Some(Status { code, http10: b[7] == b'0' })
}

/// Bits of a request without its complete answer, as far as the packets tell.
pub const UNFINISHED: u32 = flag::WAITING | flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED;

const RESPONSE: u32 = flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED | flag::RESPONSE_UNTIL_CLOSE;

/// A response begins with this outbound segment, which starts at `sequence`.
#[inline(always)]
pub fn response_begins(c: &mut Connection, status: Status, head: &HeadScan, sequence: u32) {
    c.flags |= flag::BOUNDARY;
    c.flags &= !(flag::MIDWAY | RESPONSE);
    c.protocol = protocol::HTTP1;
    if status.code == 101 {
        upgraded(c);
        answered(c);
        return;
    }
    if status.code < 200 {
        // An interim response: the request still waits for the final one, even if it was not seen.
        c.flags |= flag::WAITING;
        return;
    }
    if c.flags & flag::WAITING == 0 && c.streams > 0 {
        c.streams -= 1;
    }
    answered(c);
    let no_body = c.flags & flag::HEAD != 0 || status.code == 204 || status.code == 304;
    if no_body || head.body == 0 {
        return; // Nothing to follow, or a head longer than the peek: idle-after decides.
    }
    if head.chunked != 0 {
        c.flags |= flag::RESPONSE_CHUNKED;
    } else if head.has_length != 0 {
        // A body over 2 GiB wraps the comparison; its end is then found by idle-after.
        if head.length < 0x7fff_ffff {
            c.flags |= flag::RESPONSE_LENGTH;
            c.response_end = sequence.wrapping_add(head.body).wrapping_add(head.length as u32);
        }
    } else {
        c.flags |= flag::RESPONSE_UNTIL_CLOSE;
    }
}

/// An outbound segment that advanced and does not begin a response.
#[inline(always)]
pub fn response_continues(c: &mut Connection) {
    if c.protocol == protocol::HTTP1 && c.flags & flag::BOUNDARY != 0 {
        return; // In the middle of a body; or of a response whose request is the next one.
    }
    answered(c);
    if c.flags & (flag::BOUNDARY | flag::UPGRADED) == 0 && c.protocol != protocol::UNKNOWN {
        c.flags |= flag::MIDWAY;
    }
}

/// The last chunk, behind the end of the one before it.
///
/// Five bytes less would also match a chunk of data that ends in a zero and an empty line.
pub const LAST_CHUNK: [u8; 7] = *b"\r\n0\r\n\r\n";

/// Has the response in progress ended with what was sent so far? `tail` is the segment's last bytes;
/// of a segment of five bytes, these behind a line end.
#[inline(always)]
pub fn response_ends(c: &mut Connection, tail: Option<[u8; 7]>) {
    if c.flags & flag::RESPONSE_LENGTH != 0 && !after(c.response_end, c.out_end) {
        c.flags &= !flag::RESPONSE_LENGTH;
    }
    if c.flags & flag::RESPONSE_CHUNKED != 0 && tail == Some(LAST_CHUNK) {
        c.flags &= !flag::RESPONSE_CHUNKED;
    }
}

#[inline(always)]
fn answered(c: &mut Connection) {
    if c.flags & flag::WAITING != 0 {
        c.flags &= !flag::WAITING;
        c.exchanges = c.exchanges.wrapping_add(1);
    }
}
