//! The head of an HTTP/1 message: where it ends, and the two headers that frame the body. Pure.
//!
//! In: bytes, one by one, over as many segments as it takes. Out: [`Head`]. RFC 9112 sections 2 and 6.

/// How many bytes are looked at in one go.
pub const HEAD_PEEK: usize = 256;
/// How many times; a longer head is not read to its end.
pub const HEAD_PEEKS: u32 = 24;

/// Scans a head byte by byte.
///
/// A window of the last sixteen bytes, without regard to case, is compared with the names: all of the one,
/// and enough of the other where the line's length agrees.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    hi: u64,
    lo: u64,
    /// Value of Content-Length, where `has_length`; where it is [`Head::HUGE`], that or more.
    pub length: u64,
    /// Sequence number of its first byte.
    pub start: u32,
    /// Bytes scanned.
    pub position: u32,
    /// Where the body starts; 0 until the head's end was seen.
    pub body: u32,
    /// Where the line starts.
    line: u32,
    /// 1 while inside the value of Content-Length.
    in_value: u32,
    /// 1 once Content-Length was seen.
    pub has_length: u32,
    /// 1 once Transfer-Encoding was seen.
    pub chunked: u32,
    /// The last four bytes as they came.
    raw: u32,
    /// What follows it, whatever it says: [`Head::BODY`], [`Head::NOTHING`], [`Head::INTERIM`].
    pub follows: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Head>() == 64);

const CONTENT_LENGTH: (u64, u64) = split(*b"\ncontent-length:");
const CONTENT_LENGTH_LINE: u32 = 15;
const TRANSFER_ENCODING: (u64, u64) = split(*b"ansfer-encoding:");
const TRANSFER_ENCODING_LINE: u32 = 18;

/// The bit of a letter's case.
const CASE: u64 = 0x20;

const fn split(b: [u8; 16]) -> (u64, u64) {
    let v = u128::from_be_bytes(b) | u128::from_be_bytes([CASE as u8; 16]);
    ((v >> 64) as u64, v as u64)
}

impl Head {
    /// What it says follows.
    pub const BODY: u32 = 0;
    /// No body: the answer to a HEAD, or a status that has none.
    pub const NOTHING: u32 = 1;
    /// Another response: the status was interim.
    pub const INTERIM: u32 = 2;

    /// More bytes than any sequence number can tell apart: 2^31 is half of the circle.
    pub const HUGE: u64 = 0x7fff_0000;

    /// A head whose first byte has this sequence number.
    #[inline(always)]
    pub fn at(start: u32) -> Self {
        Self { start, ..Self::default() }
    }

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
                    // Once it is huge it stays so: it must not come round to a small one.
                    if length < Self::HUGE {
                        write_volatile(&raw mut self.length, length * 10 + u64::from(digit));
                    }
                } else if byte == b'\n' {
                    write_volatile(&raw mut self.in_value, 0);
                }
            }
            // Both names end in a colon, lines in a line feed: few bytes go further than this.
            if byte == b':' {
                let name = position - read_volatile(&raw const self.line);
                if name == CONTENT_LENGTH_LINE && lo == CONTENT_LENGTH.1 && hi == CONTENT_LENGTH.0 {
                    write_volatile(&raw mut self.in_value, 1);
                    write_volatile(&raw mut self.has_length, 1);
                    write_volatile(&raw mut self.length, 0);
                }
                if name == TRANSFER_ENCODING_LINE && lo == TRANSFER_ENCODING.1 && hi == TRANSFER_ENCODING.0 {
                    write_volatile(&raw mut self.chunked, 1);
                }
            }
            if byte == b'\n' {
                write_volatile(&raw mut self.line, position);
                if raw & 0x00ff_ffff == 0x000a_0d0a || raw & 0xffff == 0x0a0a {
                    write_volatile(&raw mut self.body, position);
                }
            }
        }
    }

    /// The head's end was seen.
    #[inline(always)]
    pub fn ended(&self) -> bool {
        // SAFETY: a pointer to an own field.
        unsafe { core::ptr::read_volatile(&raw const self.body) != 0 }
    }

    /// Sequence number behind a body of the length that the head says, where that can be told.
    #[inline(always)]
    pub fn end(&self) -> Option<u32> {
        let length = if self.has_length != 0 { self.length } else { 0 };
        (length < Self::HUGE).then(|| self.start.wrapping_add(self.body).wrapping_add(length as u32))
    }
}
