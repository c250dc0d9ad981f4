//! Entries of the connection table: made, named, removed.
//!
//! In: a packet whose connection is not in the table, or has ended. Out: [`CONNECTIONS`], the pod's count,
//! and an edge event when nothing is open any more.

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, bpf_sock, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated as helpers,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use lastcall_ebpf::{
    abi::{
        Address, Connection, Edge, H2Ahead, H2Position, Handshake, Pod, ProbeKey, edge, flag, protocol, told,
    },
    tcp::{self, Direction},
};

use crate::{
    count::count,
    maps::{CONNECTIONS, EDGES, HANDSHAKES, PROBES, Scratch},
    skb::Skb,
};

/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
pub(crate) const ESTABLISHED: u32 = 1;

/// States of a socket that has been, or still is, a connection (`include/net/tcp_states.h`).
#[inline(always)]
fn connected(state: u32) -> bool {
    const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
    state < 12 && STATES & (1 << state) != 0
}

#[inline(always)]
pub(crate) fn find(run: &Scratch) -> *mut Connection {
    CONNECTIONS.get_ptr_mut(&run.key).unwrap_or(core::ptr::null_mut())
}

/// Data comes with a SYN (TCP Fast Open, RFC 7413). Whether the pod takes it, its SYN+ACK says.
#[inline(always)]
pub(crate) fn syn_with_data(run: &Scratch) {
    let h = Handshake { isn: run.packet.sequence, acknowledged: 0, asked: Handshake::SYN, pad: 0 };
    let _ = HANDSHAKES.insert(&run.key, &h, 0);
}

/// The pod answers a SYN. What the table still has under these ports was another connection, unless the
/// SYN+ACK is sent again: the pod has not had the ACK, or makes as if (`TCP_DEFER_ACCEPT`, a full queue).
#[inline(always)]
pub(crate) fn handshake(run: &mut Scratch, pod: *mut Pod, now: u64) {
    const COMPLETED: u32 = flag::NEW | flag::ACKED;
    let isn = run.packet.sequence;
    let entry = find(run);
    if !entry.is_null() {
        // SAFETY: a map value that was just looked up.
        let c = unsafe { &*entry };
        if c.flags & (COMPLETED | flag::OUT) == COMPLETED && c.out_acked == isn.wrapping_add(1) {
            return;
        }
        remove(run, pod, now);
    }
    let acknowledged = run.packet.acknowledgement;
    // SAFETY: sixteen bytes, written once per handshake.
    let asked = unsafe { HANDSHAKES.get(&run.key) }.is_some_and(|h| match h.asked {
        Handshake::SYN => acknowledged != h.isn.wrapping_add(1),
        asked => asked != 0 && h.isn == isn,
    });
    let h = Handshake { isn, acknowledged, asked: u32::from(asked), pad: 0 };
    let _ = HANDSHAKES.insert(&run.key, &h, 0);
}

