//! What payload says: requests, responses, streams.
//!
//! In: a segment with payload that is new. Out: its connection's flags and streams, and, where it is the
//! first of a new connection, whether that keeps the pod unsettled.

use aya_ebpf::{bindings::__sk_buff, maps::lpm_trie::Key};
use lastcall_ebpf::{
    abi::{Connection, HealthPath, Pod, flag, follow, protocol},
    chunks::{self, CHUNK_PEEK, CHUNK_PEEKS, Chunks},
    frames::{self, Frame},
    head::{HEAD_PEEK, HEAD_PEEKS, Head},
    http::{self, Piece, REQUEST_PEEK, Start},
    http2, websocket,
};

use crate::{
    count::count,
    maps::{HEADS, HEALTH_PATHS, IGNORED_SOURCES, SCRATCH, Scratch},
    skb::Skb,
    streams::feet,
};

/// Nothing was found: no link header is that long.
const NOWHERE: u32 = u32::MAX;

/// Finds where the payload starts, for all that follows.
#[inline(always)]
pub(crate) fn find(skb: Skb, run: &mut Scratch) {
    run.payload_at = match skb.link_header() {
        Some(link) => link + run.packet.payload_offset,
        None => NOWHERE,
    };
}

#[inline(always)]
fn piece(run: &Scratch) -> Piece {
    Piece { sequence: run.packet.sequence, payload: run.packet.payload }
}

/// Inbound payload: a request, or a piece of one. Answers whether it is the first of a connection
/// whose opening may keep the pod unsettled.
///
/// The scratch is a raw pointer because the functions that are verified by themselves write to it too.
#[inline(never)]
pub(crate) fn request(skb: Skb, run: *mut Scratch, c: &mut Connection, settles: u8) -> bool {
    // SAFETY: this processor's own value, see its map.
    let (piece, at) = unsafe { (piece(&*run), (*run).payload_at) };
    if at == NOWHERE || read_start(skb.0) == 0 {
        c.flags |= flag::WAITING;
        return false;
    }
    // SAFETY: as above.
    let start = unsafe { (*run).start };
    if http2::may_begin(c, piece) && c.flags & flag::UPGRADED == 0 {
        if matches!(start, Start::Preface) {
            http2::client_begins(c, piece);
        } else {
            http::opens(c, start);
        }
    }
    // SAFETY: as above.
    if c.flags & (flag::NEW | flag::BOUNDARY) == 0 && unsafe { (*run).websocket } {
        http::upgraded(c);
    }
    if c.protocol == protocol::HTTP2 {
        http2::inbound(c, piece, &mut feet(skb, run, c));
    } else {
        // SAFETY: as above.
        let head = unsafe { &mut (*run).head };
        *head = Head::at(piece.sequence);
        if http::request_begins(c, start, piece) {
            scan(skb, run, 0);
        }
        let chunked = c.flags & flag::REQUEST_CHUNKED != 0 || head.chunked != 0;
        let last_chunk = chunked && is_last_chunk(skb, at, piece.payload);
        http::request(c, start, piece, head, last_chunk);
    }
    settles != 0 && c.flags & (flag::NEW | flag::COUNTED) == flag::NEW
}

/// A length of 1 to `MOST`, a power of two, in words that every verifier follows: before kernel 6.8 none
/// learns from a comparison with zero that a number is not. The compiler must not see through.
#[inline(always)]
pub(crate) fn bounded<const MOST: usize>(len: u32) -> u32 {
    const { assert!(MOST.is_power_of_two()) };
    (core::hint::black_box(len.wrapping_sub(1)) & (MOST as u32 - 1)) + 1
}

/// Reads what a segment begins with, and the hash of a request's path. 0: it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_start(skb: *mut __sk_buff) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let payload = run.packet.payload.min(REQUEST_PEEK as u32);
    let len = bounded::<REQUEST_PEEK>(payload);
    if payload == 0 || !Skb(skb).copy_payload(run.payload_at, run.request.as_mut_ptr(), len) {
        return 0;
    }
    let (start, target) = http::start(&run.request, len as usize);
    run.start = start;
    run.websocket = websocket::is_frame(&run.request, len as usize, run.packet.payload);
    run.target_hash = if target == 0 { 0 } else { http::target_hash(&run.request, target, len as usize) };
    1
}

