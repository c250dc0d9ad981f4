//! When and where a client is told to leave. Pure.
//!
//! In: what is known of a connection when a request comes in, and the first bytes that the pod writes after
//! it. Out: where the announcement goes, or why it does not. Boundaries are sequence numbers: what the pod
//! writes at the number where a response has to begin is the beginning of that response, whatever it looks
//! like anywhere else. In doubt nothing is announced.

use crate::{
    abi::{Connection, Unread, flag, follow, last_call_count as count, protocol},
    http::Piece,
};

/// What an HTTP/1 client is told (RFC 9112 section 9.6).
pub const CLOSE: [u8; 19] = *b"Connection: close\r\n";
/// What an HTTP/2 client is told: GOAWAY on stream 0, all streams so far will be answered, no error
/// (RFC 9113 section 6.8).
pub const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The largest request whose socket goes into the map, bytes.
///
/// Kernels since early 2026 (and their stable series: 6.18 has it) answer FIONREAD for a socket in a
/// sockmap with the length of the map's own queue, which is 0 here, whatever waits in the socket's. nginx
/// asks whenever a read fills its buffer, the smallest of which has 1024 bytes (client_header_buffer_size),
/// believes the 0 and never reads the rest: the request hangs. A smaller request fills no buffer. The socket of a
/// larger one goes into the map once its app has read all of it, which other packets look for.
///
/// Where the kernel answers right ([`crate::abi::LastCallConfig::tells_unread`]), all requests are small.
pub const SMALL_REQUEST: u32 = 1023;

/// Pods with places of their own for connections with an [`crate::abi::Unread`] request; the sixteenth after a pod
/// has the same ones.
pub const UNREAD_PODS: u32 = 16;
/// Places of a pod.
pub const UNREAD_PLACES: u32 = 64;
/// How many of them each of the pod's packets looks at.
pub const UNREAD_LOOKS: u32 = 16;

/// The place of a connection with this peer's port among those of its pod.
#[inline(always)]
pub fn unread_place(peer_port: u16) -> u32 {
    // Not the bits that say whose turn it is: clients of one turn would have few places.
    (shuffled(peer_port) >> 20) % UNREAD_PLACES
}

/// The key of a pod's place.
#[inline(always)]
pub fn unread_key(pod: u32, place: u32) -> u32 {
    pod % UNREAD_PODS * UNREAD_PLACES + place % UNREAD_PLACES
}

/// Is this request still the one that waits, and nothing else has happened?
#[inline(always)]
pub fn is_unread(c: &Connection, unread: &Unread) -> bool {
    const LENGTH: u32 = flag::WAITING | flag::REQUEST_LENGTH;
    c.told_at == 0
        && c.protocol == protocol::HTTP1
        && c.flags & (LENGTH | NOT_NOW) == LENGTH
        && (c.in_end, c.request_end, c.out_end) == (unread.in_end, unread.in_end, unread.out_end)
}

/// Values of [`crate::abi::Announcing::phase`].
pub mod phase {
    /// Nothing is announced on this socket now.
    pub const NONE: u32 = 0;
    /// An HTTP/1 response is awaited, or its head is being read.
    pub const RESPONSE: u32 = 1;
    /// An HTTP/2 frame is awaited.
    pub const FRAME: u32 = 2;
    /// The announcement was put into what the pod writes.
    pub const PUT: u32 = 3;
    /// Never again on this socket: it speaks something else.
    pub const NEVER: u32 = 4;
}

/// The reason for not waiting for this connection's next response: an index of
/// [`crate::abi::names::LAST_CALL_COUNTS`], or nothing that anybody counts.
pub type Refusal = Option<u32>;

/// How an inbound segment ends, where no length says where its request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a last chunk, or with an empty line.
    End,
    /// With anything else.
    Other,
}

/// A response is in progress.
const RESPONSE: u32 = flag::MIDWAY
    | flag::RESPONSE_LENGTH
    | flag::RESPONSE_CHUNKED
    | flag::RESPONSE_UNTIL_CLOSE
    | flag::RESPONSE_HEAD;
/// What comes next is not the beginning of a response, or not certainly.
const NOT_NOW: u32 = RESPONSE | flag::UPGRADED | flag::CONNECT | flag::PIPELINED | flag::UNCERTAIN;

/// A segment has come in, and the observer has taken it into account: does it complete a request, and does
/// the response begin where the pod's stream is now?
///
/// Only where the whole exchange before was seen and has ended, and only for a client that waits for its
/// answers: then the position is certain, and the socket was accepted. Not before the request is complete: an
/// app that reads its body may block in that.
#[inline(always)]
pub fn http1(c: &Connection, piece: Piece, tail: Tail) -> Result<(), Refusal> {
    const KNOWN: u32 = flag::BOUNDARY | flag::IN | flag::OUT | flag::ACKED;
    let complete = match c.flags & (flag::REQUEST_LENGTH | flag::REQUEST_CHUNKED) {
        0 => matches!(tail, Tail::End),
        flag::REQUEST_LENGTH => c.request_end == piece.end(),
        _ => false,
    };
    if c.protocol != protocol::HTTP1 || c.flags & flag::WAITING == 0 || c.in_end != piece.end() || !complete {
        return Err(None);
    }
    if c.flags & (flag::UPGRADED | flag::CONNECT) != 0 {
        return Err(Some(count::UPGRADED));
    }
    if c.flags & (flag::PIPELINED | flag::UNCERTAIN) != 0 {
        return Err(Some(count::PIPELINED));
    }
    if c.flags & KNOWN != KNOWN || c.flags & RESPONSE != 0 || c.exchanges == 0 {
        return Err(Some(count::NO_BOUNDARY));
    }
    if c.out_acked != c.out_end {
        return Err(Some(count::UNSENT));
    }
    // Its end is likely only: an empty line may be in the midst of a body.
    if c.flags & (flag::LARGE_REQUEST | flag::REQUEST_LENGTH) == flag::LARGE_REQUEST {
        return Err(Some(count::LARGE_REQUEST));
    }
    Ok(())
}

