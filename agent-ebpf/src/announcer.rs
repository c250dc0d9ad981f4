//! The announcement into what a pod writes: `sk_msg`.
//!
//! In: a message of a socket that TC ingress has put into the map. Out: the same message, and where it is the
//! beginning of the awaited answer, a few bytes more.

use aya_ebpf::{bindings::sk_action, helpers::generated as helpers, programs::SkMsgContext};
use lastcall_ebpf::{
    abi::{Announcing, last_call_count as outcome},
    announce::{CLOSE, GOAWAY, phase, said},
};

use crate::last_call::{address, bump, config, leased, state, word};

/// How much of a message is looked at for the end of its status line.
const PEEK: u32 = 512;

const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;

/// Something that the pod writes, before it is queued; the socket is locked.
#[inline(always)]
pub(crate) fn announce(ctx: &SkMsgContext) -> u32 {
    let Some(config) = config().filter(|_| leased()) else { return PASS };
    // SAFETY: a field of the context; the verifier types it as a socket.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() {
        return PASS;
    }
    let s = state(sk, false);
    if s.is_null() {
        return PASS;
    }
    // SAFETY: a socket's storage that was just looked up.
    let (turn, at, next) =
        unsafe { ((*s).turns, core::ptr::read_volatile(&raw const (*s).phase), (*s).next) };
    if at != phase::RESPONSE && at != phase::FRAME {
        return PASS;
    }
    let sequence = word(address(sk) + u64::from(config.write_seq));
    let size = ctx.size();
    if sequence != next {
        give_up(s, phase::NONE, outcome::MISSED);
        return PASS;
    }
    if size == 0 {
        return PASS;
    }
    if at == phase::FRAME {
        return put(ctx, s, 0, &GOAWAY);
    }
    let place = match read(ctx, s, size) {
        Read::Here(place) => place,
        Read::More => {
            // SAFETY: as above.
            unsafe { (*s).next = sequence.wrapping_add(size) };
            return PASS;
        }
        Read::GiveUp(phase, why) => {
            give_up(s, phase, why);
            return PASS;
        }
    };
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const (*s).turns) } != turn {
        give_up(s, phase::NONE, outcome::MISSED);
        return PASS;
    }
    put(ctx, s, place, &CLOSE)
}

#[inline(always)]
fn give_up(s: *mut Announcing, phase: u32, why: u32) {
    // SAFETY: a socket's storage that was looked up in this run.
    unsafe { core::ptr::write_volatile(&raw mut (*s).phase, phase) };
    bump(why);
}

enum Read {
    /// The announcement goes behind so many bytes of this message.
    Here(u32),
    /// It goes into a later message.
    More,
    /// Into none: the phase, and the reason.
    GiveUp(u32, u32),
}

/// Reads on in the response's head.
#[inline(always)]
fn read(ctx: &SkMsgContext, s: *mut Announcing, size: u32) -> Read {
    // SAFETY: a socket's storage that was looked up in this run; nobody else reads on in it, or the turn
    // is another.
    let reader = unsafe { &mut (*s).reader };
    reader.message();
    if reader.said() == said::HERE {
        return Read::Here(0);
    }
    let wanted = if size < PEEK { size } else { PEEK };
    if ctx.data_end().wrapping_sub(ctx.data()) < wanted as usize {
        // SAFETY: the context of this program.
        let pulled = unsafe { helpers::bpf_msg_pull_data(ctx.msg, 0, wanted, 0) };
        if pulled as i32 != 0 {
            return Read::GiveUp(phase::NONE, outcome::PULL_FAILED);
        }
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    for i in 0..PEEK {
        let at = data + i as usize;
        // SAFETY: within the message, checked here and again by the verifier.
        if at + 1 > end || !reader.step(unsafe { *(at as *const u8) }) {
            break;
        }
    }
    let bytes = reader.bytes();
    match reader.said() {
        said::HERE if bytes < size => Read::Here(bytes),
        // At the very end of a message older kernels put nothing; the next one begins with a header.
        said::HERE => Read::More,
        said::NONSENSE => Read::GiveUp(phase::NEVER, outcome::UNRECOGNISED),
        said::UPGRADED => Read::GiveUp(phase::NEVER, outcome::UPGRADED),
        _ if bytes == size => Read::More,
        _ => Read::GiveUp(phase::NONE, outcome::TOO_LONG),
    }
}

/// Puts the announcement behind `at` bytes of the message.
#[inline(always)]
fn put<const N: usize>(ctx: &SkMsgContext, s: *mut Announcing, at: u32, text: &[u8; N]) -> u32 {
    if ctx.push_data(at, N as u32, 0).is_err() {
        give_up(s, phase::NONE, outcome::PUSH_FAILED);
        return PASS;
    }
    // SAFETY: the context of this program.
    let pulled = unsafe { helpers::bpf_msg_pull_data(ctx.msg, at, at + N as u32, 0) } as i32;
    let (data, end) = (ctx.data(), ctx.data_end());
    if pulled != 0 || data + N > end {
        // There is a hole in the message, of bytes that nobody wrote.
        give_up(s, phase::NONE, outcome::PULL_FAILED);
        if ctx.pop_data(at, N as u32, 0).is_err() {
            bump(outcome::DROPPED);
            return DROP;
        }
        return PASS;
    }
    for (i, byte) in text.iter().enumerate() {
        // SAFETY: within the message, checked above and again by the verifier.
        unsafe { core::ptr::write_volatile((data + i) as *mut u8, *byte) };
    }
    // SAFETY: a socket's storage that was looked up in this run.
    unsafe { core::ptr::write_volatile(&raw mut (*s).phase, phase::PUT) };
    PASS
}