/// A new connection carries a request: a client's, or a health check's?
#[inline(always)]
pub(crate) fn opened(run: &Scratch, c: &mut Connection, pod: *mut Pod, now: u64) {
    let health = HealthPath { pod: run.key.pod, hash: run.target_hash };
    if run.target_hash != 0 && HEALTH_PATHS.get_ptr(&health).is_some() {
        if c.flags & flag::HEALTH_ONLY == 0 {
            c.flags |= flag::HEALTH_ONLY;
            count!(pod, health_connections, 1);
        }
        return;
    }
    c.flags &= !flag::HEALTH_ONLY;
    c.flags |= flag::COUNTED;
    if IGNORED_SOURCES.get(&Key::new(128, run.key.peer)).is_none() {
        count!(pod, new_connections, 1);
        // SAFETY: `pod` was looked up in this run.
        unsafe { (*pod).last_new = now };
    }
}

/// Outbound payload: the beginning of a response, or more of it.
#[inline(never)]
pub(crate) fn response(skb: Skb, run: *mut Scratch, c: &mut Connection) {
    // SAFETY: this processor's own value, see its map.
    let (piece, at) = unsafe { (piece(&*run), (*run).payload_at) };
    let first = c.bytes_out == u64::from(piece.payload);
    if first && c.flags & flag::NEW != 0 && c.protocol != protocol::HTTP1 && piece.payload >= frames::HEADER {
        if let Some(header) = skb.payload::<9>(at) {
            http2::server_begins(c, piece, Frame::read(&header));
        }
    }
    if c.protocol == protocol::HTTP2 || c.h2_out.state == follow::WHOLLY {
        http2::outbound(c, piece, &mut feet(skb, run, c));
        if c.protocol == protocol::HTTP2 {
            return;
        }
    }
    let more = c.flags & flag::RESPONSE_HEAD != 0;
    let next = if more { more_head(skb, run, c, piece) } else { Some(0) };
    let begun = next.is_some_and(|skip| heads(skb, run, c, piece, skip));
    if !begun && !more {
        http::response_continues(c);
    }
    if c.flags & (flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED) != 0 {
        if c.flags & flag::RESPONSE_CHUNKED != 0 && chunks::followed(c) {
            follow_chunks(skb, run, c, piece);
        }
        let likely = c.flags & flag::RESPONSE_CHUNKED != 0 && !chunks::followed(c);
        http::response_ends(c, likely && is_last_chunk(skb, at, piece.payload));
    }
}

/// The heads that follow `skip` bytes of payload: a few interim ones, and the final one. `false`: there is
/// none.
#[inline(always)]
fn heads(skb: Skb, run: *mut Scratch, c: &mut Connection, piece: Piece, mut skip: u32) -> bool {
    const INTERIM: u32 = 3;
    for i in 0..INTERIM {
        // SAFETY: this processor's own value, see its map.
        let at = unsafe { (*run).payload_at }.wrapping_add(skip);
        let status = match skb.payload::<12>(at) {
            Some(line) if piece.payload.saturating_sub(skip) >= 12 => http::status(&line),
            _ => None,
        };
        let Some(code) = status else { return i > 0 };
        if !http::is_response(c) {
            return false;
        }
        // SAFETY: as above.
        let head = unsafe { &mut (*run).head };
        *head = Head::at(piece.sequence.wrapping_add(skip));
        scan(skb, run, skip);
        let another = http::response_begins(c, code, head);
        if c.flags & flag::RESPONSE_HEAD != 0 {
            keep_head(run, c);
        }
        if !another || head.body == 0 {
            return true;
        }
        skip += head.body;
    }
    true
}

/// More of a response's head. Answers where another one follows it.
#[inline(always)]
fn more_head(skb: Skb, run: *mut Scratch, c: &mut Connection, piece: Piece) -> Option<u32> {
    // SAFETY: this processor's own value, see its map; the entry is copied at once.
    let head = unsafe {
        let head = &mut (*run).head;
        match HEADS.get(&(*run).key) {
            Some(kept) => *head = *kept,
            None => *head = Head::default(),
        }
        head
    };
    if head.position == 0 || head.start.wrapping_add(head.position) != piece.sequence {
        http::response_unframed(c);
        return None;
    }
    scan(skb, run, 0);
    if !head.ended() {
        keep_head(run, c);
        return None;
    }
    // SAFETY: as above.
    let _ = HEADS.remove(unsafe { &(*run).key });
    http::response_framed(c, head);
    (head.follows == Head::INTERIM).then(|| head.start.wrapping_add(head.body).wrapping_sub(piece.sequence))
}