/// Makes an entry for a connection that is certainly one: its handshake was completed, or the
/// packet comes from its socket, or its socket is found.
#[inline(never)]
pub(crate) fn enter(skb: Skb, direction: Direction, run: &mut Scratch, pod: *mut Pod) -> bool {
    if run.packet.flags & (tcp::RST | tcp::ACK) != tcp::ACK {
        return false;
    }
    run.probe = ProbeKey {
        local: run.key.local,
        peer: run.key.peer,
        local_port: run.key.local_port,
        peer_port: run.key.peer_port,
    };
    // One whose kubelet's end has closed is somebody else's, if anything passes.
    // SAFETY: eight bytes, read whole.
    if unsafe { PROBES.get(&run.probe) } == Some(&0) {
        return false;
    }
    match direction {
        Direction::In => {
            // SAFETY: sixteen bytes, written once per handshake.
            let answered = unsafe { HANDSHAKES.get(&run.key) };
            let completed = answered
                .filter(|h| h.asked != Handshake::SYN && run.packet.acknowledgement == h.isn.wrapping_add(1));
            if let Some(&h) = completed {
                run.fresh.flags = flag::NEW | flag::IN_ACKED;
                run.fresh.in_acked = h.acknowledged;
                if h.asked != 0 {
                    run.fresh.flags |= flag::IN | flag::WAITING;
                    run.fresh.in_end = h.acknowledged;
                    run.fresh.last_in = run.fresh.first_seen;
                }
                let _ = HANDSHAKES.remove(&run.key);
            } else if run.packet.payload == 0 || !established(skb, run) {
                return false;
            }
        }
        Direction::Out => {
            let sk = skb.socket();
            // SAFETY: read only where it is not null; `state` of a `sock_common` is readable.
            if sk.is_null() || !connected(unsafe { (*sk).state }) {
                return false;
            }
        }
    }
    match CONNECTIONS.insert(&run.key, &run.fresh, u64::from(BPF_NOEXIST)) {
        Ok(()) => count!(pod, open, 1),
        // The helper's result is 32 bits wide before kernel 6.4: aya gives it as i32.
        Err(EEXIST) => {}
        Err(_) => {
            count!(pod, refused, 1);
            return false;
        }
    }
    let ctx = TcContext::new(skb.0);
    debug!(
        &ctx,
        "pod {}: connection to port {} from port {}", run.key.pod, run.key.local_port, run.key.peer_port
    );
    true
}

/// `EEXIST`, as helpers give it.
pub(crate) const EEXIST: i32 = -17;
/// A position that means nothing.
const NOWHERE: H2Position =
    H2Position { next: 0, highest: 0, head: [0; 8], have: 0, state: 0, within_headers: 0, pad: 0 };
pub(crate) const EMPTY: Connection = Connection {
    cookie: 0,
    first_seen: 0,
    last_in: 0,
    last_out: 0,
    last_packet: 0,
    bytes_in: 0,
    bytes_out: 0,
    in_end: 0,
    out_end: 0,
    out_acked: 0,
    response_end: 0,
    fin_in: 0,
    fin_out: 0,
    exchanges: 0,
    streams: 0,
    flags: 0,
    in_acked: 0,
    request_end: 0,
    socket_port: 0,
    protocol: 0,
    h2_epoch: 0,
    h2_in: NOWHERE,
    h2_out: NOWHERE,
    h2_ahead: H2Ahead { start: 0, end: 0, highest: 0 },
    chunk: 0,
    h2_unseen: 0,
    told_at: 0,
};

/// Learns whose packet this is. Another cookie under the same ports is another connection.
#[inline(always)]
pub(crate) fn identify(skb: Skb, c: &mut Connection) {
    // SAFETY: the context of this program.
    let cookie = unsafe { helpers::bpf_get_socket_cookie(skb.0.cast()) };
    if cookie == 0 || cookie == c.cookie {
        return;
    }
    let sk = skb.socket();
    if sk.is_null() {
        return;
    }
    // SAFETY: not null, checked above.
    let (state, port) = unsafe { ((*sk).state, (*sk).src_port) };
    if connected(state) {
        c.cookie = cookie;
        c.socket_port = port as u16;
    }
}

/// The socket of this run's connection whose own port is `port`, or null. It has to be released.
#[inline(always)]
pub(crate) fn lookup(skb: Skb, run: &mut Scratch, port: u16) -> *mut bpf_sock {
    let (key, tuple) = (&run.key, &mut run.tuple);
    let (sport, dport) = (key.peer_port.to_be(), port.to_be());
    let size = if is_v4(&key.local) {
        tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: word(&key.peer, 12),
            daddr: word(&key.local, 12),
            sport,
            dport,
        };
        12
    } else {
        tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: [word(&key.peer, 0), word(&key.peer, 4), word(&key.peer, 8), word(&key.peer, 12)],
            daddr: [word(&key.local, 0), word(&key.local, 4), word(&key.local, 8), word(&key.local, 12)],
            sport,
            dport,
        };
        36
    };
    // SAFETY: `tuple` is this run's, `size` is that of its family's part.
    unsafe { helpers::bpf_sk_lookup_tcp(skb.0.cast(), tuple, size, CURRENT_NETNS, 0) }
}

