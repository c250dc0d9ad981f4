//! HTTP/2's frame headers, one by one, whatever segments they came in. Pure.
//!
//! In: the payload of one segment, and where in it the next header is. Out: which streams were opened and
//! closed. RFC 9113 section 4.1; nothing behind a header is looked at.

use crate::{
    abi::H2Position,
    http::Piece,
    tcp::{Direction, after},
};

/// A frame header, bytes.
pub const HEADER: u32 = 9;
/// Frame headers that are read in one go.
pub const FRAMES: u32 = 16;
/// How many times; a segment with more frames is not followed.
pub const TIMES: u32 = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// RFC 9218.
const PRIORITY_UPDATE: u8 = 16;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes behind the header.
    pub length: u32,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, the reserved bit with it.
    pub stream: u32,
}

impl Frame {
    /// Reads a frame header.
    #[inline(always)]
    pub fn read(b: &[u8; 9]) -> Self {
        Self {
            length: u32::from_be_bytes([0, b[0], b[1], b[2]]),
            kind: b[3],
            flags: b[4],
            stream: u32::from_be_bytes([b[5], b[6], b[7], b[8]]),
        }
    }

    /// The server's preface: its first frame is SETTINGS, and no acknowledgement.
    #[inline(always)]
    pub fn is_server_preface(&self) -> bool {
        self.kind == SETTINGS
            && self.flags == 0
            && self.stream == 0
            && self.length.is_multiple_of(6)
            && self.length < 600
    }

    /// What the standard allows (sections 6.1 to 6.10). Nine zero bytes are a valid frame by themselves;
    /// whole segments of such frames are what makes it likely.
    #[inline(always)]
    pub fn is_plausible(&self) -> bool {
        if self.stream >> 31 != 0 {
            return false;
        }
        let on_stream = self.stream != 0;
        match self.kind {
            DATA => on_stream && self.flags & !0x09 == 0,
            HEADERS => on_stream && self.flags & !0x2d == 0,
            PUSH_PROMISE | CONTINUATION => on_stream,
            PRIORITY => on_stream && self.length == 5,
            RST_STREAM => on_stream && self.length == 4,
            SETTINGS => !on_stream && self.length.is_multiple_of(6),
            PING => !on_stream && self.length == 8,
            GOAWAY => !on_stream && self.length >= 8,
            WINDOW_UPDATE => self.length == 4,
            _ => true,
        }
    }

    /// Asks for nothing and answers nothing.
    #[inline(always)]
    fn keeps_house(&self) -> bool {
        matches!(self.kind, PRIORITY | SETTINGS | PING | GOAWAY | WINDOW_UPDATE | PRIORITY_UPDATE)
    }
}

/// What a frame does to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// The peer opens one, or it shows one that may have been opened unseen.
    Opens(u32),
    /// The pod has ended one.
    Ends(u32),
    /// One was reset.
    Resets(u32),
}

/// How to walk.
pub mod mode {
    /// What the pod sends; else what the peer sends.
    pub const OUT: u32 = 1;
    /// Only look: streams stay as they are.
    pub const LOOK: u32 = 2;
    /// There may be streams that were opened unseen.
    pub const PARTLY: u32 = 4;
}

/// Bits of [`Walk::seen`].
pub mod seen {
    /// Something that is no frame header.
    pub const NONSENSE: u32 = 1;
    /// A frame that is more than housekeeping.
    pub const WORK: u32 = 2;
    /// HEADERS.
    pub const HEADERS: u32 = 4;
    /// A stream found no place.
    pub const FULL: u32 = 8;
}

/// One segment's payload, walked from frame header to frame header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Header bytes so far. Longer than any, so that the verifier sees that they fit.
    pub head: [u8; 32],
    /// How many of them.
    pub have: u32,
    /// Where the next byte of a header is, from the payload's start; may be behind its end.
    pub at: u32,
    /// The payload's length.
    pub payload: u32,
    /// Highest id of a stream that the peer has opened.
    pub highest: u32,
    /// A [`mode`].
    pub mode: u32,
    /// What was [`seen`].
    pub seen: u32,
    /// Streams that have begun to count.
    pub opened: u32,
    /// Streams that have ceased to.
    pub closed: u32,
    /// Streams that the pod has ended.
    pub answered: u32,
    /// 1: the last header was one of HEADERS that go on in CONTINUATION.
    pub within_headers: u32,
}

impl Walk {
    /// Starts to look whether a segment is whole frames, without regard to what was before.
    #[inline(always)]
    pub fn look(&mut self, payload: u32, highest: u32, direction: Direction) {
        *self = Self { payload, highest, mode: mode::LOOK | out(direction), ..Self::default() };
    }

    /// Starts behind a gap, with a frame header.
    #[inline(always)]
    pub(crate) fn ahead(&mut self, payload: u32, highest: u32) {
        *self = Self { payload, highest, ..Self::default() };
    }

    /// Starts where `position` says, in a segment that ends behind it. `false`: it begins behind it, too.
    #[inline(always)]
    pub(crate) fn follow(&mut self, position: &H2Position, piece: Piece, mode: u32) -> bool {
        *self = Self {
            payload: piece.payload,
            highest: position.highest,
            mode,
            have: u32::from(position.have),
            at: position.next.wrapping_sub(piece.sequence),
            within_headers: u32::from(position.within_headers),
            ..Self::default()
        };
        let mut i = 0;
        while i < 8 {
            self.head[i] = position.head[i];
            i += 1;
        }
        !after(piece.sequence, position.next)
    }

