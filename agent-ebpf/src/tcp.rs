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
    // What the pod has acknowledged it has had; what it has not is new to it, even where it came by
    // here before: lost behind this point, or overtaken by a later segment.
    let new = match c.flags & (flag::IN | flag::IN_ACKED) {
        0 => true,
        flag::IN => after(end, c.in_end),
        _ => after(end, c.in_acked),
    };
    if s.payload > 0 && new {
        if c.flags & flag::IN == 0 || after(end, c.in_end) {
            c.bytes_in = c.bytes_in.wrapping_add(fresh_bytes(c.flags & flag::IN, s, end, c.in_end));
            c.in_end = end;
            c.flags |= flag::IN;
        }
        c.last_in = s.at;
        effect.advanced = true;
    }
    if s.flags & ACK != 0 && believable(c, s.acknowledgement) {
        if c.flags & flag::ACKED == 0 {
            c.flags |= flag::ACKED;
        }
        c.out_acked = s.acknowledgement;
        // The peer's own FIN may have come before the attach: then this was the end.
        let fins = c.flags & (flag::FIN_OUT | flag::FIN_IN);
        effect.look = fins == flag::FIN_OUT && !after(c.fin_out, s.acknowledgement);
    }
    if s.flags & FIN != 0 {
        let fin = end.wrapping_add(1);
        if c.flags & flag::FIN_IN == 0 || after(fin, c.fin_in) {
            c.fin_in = fin;
            c.flags |= flag::FIN_IN;
        }
        effect.look = true;
    }
    effect.ended = both_closed(c);
    effect
}

/// An acknowledgement that is news, of what was sent: anybody can send another.
#[inline(always)]
fn believable(c: &Connection, acknowledgement: u32) -> bool {
    let sent = if c.flags & flag::FIN_OUT != 0 { c.fin_out } else { c.out_end };
    let known = c.flags & (flag::OUT | flag::FIN_OUT) != 0;
    (c.flags & flag::ACKED == 0 || after(acknowledgement, c.out_acked))
        && !(known && after(acknowledgement, sent))
}

/// How many of a segment's bytes have not been counted.
#[inline(always)]
fn fresh_bytes(counted: u32, s: &Segment, end: u32, before: u32) -> u64 {
    let beyond = end.wrapping_sub(before);
    u64::from(if counted != 0 && beyond < s.payload { beyond } else { s.payload })
}

#[inline(always)]
fn outbound(c: &mut Connection, s: &Segment, end: u32) -> Effect {
    let mut effect = Effect::default();
    if s.flags & RST != 0 {
        effect.ended = true;
        return effect;
    }
    if c.flags & flag::RESET_IN != 0 {
        // A socket that still sends did not take the reset for its own.
        c.flags &= !flag::RESET_IN;
    }
    if s.payload > 0 && (c.flags & flag::OUT == 0 || after(end, c.out_end)) {
        if c.flags & (flag::OUT | flag::ACKED) == flag::ACKED && after(c.out_acked, s.sequence) {
            // Nobody could have acknowledged this yet: somebody made it up.
            c.out_acked = s.sequence;
        }
        c.bytes_out = c.bytes_out.wrapping_add(fresh_bytes(c.flags & flag::OUT, s, end, c.out_end));
        c.out_end = end;
        c.flags |= flag::OUT;
        c.last_out = s.at;
        effect.advanced = true;
    }
    if s.flags & FIN != 0 {
        c.flags |= flag::FIN_OUT;
        c.fin_out = end.wrapping_add(1);
    }
    if s.flags & ACK != 0 {
        // Flags are written only where they change: the other direction may be at them as well.
        if c.flags & flag::IN_ACKED == 0 {
            c.flags |= flag::IN_ACKED;
            c.in_acked = s.acknowledgement;
        } else if after(s.acknowledgement, c.in_acked) {
            c.in_acked = s.acknowledgement;
        }
        if c.flags & (flag::FIN_IN | flag::FIN_IN_ACKED) == flag::FIN_IN
            && !after(c.fin_in, s.acknowledgement)
        {
            c.flags |= flag::FIN_IN_ACKED;
        }
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
