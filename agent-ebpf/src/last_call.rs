//! The last call: a socket into the map (TC ingress), the announcement (`sk_msg`), and out again (TC egress).
//!
//! In: requests that come in, what the pod writes in answer, and the answer's first segment. Out: a few
//! bytes more in that answer. A boundary is a sequence number: the app's next byte gets
//! `tcp_sock.write_seq`, and `sk_msg` runs under the socket's lock before that byte is queued. So a message
//! whose number is the one where the answer has to begin is that answer's beginning.
//!
//! Nothing of this is pinned, and the lease makes it inert a second after the agent has gone.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated as helpers,
    programs::TcContext,
};
use lastcall_ebpf::{
    abi::{
        Announcing, Connection, LastCallConfig, Pod, PortKey, TCP, flag, last_call_count as outcome,
        protocol, told,
    },
    announce::{self, Reader, Tail, phase},
    flow::Kind,
    http::Piece,
    tcp::{self, Direction, after},
};

use crate::{
    count::{add, count},
    entries::{ESTABLISHED, find, lookup, lookup_loopback},
    maps::{
        LAST_CALL_CONFIG, LAST_CALL_COUNTS, LAST_CALL_LEASE, LAST_CALL_SOCKETS, LAST_CALL_STATES, LOCALS,
        PODS, PORTS, SCRATCH, Scratch,
    },
    observe::{NEXT, parse},
    payload,
    skb::Skb,
    unread,
};

const EBUSY: i32 = -16;
const EEXIST: i32 = -17;

#[inline(always)]
pub(crate) fn bump(index: u32) {
    if let Some(counter) = LAST_CALL_COUNTS.get_ptr_mut(index) {
        // SAFETY: a map value that was just looked up.
        unsafe { add(counter, 1) };
    }
}

/// The agent is alive, or was within the last second.
#[inline(always)]
pub(crate) fn leased() -> bool {
    // SAFETY: eight bytes, read whole; the time has no preconditions.
    LAST_CALL_LEASE.get(0).is_some_and(|until| unsafe { helpers::bpf_ktime_get_ns() } < *until)
}

#[inline(always)]
pub(crate) fn config() -> Option<LastCallConfig> {
    LAST_CALL_CONFIG.get(0).copied().filter(|c| c.write_seq != 0)
}

/// A socket's address, as a number: the verifier lets nobody count on from a socket.
#[inline(always)]
pub(crate) fn address(sk: *mut bpf_sock) -> u64 {
    let place = sk;
    let mut number = 0u64;
    // SAFETY: reads eight bytes of this function's own stack.
    unsafe { helpers::bpf_probe_read_kernel((&raw mut number).cast(), 8, (&raw const place).cast()) };
    number
}

#[inline(always)]
pub(crate) fn word(address: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: the helper refuses what cannot be read; the value is then zero.
    unsafe { helpers::bpf_probe_read_kernel((&raw mut value).cast(), 4, address as *const _) };
    value
}

#[inline(always)]
fn pointer(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: as above.
    unsafe { helpers::bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    value
}

/// The socket's state, made where `create`. Null: there is none.
#[inline(always)]
pub(crate) fn state(sk: *mut bpf_sock, create: bool) -> *mut Announcing {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    let map = (&raw const LAST_CALL_STATES).cast_mut().cast();
    // SAFETY: a socket that the verifier knows; a new value is zero.
    unsafe { helpers::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags).cast() }
}

/// A packet that comes in: is it a request whose answer is to carry the announcement?
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(config) = config().filter(|_| leased()) else { return NEXT };
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    if !parse(skb, run, Direction::In) {
        return NEXT;
    }
    // SAFETY: a u32 is read whole.
    let Some(&number) = (unsafe { LOCALS.get(&run.key.local) }) else { return NEXT };
    run.key.pod = number;
    request(skb, run, number, config);
    unread::look(skb, number);
    NEXT
}