/// Follows the chunks of the response in progress through this segment.
#[inline(always)]
fn follow_chunks(skb: Skb, run: *mut Scratch, c: &mut Connection, piece: Piece) {
    // SAFETY: this processor's own value, see its map.
    let run = unsafe { &mut *run };
    run.chunks = Chunks::follow(c, piece.sequence, piece.payload);
    walk_chunks(skb.0);
    if run.chunks.leave(c, piece.sequence) {
        http::chunks_end(c);
    }
}

/// Reads the chunk headers of a segment, as many as are allowed. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_chunks(skb: *mut __sk_buff) -> i32 {
    for _ in 0..CHUNK_PEEKS {
        if walk_chunk(skb) == 0 {
            break;
        }
    }
    0
}

/// Reads up to [`CHUNK_PEEK`] bytes of a chunk header. 0: there are none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_chunk(skb: *mut __sk_buff) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let wanted = run.chunks.wants();
    let len = bounded::<CHUNK_PEEK>(wanted);
    let at = run.payload_at.wrapping_add(run.chunks.at);
    if wanted == 0 || !Skb(skb).copy_payload(at, run.bytes.as_mut_ptr(), len) {
        return 0;
    }
    for i in 0..CHUNK_PEEK {
        if i >= len as usize || !run.chunks.step(run.bytes[i]) {
            break;
        }
    }
    1
}

#[inline(always)]
fn keep_head(run: *mut Scratch, c: &mut Connection) {
    // SAFETY: this processor's own value, see its map.
    let run = unsafe { &*run };
    let read = run.head.position.wrapping_add(run.head.start)
        == run.packet.sequence.wrapping_add(run.packet.payload);
    if !read || HEADS.insert(&run.key, &run.head, 0).is_err() {
        http::response_unframed(c);
    }
}

/// Does the segment end with a last chunk?
#[inline(always)]
fn is_last_chunk(skb: Skb, at: u32, payload: u32) -> bool {
    let end = at.wrapping_add(payload);
    let tail = if payload >= 7 {
        skb.payload::<7>(end.wrapping_sub(7))
    } else if payload == 5 {
        // Alone: the chunk before it ended with the segment before.
        skb.payload::<5>(end.wrapping_sub(5)).map(|b| [b'\r', b'\n', b[0], b[1], b[2], b[3], b[4]])
    } else {
        None
    };
    tail == Some(http::LAST_CHUNK)
}

/// Does the segment end as a request without a length does: with an empty line?
#[inline(always)]
pub(crate) fn ends_message(skb: Skb, run: &mut Scratch) -> bool {
    find(skb, run);
    let payload = run.packet.payload;
    let end = run.payload_at.wrapping_add(payload);
    if run.payload_at == NOWHERE || payload < 4 {
        return false;
    }
    skb.payload::<4>(end.wrapping_sub(4)).is_some_and(|tail| tail == *b"\r\n\r\n" || tail[2..] == *b"\n\n")
}

/// Scans as much of a head as is in the segment, from `skip` bytes of payload on.
#[inline(always)]
fn scan(skb: Skb, run: *mut Scratch, skip: u32) {
    for i in 0..HEAD_PEEKS {
        let skip = skip + i * HEAD_PEEK as u32;
        // SAFETY: this processor's own value, see its map.
        let ended = unsafe { skip >= (*run).packet.payload || (*run).head.ended() };
        // Verified once by itself, whatever the caller's paths are: it is a function with a BTF
        // signature of its own (Linux 5.6).
        if ended || scan_head(skb.0, skip) == 0 {
            break;
        }
    }
}

/// Scans up to [`HEAD_PEEK`] bytes of a head, `skip` bytes of payload further on. 0: there are none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_head(skb: *mut __sk_buff, skip: u32) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let left = run.packet.payload.saturating_sub(skip);
    let len = bounded::<HEAD_PEEK>(left.min(HEAD_PEEK as u32));
    let at = run.payload_at.wrapping_add(skip);
    if left == 0 || !Skb(skb).copy_payload(at, run.bytes.as_mut_ptr(), len) {
        return 0;
    }
    for i in 0..HEAD_PEEK {
        if i >= len as usize || run.head.ended() {
            break;
        }
        run.head.step(run.bytes[i]);
    }
    1
}
