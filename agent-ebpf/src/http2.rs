//! HTTP/2 frames to open streams. Pure.
//!
//! In: a connection and a segment of either direction, whose frame headers a [`Walk`] finds in the order of
//! the bytes. Out: the connection's count of open streams.
//!
//! A stream counts from the peer's HEADERS until the pod has ended it, or either side has reset it. What
//! the pod pushes is nobody's request. Where headers cannot be followed from the connection's first byte on,
//! following may begin at a later one (K5 of the kernel review): between segments that are whole frames.

use crate::{
    abi::{Connection, H2Position, flag, follow, protocol},
    frames::{Frame, Walk, mode, seen},
    http::{self, Piece},
    tcp::{Direction, after},
};

/// The client's preface, bytes: `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
pub const PREFACE: u32 = 24;

/// Who walks.
pub trait Walker {
    /// The walk.
    fn walk(&mut self) -> &mut Walk;
    /// Takes [`crate::frames::step`]s to its end, or as many as there is time for.
    fn go(&mut self);
    /// Streams belong to this [`Connection::h2_epoch`] from now on.
    fn epoch(&mut self, epoch: u8);
    /// Adds to the count of streams, which the other direction adds to as well.
    fn add(&mut self, streams: &mut u32, n: u32);
}

/// The client's preface is this segment's beginning.
#[inline(always)]
pub fn client_begins(c: &mut Connection, piece: Piece) {
    c.protocol = protocol::HTTP2;
    c.flags &= !flag::MIDWAY;
    c.flags |= flag::BOUNDARY;
    let next = piece.sequence.wrapping_add(PREFACE);
    c.h2_in = H2Position { next, state: follow::WHOLLY, ..H2Position::default() };
}

/// It is a preface: nothing came in before it.
#[inline(always)]
pub fn may_begin(c: &Connection, piece: Piece) -> bool {
    const SURE: u32 = flag::NEW | flag::IN_ACKED;
    if c.flags & SURE == SURE { c.in_acked == piece.sequence } else { c.bytes_in == u64::from(piece.payload) }
}

/// The first segment of a new connection that the pod has sent, and it begins with `frame`.
#[inline(always)]
pub fn server_begins(c: &mut Connection, piece: Piece, frame: Frame) {
    if frame.is_server_preface() {
        c.h2_out = H2Position { next: piece.sequence, state: follow::WHOLLY, ..H2Position::default() };
    }
}

/// Every stream is known: nothing else has to be asked.
#[inline(always)]
fn wholly(c: &Connection) -> bool {
    let (both, known) = ((c.h2_in.state, c.h2_out.state), c.flags & flag::H2_FOLLOWED != 0);
    both == (follow::WHOLLY, follow::WHOLLY) && known
}

/// An inbound segment that advanced.
#[inline(always)]
pub fn inbound<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) {
    let asks =
        if c.h2_in.state >= follow::PARTLY { follow_in(c, piece, walker) } else { find_in(c, piece, walker) };
    if asks && !wholly(c) && c.flags & flag::WAITING == 0 {
        c.flags |= flag::WAITING;
    }
}

/// Answers whether it may ask for something.
#[inline(always)]
fn follow_in<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) -> bool {
    if !after(piece.end(), c.h2_in.next) {
        return true; // Within a frame.
    }
    let highest = c.h2_in.highest;
    if !walker.walk().follow(&c.h2_in, piece, 0) {
        walker.walk().look(piece.payload, highest, Direction::In);
        walker.go();
        if !walker.walk().may_jump(highest) {
            c.h2_in.state = follow::NO;
            return true;
        }
        walker.walk().jump(piece.payload, highest);
    }
    walker.go();
    let more = walker.walk().counted();
    walker.add(&mut c.streams, more);
    let walk = walker.walk();
    if walk.seen & (seen::NONSENSE | seen::FULL) != 0 || !walk.is_done() {
        c.h2_in.state = follow::NO;
        return true;
    }
    walk.leave(&mut c.h2_in, piece.sequence);
    walk.seen & seen::WORK != 0
}