    /// Where the walk stands is where the next one begins.
    #[inline(always)]
    pub(crate) fn leave(&self, position: &mut H2Position, sequence: u32) {
        position.next = sequence.wrapping_add(self.at);
        position.have = self.have as u8;
        position.highest = self.highest;
        position.within_headers = self.within_headers as u8;
        let mut i = 0;
        while i < 8 {
            position.head[i] = self.head[i];
            i += 1;
        }
    }

    /// How many more streams count than before, in the circle of numbers.
    #[inline(always)]
    pub(crate) fn counted(&self) -> u32 {
        self.opened.wrapping_sub(self.closed)
    }

    /// Everything there is in this segment has been walked.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.at >= self.payload
    }

    /// The segment consists of whole frames.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.seen & seen::NONSENSE == 0 && self.at == self.payload && self.have == 0
    }

    /// How many bytes of a header to load next, from [`Walk::at`]; 0 to 9.
    #[inline(always)]
    pub fn wants(&self) -> u32 {
        HEADER.saturating_sub(self.have).min(self.payload.saturating_sub(self.at))
    }

    /// So many bytes have been loaded. The header, where it is complete.
    #[inline(always)]
    pub fn loaded(&mut self, bytes: u32) -> Option<Frame> {
        self.at = self.at.wrapping_add(bytes);
        self.have += bytes;
        if self.have < HEADER {
            return None;
        }
        let h = &self.head;
        let frame = Frame::read(&[h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]]);
        self.have = 0;
        self.at = self.at.wrapping_add(frame.length);
        Some(frame)
    }

    /// What a frame means.
    #[inline(always)]
    pub fn frame(&mut self, frame: Frame) -> Act {
        if !frame.is_plausible() {
            self.seen |= seen::NONSENSE;
            return Act::Nothing;
        }
        let opens_headers = matches!(frame.kind, HEADERS | PUSH_PROMISE | CONTINUATION);
        self.within_headers = u32::from(opens_headers && frame.flags & END_HEADERS == 0);
        if !frame.keeps_house() {
            self.seen |= seen::WORK;
        }
        if frame.kind == RST_STREAM {
            return Act::Resets(frame.stream);
        }
        if frame.kind != HEADERS && frame.kind != DATA {
            return Act::Nothing;
        }
        if self.mode & mode::OUT != 0 { self.sent(frame) } else { self.received(frame) }
    }

    #[inline(always)]
    fn received(&mut self, frame: Frame) -> Act {
        if frame.kind == HEADERS {
            self.seen |= seen::HEADERS;
        }
        if frame.stream & 1 == 0 {
            self.seen |= seen::NONSENSE;
        } else if frame.stream > self.highest {
            // DATA opens none, but shows that one is open that was opened unseen.
            self.highest = frame.stream;
            return Act::Opens(frame.stream);
        }
        Act::Nothing
    }

    #[inline(always)]
    fn sent(&mut self, frame: Frame) -> Act {
        if frame.stream & 1 == 0 {
            return Act::Nothing; // Pushed.
        }
        if self.mode & mode::LOOK != 0 {
            if frame.stream > self.highest {
                self.seen |= seen::NONSENSE;
            }
            return Act::Nothing;
        }
        if frame.flags & END_STREAM != 0 {
            Act::Ends(frame.stream)
        } else if self.mode & mode::PARTLY != 0 {
            Act::Opens(frame.stream)
        } else {
            Act::Nothing
        }
    }
}

#[inline(always)]
fn out(direction: Direction) -> u32 {
    match direction {
        Direction::In => 0,
        Direction::Out => mode::OUT,
    }
}

/// Where a walk gets its bytes from and keeps its streams.
pub trait Ground {
    /// Loads `len` bytes (1 to 9) of the payload, from `at` on, to `walk.head[have..]`.
    fn load(&mut self, walk: &mut Walk, have: u32, at: u32, len: u32) -> bool;
    /// Notes an open stream. `None`: no place; `Some(false)`: it is noted.
    fn open(&mut self, stream: u32) -> Option<bool>;
    /// Forgets a stream, if it is noted.
    fn close(&mut self, stream: u32) -> bool;
}

/// One step: a frame header, or the part of it that is there. `false` at the end.
#[inline(always)]
pub fn step<G: Ground>(walk: &mut Walk, ground: &mut G) -> bool {
    let (have, at, len) = (walk.have, walk.at, walk.wants());
    if len == 0 {
        return false;
    }
    if !ground.load(walk, have, at, len) {
        walk.seen |= seen::NONSENSE;
        return false;
    }
    let Some(frame) = walk.loaded(len) else { return false };
    match walk.frame(frame) {
        Act::Nothing => {}
        _ if walk.mode & mode::LOOK != 0 => {}
        Act::Opens(stream) => match ground.open(stream) {
            Some(true) => walk.opened += 1,
            Some(false) => {}
            None => walk.seen |= seen::FULL,
        },
        Act::Ends(stream) => {
            if ground.close(stream) {
                walk.closed += 1;
                walk.answered += 1;
            }
        }
        Act::Resets(stream) => {
            if ground.close(stream) {
                walk.closed += 1;
            }
        }
    }
    walk.seen & seen::NONSENSE == 0
}
