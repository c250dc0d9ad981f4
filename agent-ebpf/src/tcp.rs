//! Flags and sequence numbers to what is known of a connection. Pure.
//!
//! In: a [`Connection`] and one [`Segment`]. Out: the connection updated in place and an
//! [`Effect`]. What the payload says (requests, responses) is [`crate::http`]'s.
//!
//! A segment that comes in is anybody's word: it sets flags, and moves numbers that only prolong a
//! wait. What leaves comes from the pod's own stack and is believed.

use crate::abi::{Connection, flag};

/// FIN, as in RFC 9293 section 3.1; the others likewise.
pub const FIN: u8 = 0x01;
#[expect(missing_docs, reason = "as FIN")]
pub const SYN: u8 = 0x02;
#[expect(missing_docs, reason = "as FIN")]
pub const RST: u8 = 0x04;
#[expect(missing_docs, reason = "as FIN")]
pub const ACK: u8 = 0x10;

/// Which way a segment goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the pod.
    In,
    /// From the pod.
    Out,
}

/// What of a segment matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When it was seen, nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: u8,
    /// Payload bytes; a GSO or GRO super-packet is one long segment.
    pub payload: u32,
}

/// What a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// It carried payload that had not been seen: no retransmission, no keep-alive probe.
    pub advanced: bool,
    /// The connection has ended by it.
    pub ended: bool,
    /// It came in and claims that the connection has ended: a reason to look.
    pub look: bool,
}

/// `a` is behind `b` (RFC 1982 serial number arithmetic).
#[inline(always)]
pub const fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Takes one segment into account.
#[inline(always)]
pub fn advance(c: &mut Connection, direction: Direction, s: &Segment) -> Effect {
    c.last_packet = s.at;
    let end = s.sequence.wrapping_add(s.payload);
    match direction {
        Direction::In => inbound(c, s, end),
        Direction::Out => outbound(c, s, end),
    }
}

#[inline(always)]
fn inbound(c: &mut Connection, s: &Segment, end: u32) -> Effect {
    let mut effect = Effect::default();
    if s.flags & RST != 0 {
        c.flags |= flag::RESET_IN;
        effect.look = true;
        return effect;
    }
    if s.payload > 0 && (c.flags & flag::IN == 0 || after(end, c.in_end)) {
        c.in_end = end;
        c.flags |= flag::IN;
        c.last_in = s.at;
        c.bytes_in = c.bytes_in.wrapping_add(u64::from(s.payload));
        effect.advanced = true;
    }
    if s.flags & ACK != 0 && (c.flags & flag::ACKED == 0 || after(s.acknowledgement, c.out_acked)) {
        c.out_acked = s.acknowledgement;
        c.flags |= flag::ACKED;
        // The peer's own FIN may have come before the attach: then this was the end.
        effect.look = c.flags & flag::FIN_OUT != 0 && !after(c.fin_out, s.acknowledgement);
    }
    if s.flags & FIN != 0 {
        c.flags |= flag::FIN_IN;
        c.fin_in = end.wrapping_add(1);
        effect.look = true;
    }
    effect.ended = both_closed(c);
    effect
}

#[inline(always)]
fn outbound(c: &mut Connection, s: &Segment, end: u32) -> Effect {
    let mut effect = Effect::default();
    if s.flags & RST != 0 {
        effect.ended = true;
        return effect;
    }
    // A socket that still sends did not take the reset for its own.
    c.flags &= !flag::RESET_IN;
    if s.payload > 0 && (c.flags & flag::OUT == 0 || after(end, c.out_end)) {
        c.out_end = end;
        c.flags |= flag::OUT;
        c.last_out = s.at;
        c.bytes_out = c.bytes_out.wrapping_add(u64::from(s.payload));
        effect.advanced = true;
    }
    if s.flags & FIN != 0 {
        c.flags |= flag::FIN_OUT;
        c.fin_out = end.wrapping_add(1);
    }
    if c.flags & flag::FIN_IN != 0 && s.flags & ACK != 0 && !after(c.fin_in, s.acknowledgement) {
        c.flags |= flag::FIN_IN_ACKED;
    }
    effect.ended = both_closed(c);
    effect
}

/// Both ends have sent a FIN and each was acknowledged.
#[inline(always)]
fn both_closed(c: &Connection) -> bool {
    const BOTH: u32 = flag::FIN_OUT | flag::FIN_IN_ACKED | flag::ACKED;
    c.flags & BOTH == BOTH && !after(c.fin_out, c.out_acked)
}
