//! Large requests: their sockets go into the map once the app has read them.
//!
//! In: connections whose large request is complete, and any packet that comes in to their pod. Out: the socket in
//! the map, before the app has begun to answer.
//!
//! No program of the kernel runs when an app reads, but each packet can look who has, and so can the agent where no
//! packet comes. That a socket's answer has begun meanwhile is nothing that a lock prevents here, so it is looked
//! at again behind the insertion.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated as helpers,
    programs::TcContext,
};
use lastcall_ebpf::{
    abi::{Connection, LastCallConfig, Unread, last_call_count as outcome},
    announce::{self, UNREAD_LOOKS, UNREAD_PLACES, UNREAD_PODS, phase},
};

use crate::{
    entries::{ESTABLISHED, find},
    last_call::{address, bump, config, leased, put_in, socket, state, word},
    maps::{LAST_CALL_PLACES, LAST_CALL_SOCKETS, LAST_CALL_UNREAD, SCRATCH, Scratch},
    skb::{ETHERNET, Skb},
};

/// This run's connection has a request that has to be read first. Answers what to count.
#[inline(always)]
pub(crate) fn wait(run: &mut Scratch, c: &Connection) -> u32 {
    run.unread = Unread { key: run.key, in_end: c.in_end, out_end: c.out_end };
    let place = announce::unread_place(run.key.peer_port);
    let key = announce::unread_key(run.key.pod, place);
    if LAST_CALL_UNREAD.insert(&key, &run.unread, 0).is_err() {
        return outcome::LARGE_REQUEST;
    }
    mark(run.key.pod, place, 1);
    outcome::UNREAD
}

#[inline(always)]
fn mark(pod: u32, place: u32, taken: u8) {
    if let Some(places) = LAST_CALL_PLACES.get_ptr_mut(pod % UNREAD_PODS) {
        // SAFETY: a map value that was just looked up; a byte is written whole.
        unsafe { core::ptr::write_volatile(&raw mut (*places)[(place % UNREAD_PLACES) as usize], taken) };
    }
}

/// A packet looks at a few of the pod's requests.
#[inline(always)]
pub(crate) fn look(skb: Skb, pod: u32) {
    look_at_some(skb.0, pod, 0);
}

/// The agent asks for a look. Always 0.
#[inline(always)]
pub(crate) fn asked(ctx: &TcContext) -> i32 {
    let Ok(pod) = ctx.load::<u32>(ETHERNET as usize) else { return 0 };
    if leased() {
        look_at_some(ctx.skb.skb, pod, 1);
    }
    0
}

/// Looks at the next few of the pod's places, by the means of [`SCRATCH`]'s value of this number. Always 0.
/// Verified once by itself: its turns would be multiplied by its callers' paths, too many for Linux 5.10.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at_some(skb: *mut __sk_buff, pod: u32, scratch: u32) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(scratch) else { return 0 };
    let Some(places) = LAST_CALL_PLACES.get_ptr_mut(pod % UNREAD_PODS) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let first = unsafe { (*run).next_look };
    // SAFETY: as above.
    unsafe { (*run).next_look = first.wrapping_add(UNREAD_LOOKS) };
    for i in 0..UNREAD_LOOKS {
        let place = first.wrapping_add(i) % UNREAD_PLACES;
        // SAFETY: a map value that was just looked up; a byte is read whole.
        if unsafe { core::ptr::read_volatile(&raw const (*places)[place as usize]) } != 0 {
            look_at_one(skb, pod, place, scratch);
        }
    }
    0
}

/// Looks at one of the pod's requests. Always 0. Verified once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at_one(skb: *mut __sk_buff, pod: u32, place: u32, scratch: u32) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(scratch) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let key = announce::unread_key(pod, place);
    // SAFETY: copied at once; a place that another processor takes meanwhile is held against the connection.
    let Some(&unread) = (unsafe { LAST_CALL_UNREAD.get(&key) }) else {
        mark(pod, place, 0);
        return 0;
    };
    if unread.key.pod != pod {
        return 0;
    }
    run.unread = unread;
    run.key = run.unread.key;
    let entry = find(run);
    // SAFETY: read only where it is not null.
    let waits = !entry.is_null() && announce::is_unread(unsafe { &*entry }, &run.unread);
    let Some(config) = config() else { return 0 };
    if !waits {
        if take(pod, place, key) {
            bump(outcome::LARGE_REQUEST);
        }
        return 0;
    }
    // SAFETY: not null.
    let c = unsafe { &*entry };
    let sk = socket(Skb(skb), run, c);
    if sk.is_null() {
        return 0;
    }
    if is_read(run, config, sk) && take(pod, place, key) {
        bump(put_in(run, c, config, sk));
        take_back(run, config, sk);
    }
    // SAFETY: looked up above, and used no more.
    unsafe { helpers::bpf_sk_release(sk.cast()) };
    0
}

/// Takes a request out of its place. One of two processors that try it succeeds.
#[inline(always)]
fn take(pod: u32, place: u32, key: u32) -> bool {
    mark(pod, place, 0);
    LAST_CALL_UNREAD.remove(&key).is_ok()
}

/// The app has read all that has come, and that is the request.
#[inline(always)]
fn is_read(run: &Scratch, config: LastCallConfig, sk: *mut bpf_sock) -> bool {
    // SAFETY: a socket that is held.
    if unsafe { (*sk).state } != ESTABLISHED {
        return false;
    }
    // SAFETY: as above.
    let tp = unsafe { helpers::bpf_tcp_sock(sk) };
    // SAFETY: read only where it is not null.
    if tp.is_null() || unsafe { (*tp).rcv_nxt } != run.unread.in_end {
        return false;
    }
    word(address(sk) + u64::from(config.copied_seq)) == run.unread.in_end
}

/// The answer has begun while its socket was put in: its first segment may have left before that, and would take
/// it out no more.
#[inline(always)]
fn take_back(run: &Scratch, config: LastCallConfig, sk: *mut bpf_sock) {
    if word(address(sk) + u64::from(config.write_seq)) == run.unread.out_end {
        return;
    }
    let s = state(sk, false);
    if s.is_null() {
        return;
    }
    let map = (&raw const LAST_CALL_SOCKETS).cast_mut().cast();
    // SAFETY: a socket's storage that was just looked up; a map and a key of its type.
    unsafe {
        // An announcement that has been put waits for its segment.
        if core::ptr::read_volatile(&raw const (*s).phase) != phase::PUT {
            core::ptr::write_volatile(&raw mut (*s).phase, phase::NONE);
        }
        helpers::bpf_map_delete_elem(map, (&raw const run.key).cast());
    }
}