/// A segment that may be a request.
#[inline(always)]
fn request(skb: Skb, run: &mut Scratch, number: u32, config: LastCallConfig) {
    if !matches!(run.packet.kind, Kind::Segment)
        || run.packet.payload == 0
        || run.packet.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
    {
        return;
    }
    let port_key = PortKey { pod: number, port: run.key.local_port, protocol: TCP, pad: 0 };
    // SAFETY: four bytes, written by the agent.
    let announces = unsafe { PORTS.get(&port_key) }.is_some_and(|p| p.announce != 0);
    let entry = find(run);
    if !announces || entry.is_null() {
        return;
    }
    // SAFETY: a map value that was just looked up.
    let c = unsafe { &*entry };
    if c.told_at != 0 || !is_turn(number, run.key.peer_port) {
        return;
    }
    match wanted(skb, run, c, config) {
        Ok(()) if c.protocol != protocol::HTTP2 && is_large(c, config) => bump(unread::wait(run, c)),
        Ok(()) => insert(skb, run, c, config),
        Err(Some(refusal)) => bump(refusal),
        Err(None) => {}
    }
}

/// Its socket must not be in the map before the request has been read.
#[inline(always)]
fn is_large(c: &Connection, config: LastCallConfig) -> bool {
    config.tells_unread == 0 && c.flags & flag::LARGE_REQUEST != 0
}

/// Is it this client's turn, of those of its pod?
#[inline(always)]
fn is_turn(pod: u32, peer_port: u16) -> bool {
    let Some(pod) = PODS.get_ptr_mut(&pod) else { return false };
    // SAFETY: fields that the agent has written once; the time has no preconditions.
    unsafe {
        let since = helpers::bpf_ktime_get_ns().saturating_sub((*pod).began);
        announce::is_turn(peer_port, since, (*pod).told_within)
    }
}

#[inline(always)]
fn wanted(
    skb: Skb,
    run: &mut Scratch,
    c: &Connection,
    config: LastCallConfig,
) -> Result<(), announce::Refusal> {
    if c.protocol == protocol::HTTP2 {
        return if config.http2 != 0 { announce::http2(c) } else { Err(None) };
    }
    let piece = Piece { sequence: run.packet.sequence, payload: run.packet.payload };
    let tail = if payload::ends_message(skb, run) { Tail::End } else { Tail::Other };
    announce::http1(c, piece, tail)
}

/// Looks the connection's socket up, as it is behind a redirect. It has to be released.
#[inline(always)]
pub(crate) fn socket(skb: Skb, run: &mut Scratch, c: &Connection) -> *mut bpf_sock {
    let port = if c.socket_port == 0 { run.key.local_port } else { c.socket_port };
    let sk = lookup(skb, run, port);
    if !sk.is_null() || port == run.key.local_port {
        return sk;
    }
    lookup_loopback(skb, run, port)
}

#[inline(always)]
fn insert(skb: Skb, run: &mut Scratch, c: &Connection, config: LastCallConfig) {
    let sk = socket(skb, run, c);
    if sk.is_null() {
        return bump(outcome::NO_SOCKET);
    }
    let done = insert_socket(run, c, config, sk);
    // SAFETY: looked up above, and used no more.
    unsafe { helpers::bpf_sk_release(sk.cast()) };
    bump(done);
}

#[inline(always)]
fn insert_socket(run: &mut Scratch, c: &Connection, config: LastCallConfig, sk: *mut bpf_sock) -> u32 {
    // SAFETY: a socket that is held.
    if unsafe { (*sk).state } != ESTABLISHED {
        return outcome::NOT_ESTABLISHED;
    }
    // SAFETY: as above.
    let tp = unsafe { helpers::bpf_tcp_sock(sk) };
    if tp.is_null() {
        return outcome::NO_SOCKET;
    }
    // A segment that the socket has had would put it in after the answer.
    let end = run.packet.sequence.wrapping_add(run.packet.payload);
    // SAFETY: not null.
    if !after(end, unsafe { (*tp).rcv_nxt }) {
        return outcome::DUPLICATE_SEGMENT;
    }
    // More than this segment is missing: an app that reads on would have to wait for it.
    // SAFETY: as above.
    if c.flags & flag::LARGE_REQUEST != 0 && unsafe { (*tp).rcv_nxt } != run.packet.sequence {
        return unread::wait(run, c);
    }
    put_in(run, c, config, sk)
}

