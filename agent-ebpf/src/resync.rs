//! Takes back what was believed of a connection by mistake. Pure.
//!
//! The first segments that are seen of a connection older than the attach may be the midst of a body, and a
//! body may look like requests or like answers. So such a connection can be taken for one that pipelines
//! ([`flag::PIPELINED`]), or whose answers begin nobody knows where ([`flag::UNCERTAIN`]); its client would
//! never be told to leave. Its next exchange tells more: a request that begins where nothing is under way and
//! everything was acknowledged is put on trial. If exactly one answer comes, which begins where it has to and ends
//! where its head says, and only then another request, then the client waits for its answers after all.
//!
//! Of a connection that was seen from its first byte nothing is taken back: there it was no mistake. Until a trial
//! has been passed, everything stays in flight that was.

use crate::{
    abi::{Connection, flag},
    http::{Piece, RESPONSE, Start},
    tcp::after,
};

const DOUBT: u32 = flag::PIPELINED | flag::UNCERTAIN;
const TRIAL: u32 = flag::TRIAL | flag::TRIAL_ANSWERED;

/// Does a request begin with this segment that can be put on trial, or that ends the trial of the one before?
#[inline(always)]
pub fn tries(c: &Connection, start: Start, piece: Piece) -> bool {
    const ANSWERED: u32 = flag::OUT | flag::ACKED;
    let asking = c.flags & TRIAL == flag::TRIAL;
    // A body that was answered early, and goes on.
    let goes_on = c.flags & TRIAL == TRIAL
        && (c.flags & flag::REQUEST_CHUNKED != 0
            || c.flags & flag::REQUEST_LENGTH != 0 && after(c.request_end, piece.sequence));
    start.is_request()
        && c.flags & DOUBT != 0
        && c.flags & (flag::NEW | flag::UPGRADED | RESPONSE) == 0
        && c.flags & ANSWERED == ANSWERED
        && c.out_acked == c.out_end
        && !asking
        && !goes_on
}

/// A segment has come in.
#[inline(always)]
pub fn asked(c: &mut Connection, start: Start, piece: Piece) {
    if tries(c, start, piece) {
        if c.flags & flag::TRIAL_ANSWERED != 0 {
            c.flags &= !(TRIAL | DOUBT | flag::WAITING);
        } else {
            c.flags |= flag::TRIAL;
        }
    } else if c.flags & flag::TRIAL_ANSWERED != 0 {
        failed(c);
    }
}

/// A final answer has begun.
#[inline(always)]
pub fn answered(c: &mut Connection) {
    match c.flags & TRIAL {
        flag::TRIAL => c.flags |= flag::TRIAL_ANSWERED,
        TRIAL => failed(c),
        _ => {}
    }
}

/// Something came that does not fit: the next request may be tried.
#[inline(always)]
pub fn failed(c: &mut Connection) {
    c.flags &= !TRIAL;
}

/// The pod goes on behind what was taken for an answer's end: on an older connection it was perhaps none.
#[inline(always)]
pub fn goes_on(c: &mut Connection) {
    if c.flags & flag::NEW == 0 {
        c.flags |= flag::MIDWAY;
    }
}
