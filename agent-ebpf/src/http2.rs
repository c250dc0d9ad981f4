//! HTTP/2 frames to open streams. Pure.
//!
//! In: a connection and a segment of either direction, whose frame headers a [`Walk`] finds in the order of
//! the bytes. Out: the connection's count of open streams.
//!
//! A stream counts from the peer's HEADERS until the pod has ended it, or either side has reset it. What
//! the pod pushes is nobody's request. Where headers cannot be followed from the connection's first byte on,
//! following may begin at a later one: between segments that are whole frames.

use crate::{
    abi::{Connection, H2Ahead, H2Position, flag, follow, protocol},
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
    let followed = c.h2_in.state >= follow::PARTLY;
    let asks = if followed { follow_in(c, piece, walker) } else { find_in(c, piece, walker) };
    if c.h2_in.state < follow::PARTLY && asks && (followed || c.h2_in.highest != 0) {
        c.h2_unseen = c.last_packet;
    }
    // Where both sides are followed, streams say it.
    let known = c.h2_in.state >= follow::PARTLY && c.flags & flag::H2_FOLLOWED != 0;
    if asks && !known && c.flags & flag::WAITING == 0 {
        c.flags |= flag::WAITING;
    }
}

/// Answers whether it may ask for something.
#[inline(always)]
fn follow_in<W: Walker>(c: &mut Connection, piece: Piece, walker: &mut W) -> bool {
    if c.h2_ahead.start != c.h2_ahead.end && !catch_up(c, c.h2_ahead.end) {
        // Another processor was at the gap while this one was behind it.
        return lose_in(c);
    }
    let next = c.h2_in.next;
    if !after(piece.end(), next) {
        return true; // Within a frame.
    }
    let gap = after(piece.sequence, next);
    let ahead = c.h2_ahead.start != c.h2_ahead.end;
    if gap {
        if ahead && !after(piece.end(), c.h2_ahead.end) {
            return true; // Once more.
        }
        // Processors of a node overtake each other. What has been overtaken shows whether this is right.
        walker.walk().look(piece.payload, 0, Direction::In);
        walker.go();
        if !walker.walk().is_whole() || ahead && c.h2_ahead.end != piece.sequence {
            return lose_in(c);
        }
        let highest = c.h2_in.highest;
        if !ahead {
            c.h2_ahead = H2Ahead { start: piece.sequence, end: piece.sequence, highest };
        }
        walker.walk().ahead(piece.payload, highest);
    } else {
        let mut piece = piece;
        let mut position = c.h2_in;
        if ahead {
            // Only what is in the gap.
            piece.payload = piece.payload.min(c.h2_ahead.start.wrapping_sub(piece.sequence));
            position.highest = c.h2_ahead.highest;
        }
        walker.walk().follow(&position, piece, 0);
    }
    walker.go();
    let more = walker.walk().counted();
    walker.add(&mut c.streams, more);
    let walk = walker.walk();
    if walk.seen & (seen::NONSENSE | seen::FULL) != 0 || !walk.is_done() {
        return lose_in(c);
    }
    let works = walk.seen & seen::WORK != 0;
    if gap {
        c.h2_ahead.end = piece.end();
        c.h2_in.highest = walk.highest;
        return works;
    }
    let highest = c.h2_in.highest;
    walk.leave(&mut c.h2_in, piece.sequence);
    if ahead {
        c.h2_ahead.highest = c.h2_in.highest;
        c.h2_in.highest = c.h2_in.highest.max(highest);
        if !catch_up(c, piece.end()) {
            return lose_in(c);
        }
    }
    works
}

/// What had been overtaken is here, or a part of it. `false`: what overtook it did not begin with a frame, or
/// there is more of the segment: sent again in one piece with what nobody has walked.
#[inline(always)]
fn catch_up(c: &mut Connection, end_of_segment: u32) -> bool {
    let H2Ahead { start, end, .. } = c.h2_ahead;
    if after(start, c.h2_in.next) {
        return true;
    }
    let fits = c.h2_in.next == start && c.h2_in.have == 0;
    c.h2_in.next = end;
    c.h2_ahead = H2Ahead::default();
    fits && !after(end_of_segment, end)
}

#[inline(always)]
fn lose_in(c: &mut Connection) -> bool {
    c.h2_in.state = follow::NO;
    c.h2_ahead = H2Ahead::default();
    true
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
    let before = c.exchanges;
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
    if c.exchanges != before && c.flags & flag::WAITING != 0 {
        c.flags &= !flag::WAITING;
    } else if answers && !wholly(c) {
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
        return lose_out(c);
    }
    let more = walk.counted();
    walker.add(&mut c.streams, more);
    let walk = walker.walk();
    walk.leave(&mut c.h2_out, piece.sequence);
    c.exchanges = c.exchanges.wrapping_add(walk.answered);
    walk.seen & seen::WORK != 0
}

/// When the streams that are open end, nobody can say: those that count are others from now on.
#[inline(always)]
fn lose_out(c: &mut Connection) -> bool {
    c.h2_out.state = follow::NO;
    c.h2_unseen = c.last_packet;
    c.h2_epoch = c.h2_epoch.wrapping_add(1);
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
        return lose_out(c);
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
