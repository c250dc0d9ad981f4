//! HTTP/2's streams: a segment's frame headers, walked in the kernel.
//!
//! In: a segment with payload that is new. Out: the streams that it opens and ends, in [`STREAMS`].

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use lastcall_ebpf::{
    abi::{Connection, StreamKey},
    frames::{self, Ground, Walk},
    http2::Walker,
};

use crate::{
    count::add_short,
    entries::EEXIST,
    maps::{SCRATCH, STREAMS, Scratch},
    payload::bounded,
    skb::Skb,
};

/// Walks a segment's frames in steps that are verified by themselves.
pub(crate) struct Feet {
    skb: Skb,
    run: *mut Scratch,
}

#[inline(always)]
pub(crate) fn feet(skb: Skb, run: *mut Scratch, c: &Connection) -> Feet {
    // SAFETY: this processor's own value, see its map.
    unsafe {
        let key = &(*run).key;
        (*run).stream = StreamKey {
            first_seen: c.first_seen,
            pod: key.pod,
            stream: 0,
            peer_port: key.peer_port,
            local_port: key.local_port,
            epoch: u32::from(c.h2_epoch),
        };
    }
    Feet { skb, run }
}

impl Walker for Feet {
    #[inline(always)]
    fn walk(&mut self) -> &mut Walk {
        // SAFETY: this processor's own value, see its map; nothing else of it is borrowed here.
        unsafe { &mut (*self.run).walk }
    }

    #[inline(always)]
    fn go(&mut self) {
        walk_segment(self.skb.0);
    }

    #[inline(always)]
    fn add(&mut self, streams: &mut u32, n: u32) {
        if n != 0 {
            // SAFETY: a field of a map value that was looked up in this run.
            unsafe { add_short(streams, n) };
        }
    }
}

/// Takes the steps of the walk in [`SCRATCH`] to its end, or as many as are allowed. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_segment(skb: *mut __sk_buff) -> i32 {
    for _ in 0..frames::TIMES {
        if walk_frames(skb) == 0 {
            break;
        }
    }
    0
}

/// Takes [`frames::FRAMES`] steps of the walk in [`SCRATCH`]. 0: it has come to its end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_frames(skb: *mut __sk_buff) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let mut here = Here { skb: Skb(skb), payload_at: run.payload_at, stream: &mut run.stream };
    for _ in 0..frames::FRAMES {
        if !frames::step(&mut run.walk, &mut here) {
            return 0;
        }
    }
    1
}

/// A segment and the streams of its connection.
struct Here<'a> {
    skb: Skb,
    payload_at: u32,
    stream: &'a mut StreamKey,
}

impl Ground for Here<'_> {
    #[inline(always)]
    fn load(&mut self, walk: &mut Walk, have: u32, at: u32, len: u32) -> bool {
        // Both fit into half of the room each, in words that the verifier follows.
        let have = core::hint::black_box(have) & 15;
        let len = bounded::<16>(len);
        // SAFETY: 15 and 16 are less than the 32 of the room.
        let to = unsafe { walk.head.as_mut_ptr().add(have as usize) };
        self.skb.copy_payload(self.payload_at.wrapping_add(at), to, len)
    }

    #[inline(always)]
    fn open(&mut self, stream: u32) -> Option<bool> {
        self.stream.stream = stream;
        match STREAMS.insert(&*self.stream, &1, u64::from(BPF_NOEXIST)) {
            Ok(()) => Some(true),
            Err(EEXIST) => Some(false),
            Err(_) => None,
        }
    }

    #[inline(always)]
    fn close(&mut self, stream: u32) -> bool {
        self.stream.stream = stream;
        STREAMS.remove(&*self.stream).is_ok()
    }
}