/// The same of HTTP/2: the pod's frames have been followed to their end, and it is not within the headers
/// of a message.
#[inline(always)]
pub fn http2(c: &Connection) -> Result<(), Refusal> {
    let known =
        c.flags & flag::OUT != 0 && c.h2_out.state >= follow::PARTLY && c.h2_in.state >= follow::PARTLY;
    if !known || c.h2_out.have != 0 || c.h2_out.within_headers != 0 || c.h2_out.next != c.out_end {
        return Err(Some(count::NO_BOUNDARY));
    }
    Ok(())
}

/// Reads the status line of a response, and interim responses before it, over as many writes as it takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Up to [`Reader::CODE`]: bytes of the status line; behind it what [`Reader`]'s constants say.
    read: u32,
    /// The status code so far.
    code: u32,
    /// Bytes of this message that were read.
    bytes: u32,
    /// A [`said`].
    said: u32,
}

/// What a response's head says, as far as it was read.
pub mod said {
    /// Nothing yet.
    pub const NOTHING: u32 = 0;
    /// The status line of a final response has ended: here is the place.
    pub const HERE: u32 = 1;
    /// This is no response.
    pub const NONSENSE: u32 = 2;
    /// The connection becomes something else.
    pub const UPGRADED: u32 = 3;
}

/// All fields are read and written through memory, as in [`crate::head::Head::step`]: what the verifier knows
/// of one byte it forgets with it, and one turn of a loop is like the other.
impl Reader {
    /// `HTTP/1.1 200`, bytes.
    const CODE: u32 = 12;
    /// In the rest of a final response's status line.
    const FINAL: u32 = 12;
    /// In a line of an interim response's head.
    const INTERIM: u32 = 13;
    /// At the beginning of such a line.
    const INTERIM_LINE: u32 = 14;
    /// Behind a carriage return there.
    const INTERIM_RETURN: u32 = 15;

    /// A message begins; what was read before stays.
    #[inline(always)]
    pub fn message(&mut self) {
        set(&mut self.bytes, 0);
    }

    /// What was read says so.
    #[inline(always)]
    pub fn said(&self) -> u32 {
        get(&self.said)
    }

    /// Bytes of this message that were read.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        get(&self.bytes)
    }

    /// The next byte. `false`: no more has to be read.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> bool {
        let bytes = get(&self.bytes);
        set(&mut self.bytes, bytes + 1);
        let read = get(&self.read);
        if read < Self::CODE {
            self.status(read, byte);
        } else if read == Self::FINAL {
            if byte == b'\n' {
                set(&mut self.said, said::HERE);
            }
        } else {
            let next = match byte {
                b'\n' if read == Self::INTERIM => Self::INTERIM_LINE,
                b'\n' => 0,
                b'\r' if read == Self::INTERIM_LINE => Self::INTERIM_RETURN,
                _ => Self::INTERIM,
            };
            set(&mut self.read, next);
        }
        get(&self.said) == said::NOTHING
    }

    #[inline(always)]
    fn status(&mut self, read: u32, byte: u8) {
        const LINE: u64 = u64::from_be_bytes(*b"HTTP/1.\0");
        let digit = byte.wrapping_sub(b'0');
        let fits = match read {
            0..=6 => (LINE >> (56 - 8 * read)) as u8 == byte,
            8 => byte == b' ',
            7 | 9.. => digit < 10,
        };
        if !fits {
            return set(&mut self.said, said::NONSENSE);
        }
        let code = if read > 8 { get(&self.code) * 10 + u32::from(digit) } else { 0 };
        set(&mut self.code, code);
        set(&mut self.read, read + 1);
        if read + 1 < Self::CODE {
            return;
        }
        if code == 101 {
            set(&mut self.said, said::UPGRADED);
        } else if !(100..600).contains(&code) {
            set(&mut self.said, said::NONSENSE);
        } else if code < 200 {
            set(&mut self.read, Self::INTERIM);
        }
    }
}

/// In how many turns the clients of a pod are told to leave.
const TURNS: u64 = 16;

/// Is it the turn of a client with this port, `since` the drain began? All have had theirs after `within`.
///
/// All at once they would be back at once, at whatever pod routing still names, this one among them; and when
/// routing has turned there would be nobody left whose staying away shows it. So more and more of them as time
/// goes by: by half of it a quarter. Ports are dealt by each client's kernel, some of them only even ones: so by
/// a product (Fibonacci hashing), not by their last bits.
#[inline(always)]
pub fn is_turn(peer_port: u16, since: u64, within: u64) -> bool {
    let turn = u64::from(shuffled(peer_port) >> 28);
    // Milliseconds: the square of a day of them fits.
    let (since, within) = (since / 1_000_000, within / 1_000_000);
    since >= within || since * since >= turn * (within * within / TURNS)
}

/// A port, spread over 32 bits: the upper ones are the best.
#[inline(always)]
fn shuffled(port: u16) -> u32 {
    u32::from(port).wrapping_mul(0x9e37_79b1)
}

#[inline(always)]
fn get(field: &u32) -> u32 {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(field) }
}

#[inline(always)]
fn set(field: &mut u32, value: u32) {
    // SAFETY: a reference.
    unsafe { core::ptr::write_volatile(field, value) };
}
