//! A conversation, as the kernel program sees it.

use std::vec::Vec;

use proptest::prelude::*;

use crate::{
    abi::{Connection, flag},
    chunks::{self, Chunks},
    head::Head,
    http::*,
};

pub(super) fn peek(bytes: &[u8]) -> ([u8; REQUEST_PEEK], usize) {
    let mut peek = [b'~'; REQUEST_PEEK];
    let len = bytes.len().min(REQUEST_PEEK);
    peek[..len].copy_from_slice(&bytes[..len]);
    (peek, len)
}

pub(super) fn begins(bytes: &[u8]) -> Start {
    let (peek, len) = peek(bytes);
    start(&peek, len).0
}

pub(super) fn head(bytes: &[u8]) -> Head {
    head_at(0, bytes)
}

pub(super) fn head_at(start: u32, bytes: &[u8]) -> Head {
    let mut head = Head::at(start);
    for &b in bytes {
        if head.ended() {
            break;
        }
        head.step(b);
    }
    head
}

/// A connection on an HTTP port, as the kernel program treats it: whole segments, one by one.
pub(super) struct Spoken {
    pub(super) c: Connection,
    pub(super) peers: u32,
    /// The peer acknowledges nothing more.
    pub(super) deaf: bool,
    /// The head that is not complete.
    head: Head,
}

fn last_chunk(bytes: &[u8]) -> bool {
    bytes.ends_with(&LAST_CHUNK) || bytes == b"0\r\n\r\n"
}

impl Spoken {
    pub(super) fn on(protocol: u8, peers: u32, pods: u32) -> Self {
        let c = Connection { protocol, out_end: pods, ..Connection::default() };
        Self { c, peers, deaf: false, head: Head::default() }
    }

    pub(super) fn asks(&mut self, bytes: &[u8]) {
        let piece = Piece { sequence: self.peers, payload: bytes.len() as u32 };
        let start = begins(bytes);
        self.c.in_end = piece.end();
        if self.c.flags & flag::OUT != 0 && !self.deaf {
            self.c.flags |= flag::ACKED;
            self.c.out_acked = self.c.out_end;
        }
        if self.c.flags & flag::IN == 0 {
            self.c.flags |= flag::IN;
            opens(&mut self.c, start);
        }
        let mut scanned = Head::at(piece.sequence);
        if request_begins(&self.c, start, piece) {
            scanned = head_at(piece.sequence, bytes);
        }
        request(&mut self.c, start, piece, &scanned, last_chunk(bytes));
        self.peers = piece.end();
    }

    pub(super) fn answers(&mut self, bytes: &[u8]) {
        let sequence = self.c.out_end;
        self.c.flags |= flag::OUT;
        self.c.out_end = sequence.wrapping_add(bytes.len() as u32);
        if self.c.flags & flag::RESPONSE_HEAD != 0 {
            self.reads(bytes);
            if self.head.ended() {
                response_framed(&mut self.c, &self.head);
                if self.head.follows == Head::INTERIM {
                    let next = self.head.start.wrapping_add(self.head.body);
                    self.begins(&bytes[next.wrapping_sub(sequence) as usize..], next);
                }
            }
        } else if !self.begins(bytes, sequence) {
            response_continues(&mut self.c);
        }
        if self.c.flags & flag::RESPONSE_CHUNKED != 0 && chunks::followed(&self.c) {
            self.follows(sequence, bytes);
        }
        response_ends(&mut self.c, last_chunk(bytes));
    }

    fn follows(&mut self, sequence: u32, bytes: &[u8]) {
        let mut chunks = Chunks::follow(&self.c, sequence, bytes.len() as u32);
        for _ in 0..chunks::CHUNK_PEEKS {
            let (at, len) = (chunks.at as usize, chunks.wants() as usize);
            let Some(wanted) = bytes.get(at..at + len).filter(|_| len > 0) else { break };
            let _ = wanted.iter().find(|&&byte| !chunks.step(byte));
        }
        if chunks.leave(&mut self.c, sequence) {
            chunks_end(&mut self.c);
        }
    }

    fn begins(&mut self, bytes: &[u8], sequence: u32) -> bool {
        let Some(line) = bytes.first_chunk::<12>() else { return false };
        let Some(code) = status(line) else { return false };
        if !is_response(&self.c) {
            return false;
        }
        self.head = Head::at(sequence);
        self.reads(bytes);
        if response_begins(&mut self.c, code, &mut self.head) && self.head.ended() {
            let skip = self.head.body;
            self.begins(&bytes[skip as usize..], sequence.wrapping_add(skip));
        }
        true
    }

    fn reads(&mut self, bytes: &[u8]) {
        for &b in bytes {
            if !self.head.ended() {
                self.head.step(b);
            }
        }
    }

    pub(super) fn in_flight(&self) -> bool {
        self.c.flags & (UNFINISHED | flag::RESPONSE_UNTIL_CLOSE) != 0
    }
}

/// Cuts a message into segments, but not within the first bytes of a status line: after those nobody knows
/// any more which answer is whose, and the connection waits for ever.
pub(super) fn segments<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len())).collect();
    let lines: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i..].starts_with(b"HTTP/1.1 ")).collect();
    at.retain(|at| !lines.iter().any(|line| (line + 1..line + 12).contains(at)));
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}
