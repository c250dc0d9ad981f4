//! The chunks of a body, one by one, whatever segments they came in. Pure.
//!
//! In: the bytes of chunk headers and trailers. Out: where the body ends (RFC 9112 section 7.1). What is in a
//! chunk is not looked at: it may look like anything.

use crate::abi::Connection;

/// How many bytes are looked at in one go.
pub const CHUNK_PEEK: usize = 16;
/// How many times; the chunks of a segment with more of them are not followed.
pub const CHUNK_PEEKS: u32 = 64;

/// A chunk header begins.
const SIZE: u32 = 0;
/// In its digits.
const DIGITS: u32 = 1;
/// In the rest of its line.
const EXTENSION: u32 = 2;
/// A trailer's line begins, or the end.
const LINE: u32 = 3;
/// In a trailer's line.
const TRAILER: u32 = 4;
/// Behind a carriage return that begins a line.
const RETURN: u32 = 5;
/// The body has ended.
const END: u32 = 6;
/// These are no chunks, or more than can be followed.
const LOST: u32 = 7;

/// Where the state is in [`Connection::chunk`]; below it the size so far.
const STATE: u32 = 29;
/// No chunk is as long.
const HUGE: u32 = 1 << 28;

/// One segment of a chunked body. Fields are read and written through memory, as in
/// [`crate::head::Head::step`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    /// Where the next byte of a chunk header is, from the payload's start; may be behind its end.
    pub at: u32,
    /// The payload's length.
    pub payload: u32,
    state: u32,
    size: u32,
}

/// A response's body begins with this sequence number.
#[inline(always)]
pub fn begin(c: &mut Connection, sequence: u32) {
    c.response_end = sequence;
    c.chunk = SIZE;
}

/// The chunks are followed.
#[inline(always)]
pub fn followed(c: &Connection) -> bool {
    c.chunk >> STATE != LOST
}

impl Chunks {
    /// Goes on in a segment that begins with `sequence`.
    #[inline(always)]
    pub fn follow(c: &Connection, sequence: u32, payload: u32) -> Self {
        let at = c.response_end.wrapping_sub(sequence);
        // The segment begins behind the next chunk header: something was not seen.
        let state = if at >> 31 == 0 { c.chunk >> STATE } else { LOST };
        Self { at, payload, state, size: c.chunk & ((1 << STATE) - 1) }
    }

    /// Where it stands is where the next segment goes on. Answers whether the body has ended.
    #[inline(always)]
    pub fn leave(&self, c: &mut Connection, sequence: u32) -> bool {
        let unread = get(&self.at) < self.payload && !self.ended();
        let state = if unread { LOST } else { get(&self.state) };
        c.response_end = sequence.wrapping_add(get(&self.at));
        c.chunk = state << STATE | get(&self.size);
        state == END
    }

    /// How many bytes to look at next, from [`Chunks::at`] on; 0: none.
    #[inline(always)]
    pub fn wants(&self) -> u32 {
        if self.ended() { 0 } else { self.payload.saturating_sub(get(&self.at)).min(CHUNK_PEEK as u32) }
    }

    #[inline(always)]
    fn ended(&self) -> bool {
        get(&self.state) >= END
    }