/// Puts a socket into the map.
#[inline(always)]
pub(crate) fn put_in(run: &Scratch, c: &Connection, config: LastCallConfig, sk: *mut bpf_sock) -> u32 {
    let at = address(sk);
    if pointer(at + u64::from(config.ulp_ops)) != 0 {
        return outcome::ULP;
    }
    let boundary = word(at + u64::from(config.write_seq));
    if boundary != c.out_end {
        return outcome::UNSENT;
    }
    let s = state(sk, true);
    if s.is_null() {
        return outcome::NOT_TAKEN;
    }
    // SAFETY: a socket's storage that was just looked up. A message that is being looked at meanwhile
    // finds another turn, and is left alone.
    unsafe {
        if (*s).key.pod == run.key.pod {
            match (*s).phase {
                phase::NEVER => return outcome::UPGRADED,
                // Told, though nobody has seen the answer leave: egress may be detached already.
                phase::PUT => return outcome::ALREADY_IN,
                _ => {}
            }
        }
        (*s).phase = phase::NONE;
        (*s).turns = (*s).turns.wrapping_add(1);
        (*s).key = run.key;
        (*s).boundary = boundary;
        (*s).next = boundary;
        (*s).reader = Reader::default();
        (*s).held = 1;
        let waits_for = if c.protocol == protocol::HTTP2 { phase::FRAME } else { phase::RESPONSE };
        core::ptr::write_volatile(&raw mut (*s).phase, waits_for);
    }
    let map = (&raw const LAST_CALL_SOCKETS).cast_mut().cast();
    // SAFETY: the verifier takes the held socket as this map's value. The result is 32 bits wide before
    // kernel 6.4.
    let result = unsafe {
        helpers::bpf_map_update_elem(map, (&raw const run.key).cast(), sk.cast(), u64::from(BPF_NOEXIST))
            as i32
    };
    match result {
        0 => outcome::INSERTED,
        EBUSY | EEXIST => outcome::ALREADY_IN,
        _ => {
            // SAFETY: as above.
            unsafe { (*s).phase = phase::NONE };
            outcome::NOT_TAKEN
        }
    }
}

/// A packet that leaves: the answer's first segment takes its socket out of the map. Also without a lease.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let sk = skb.socket();
    if sk.is_null() {
        return NEXT;
    }
    // SAFETY: not null.
    let sk = unsafe { helpers::bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return NEXT;
    }
    let s = state(sk, false);
    // SAFETY: read only where it is not null.
    if s.is_null() || unsafe { (*s).held } == 0 {
        return NEXT;
    }
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    if !parse(skb, run, Direction::Out) || !matches!(run.packet.kind, Kind::Segment) {
        return NEXT;
    }
    let end = run.packet.sequence.wrapping_add(run.packet.payload);
    // SAFETY: a socket's storage that was just looked up; each field is read whole.
    unsafe {
        let at = core::ptr::read_volatile(&raw const (*s).phase);
        let reading = at == phase::RESPONSE && !after(end, (*s).next);
        if run.packet.payload == 0 || !after(end, (*s).boundary) || reading {
            return NEXT;
        }
        run.key = (*s).key;
        if at == phase::PUT {
            tell(run);
        } else if at != phase::NEVER {
            (*s).phase = phase::NONE;
        }
        (*s).held = 0;
    }
    let map = (&raw const LAST_CALL_SOCKETS).cast_mut().cast();
    // SAFETY: a map and a key of its type.
    if unsafe { helpers::bpf_map_delete_elem(map, (&raw const run.key).cast()) as i32 } == 0 {
        bump(outcome::DELETED);
    }
    NEXT
}

/// The announcement has left the pod.
#[inline(always)]
fn tell(run: &Scratch) {
    let entry = find(run);
    let Some(pod) = PODS.get_ptr_mut(&run.key.pod) else { return };
    // SAFETY: read and written only where it is not null.
    if entry.is_null() || unsafe { (*entry).told_at } != 0 {
        return;
    }
    // SAFETY: as above; the time has no preconditions.
    let speaks = unsafe {
        (*entry).told_at = helpers::bpf_ktime_get_ns();
        (*entry).protocol
    };
    said(pod, speaks);
}

#[inline(always)]
fn said(pod: *mut Pod, speaks: u8) {
    if speaks == protocol::HTTP2 {
        count!(pod, told[told::HTTP2], 1);
        bump(outcome::HTTP2);
    } else {
        count!(pod, told[told::HTTP1], 1);
        bump(outcome::HTTP1);
    }
}
