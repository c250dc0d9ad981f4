//! What an inbound segment begins with. Pure.
//!
//! In: its first bytes. Out: whether they are an HTTP/1 request's, whose, and for which path
//! (RFC 9112 section 3).

use crate::abi::{FNV_OFFSET, HEALTH_PATH_MAX, path_hash_step};

/// How many bytes of an inbound segment are looked at: a method, and the path behind it.
pub const REQUEST_PEEK: usize = 64;
/// `PRI * HTTP/2.0`: how an HTTP/2 connection with prior knowledge begins.
pub const H2_PREFACE: [u8; 8] = *b"PRI * HT";

/// What an inbound segment's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Start {
    /// A method, a space and how a target begins: a request begins here.
    Request,
    /// The same, of a HEAD, whose response has no body whatever its headers say.
    Head,
    /// The same, of a CONNECT, behind whose response comes anything.
    Connect,
    /// Too short to tell; may well be the beginning of a request.
    Short,
    /// An empty line, which some clients send before a request.
    Blank,
    /// An HTTP/2 preface.
    Preface,
    /// Anything else: a body, another protocol.
    Other,
}

impl Start {
    /// A request begins here.
    #[inline(always)]
    pub fn is_request(self) -> bool {
        matches!(self, Self::Request | Self::Head | Self::Connect)
    }
}

/// The longest method that is recognised, bytes (`VERSION-CONTROL`, `BASELINE-CONTROL` is longer).
const METHOD_MAX: usize = 15;

/// Says what `bytes`, the first of a segment's payload, begin with, and where a request's target is.
/// `len` of them are valid.
#[inline(always)]
pub fn start(bytes: &[u8; REQUEST_PEEK], len: usize) -> (Start, usize) {
    if len >= 8 && eight(bytes) == u64::from_be_bytes(H2_PREFACE) {
        return (Start::Preface, 0);
    }
    if len > 0 && (bytes[0] == b'\r' || bytes[0] == b'\n') {
        return (Start::Blank, 0);
    }
    for (i, &b) in bytes.iter().enumerate().take(METHOD_MAX + 1) {
        if i >= len {
            return (Start::Short, 0);
        }
        if b == b' ' {
            if i < 3 {
                return (Start::Other, 0);
            }
            if i + 1 >= len {
                return (Start::Short, 0);
            }
            if i == 7 && eight(bytes) == u64::from_be_bytes(*b"CONNECT ") {
                return (Start::Connect, i + 1);
            }
            let first = bytes[i + 1];
            if i == 3 && len < 8 && first == b'*' {
                return (Start::Short, 0); // May become a preface.
            }
            if !(first == b'/' || first == b'*' || first | 0x20 == b'h') {
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