    /// The next byte. `false`: the one behind it is not the next.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> bool {
        let (state, at) = (get(&self.state), get(&self.at));
        set(&mut self.at, at.wrapping_add(1));
        let next = match state {
            SIZE | DIGITS => return self.digit(state, byte),
            EXTENSION if byte == b'\n' => return self.data(),
            EXTENSION => EXTENSION,
            RETURN if byte == b'\n' => END,
            LINE if byte == b'\n' => END,
            LINE if byte == b'\r' => RETURN,
            TRAILER if byte == b'\n' => LINE,
            LINE | TRAILER => TRAILER,
            _ => LOST,
        };
        set(&mut self.state, next);
        next < END
    }

    #[inline(always)]
    fn digit(&mut self, state: u32, byte: u8) -> bool {
        let letter = (byte | 0x20).wrapping_sub(b'a');
        let decimal = byte.wrapping_sub(b'0');
        let digit = if decimal < 10 { decimal } else { letter.wrapping_add(10) };
        let size = get(&self.size);
        let next = if (decimal < 10 || letter < 6) && size < HUGE >> 4 {
            set(&mut self.size, size << 4 | u32::from(digit & 15));
            DIGITS
        } else if state == DIGITS && byte == b'\n' {
            return self.data();
        } else if state == DIGITS && (byte == b'\r' || byte == b';' || byte == b' ' || byte == b'\t') {
            EXTENSION
        } else {
            LOST
        };
        set(&mut self.state, next);
        next < END
    }

    /// The header's line has ended: the next one is behind the data and its line end.
    #[inline(always)]
    fn data(&mut self) -> bool {
        let (size, at) = (get(&self.size), get(&self.at));
        if size == 0 {
            set(&mut self.state, LINE);
            return true;
        }
        set(&mut self.size, 0);
        set(&mut self.state, SIZE);
        set(&mut self.at, at.wrapping_add(size).wrapping_add(2));
        false
    }
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

#[cfg(test)]
mod tests {
    use std::{format, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// Walks `bytes` in segments cut at `cuts`; how many bytes the body has, if it has ended.
    fn walk(bytes: &[u8], cuts: &[usize], start: u32) -> (Connection, Option<usize>) {
        let mut c = Connection::default();
        begin(&mut c, start);
        let mut from = 0;
        for to in cuts.iter().copied().chain([bytes.len()]) {
            let to = to.clamp(from, bytes.len());
            let sequence = start.wrapping_add(from as u32);
            let mut chunks = Chunks::follow(&c, sequence, (to - from) as u32);
            for _ in 0..CHUNK_PEEKS {
                let (at, len) = (from + chunks.at as usize, chunks.wants() as usize);
                if len == 0 {
                    break;
                }
                let _ = bytes[at..at + len].iter().find(|&&byte| !chunks.step(byte));
            }
            if chunks.leave(&mut c, sequence) {
                return (c, Some(c.response_end.wrapping_sub(start) as usize));
            }
            from = to;
        }
        (c, None)
    }

    #[test]
    fn finds_the_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0;z\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: y\r\nZ: \r\n\r\n",
            "5 \nhello\n\n0\n\n",
            "7\r\n\r\n0\r\n\r\n\r\n00\r\n\r\n",
        ] {
            for cut in 0..body.len() {
                let (_, end) = walk(format!("{body}rest").as_bytes(), &[cut], u32::MAX - 9);
                assert_eq!(end, Some(body.len()), "{body:?} cut at {cut}");
                assert_eq!(walk(&body.as_bytes()[..body.len() - 1], &[cut], 7).1, None, "{body:?}");
            }
        }
    }

    #[test]
    fn loses_what_are_no_chunks() {
        for body in ["hello", "\r\n", "ffffffffff\r\n", "5\r\nhello\r\nx", "0\r\n\rx", "-5\r\n", ";\r\n"] {
            assert!(!followed(&walk(body.as_bytes(), &[], 0).0), "{body:?}");
        }
        let (mut c, _) = walk(b"5\r\nhello\r\n", &[], 0);
        Chunks::follow(&c, 11, 10).leave(&mut c, 11);
        assert!(!followed(&c), "something was not seen");
    }

    proptest! {
        #[test]
        fn whatever_the_cuts(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..12),
            mut cuts in prop::collection::vec(0..900usize, 0..12),
            start in any::<u32>(),
        ) {
            let mut bytes: Vec<u8> = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:X}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            cuts.sort_unstable();
            prop_assert_eq!(walk(&bytes, &cuts, start).1, Some(bytes.len()));
        }
    }
}