/// Two segments in a row that are whole frames, the first with a request in it: here one can follow.
#[inline(always)]
fn find_in<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) -> bool {
    walker.walk().look(piece.payload, 0, Direction::In);
    walker.go();
    let walk = walker.walk();
    let (whole, seen) = (walk.is_whole(), walk.seen);
    let second = c.h2_in.state == follow::CANDIDATE && c.h2_in.next == piece.sequence;
    if !whole || !second && seen & seen::HEADERS == 0 {
        c.h2_in.state = follow::NO;
        return !whole || seen & seen::WORK != 0;
    }
    if second {
        c.h2_in.state = follow::PARTLY;
        c.h2_in.have = 0;
        return follow_in(c, piece, walker);
    }
    c.h2_in.state = follow::CANDIDATE;
    c.h2_in.next = piece.end();
    true
}

/// An outbound segment that advanced.
#[inline(always)]
pub fn outbound<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) {
    let answers = if c.h2_out.state >= follow::PARTLY {
        follow_out(c, piece, walker)
    } else {
        find_out(c, piece, walker)
    };
    if c.protocol != protocol::HTTP2 {
        return;
    }
    let followed = c.h2_out.state >= follow::PARTLY;
    if followed && c.flags & flag::H2_FOLLOWED == 0 {
        c.flags |= flag::H2_FOLLOWED;
        if wholly(c) {
            c.flags &= !flag::WAITING;
        }
    } else if !followed && c.flags & flag::H2_FOLLOWED != 0 {
        c.flags &= !flag::H2_FOLLOWED;
    }
    if answers && !wholly(c) {
        http::answered(c);
    }
}

/// Answers whether it may answer something.
#[inline(always)]
fn follow_out<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) -> bool {
    if !after(piece.end(), c.h2_out.next) {
        return true;
    }
    let unseen = c.h2_in.state != follow::WHOLLY || c.h2_out.state != follow::WHOLLY;
    let mode = if unseen { mode::OUT | mode::PARTLY } else { mode::OUT };
    let follows = walker.walk().follow(&c.h2_out, piece, mode);
    if follows {
        walker.go();
    }
    let walk = walker.walk();
    if !follows || walk.seen & seen::NONSENSE != 0 || !walk.is_done() {
        return lose_out(c, walker);
    }
    let more = walk.counted();
    walker.add(&mut c.streams, more);
    let walk = walker.walk();
    walk.leave(&mut c.h2_out, piece.sequence);
    if !unseen {
        c.exchanges = c.exchanges.wrapping_add(walk.answered);
    }
    walk.seen & seen::WORK != 0
}

/// When the streams that are open end, nobody can say: those that count are others from now on.
#[inline(always)]
fn lose_out<W: Walker>(c: &mut Connection, walker: &mut W) -> bool {
    c.h2_out.state = follow::NO;
    c.h2_epoch = c.h2_epoch.wrapping_add(1);
    walker.epoch(c.h2_epoch);
    if c.streams == 0 {
        return true;
    }
    c.streams = 0;
    c.flags |= flag::WAITING;
    false
}

/// As [`find_in`], once the peer's frames are found: the pod answers on no stream but theirs. What has been
/// opened by then ends with what is seen here, or counts no more.
#[inline(always)]
fn find_out<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) -> bool {
    walker.walk().look(piece.payload, c.h2_in.highest, Direction::Out);
    walker.go();
    let walk = walker.walk();
    let (whole, seen) = (walk.is_whole(), walk.seen);
    if c.h2_in.state < follow::PARTLY {
        c.h2_out.state = follow::NO;
        return !whole || seen & seen::WORK != 0;
    }
    if !whole {
        return lose_out(c, walker);
    }
    let second = c.h2_out.state == follow::CANDIDATE && c.h2_out.next == piece.sequence;
    c.h2_out.next = piece.sequence;
    c.h2_out.have = 0;
    let answers = follow_out(c, piece, walker);
    if c.h2_out.next == piece.end() {
        c.h2_out.state = if second { follow::PARTLY } else { follow::CANDIDATE };
    }
    answers
}