/// The same where the pod redirects to its loopback, which there is in IPv4 only.
#[inline(always)]
pub(crate) fn lookup_loopback(skb: Skb, run: &mut Scratch, port: u16) -> *mut bpf_sock {
    let (key, tuple) = (&run.key, &mut run.tuple);
    let daddr = if is_v4(&key.local) { u32::from_ne_bytes([127, 0, 0, 1]) } else { 0 };
    tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: word(&key.peer, 12),
        daddr,
        sport: key.peer_port.to_be(),
        dport: port.to_be(),
    };
    // SAFETY: `tuple` is this run's, 12 is the size of its IPv4 part.
    unsafe { helpers::bpf_sk_lookup_tcp(skb.0.cast(), tuple, 12, CURRENT_NETNS, 0) }
}

/// Is there an established socket for this tuple, as it is on the wire?
#[inline(always)]
fn established(skb: Skb, run: &mut Scratch) -> bool {
    let sk = lookup(skb, run, run.key.local_port);
    if sk.is_null() {
        return false;
    }
    // SAFETY: not null; the socket is released.
    unsafe {
        let state = (*sk).state;
        helpers::bpf_sk_release(sk.cast());
        state == ESTABLISHED
    }
}

#[inline(always)]
fn is_v4(a: &Address) -> bool {
    word(a, 0) == 0 && word(a, 4) == 0 && word(a, 8) == 0xffffu32.to_be()
}

#[inline(always)]
fn word(a: &Address, at: usize) -> u32 {
    u32::from_ne_bytes([a[at], a[at + 1], a[at + 2], a[at + 3]])
}

/// Takes a connection out of the table. Whoever takes it out counts it, so that the count is exact
/// without any atomic operation that returns a value (those are not there before kernel 5.12).
#[inline(always)]
pub(crate) fn remove(run: &Scratch, pod: *mut Pod, now: u64) {
    let entry = find(run);
    // SAFETY: read only where it is not null.
    let (told_at, speaks) =
        if entry.is_null() { (0, 0) } else { unsafe { ((*entry).told_at, (*entry).protocol) } };
    if CONNECTIONS.remove(&run.key).is_err() {
        return;
    }
    if told_at != 0 {
        left(pod, speaks, now.wrapping_sub(told_at));
    }
    count!(pod, open, 1u64.wrapping_neg());
    // SAFETY: `pod` was looked up in this run. Our own subtraction precedes this read: of two
    // processors that remove the last two, the later one reads zero.
    let open = unsafe { core::ptr::read_volatile(&raw const (*pod).open) };
    if open == 0 {
        send(pod, run.key.pod, edge::NOTHING_OPEN, now);
    } else {
        tell(pod, run.key.pod, edge::REMOVED, now);
    }
}

/// A client that was told to leave has left.
#[inline(always)]
fn left(pod: *mut Pod, speaks: u8, took: u64) {
    if speaks == protocol::HTTP2 {
        count!(pod, left[told::HTTP2], 1);
        count!(pod, left_ns[told::HTTP2], took);
    } else {
        count!(pod, left[told::HTTP1], 1);
        count!(pod, left_ns[told::HTTP1], took);
    }
}

/// Tells the agent once, until it arms the pod again: never more than it asks for.
#[inline(always)]
pub(crate) fn tell(pod: *mut Pod, number: u32, kind: u32, now: u64) {
    // SAFETY: `pod` was looked up in this run; two processors at once send two events, no harm.
    let armed = unsafe { &raw mut (*pod).armed };
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(armed) } != 0 {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(armed, 0) };
        send(pod, number, kind, now);
    }
}

#[inline(always)]
fn send(pod: *mut Pod, number: u32, kind: u32, now: u64) {
    match EDGES.reserve::<Edge>(0) {
        Some(mut event) => {
            event.write(Edge { at: now, pod: number, kind });
            event.submit(0);
        }
        None => count!(pod, edges_lost, 1),
    }
}
