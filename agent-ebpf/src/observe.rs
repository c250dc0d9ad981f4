//! TC on a Terminating pod's links: packets to the connection table.
//!
//! In: every packet of the link, either way. Out: [`CONNECTIONS`], [`PODS`], and an edge event when
//! nothing is open any more. Nothing else: the packet goes on as if nobody had looked.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns, programs::TcContext};
use lastcall_ebpf::{
    abi::{self, Command, Connection, Pod, PortKey, TCP, UDP, command, edge, flag},
    flow::{self, Kind},
    http,
    tcp::{self, Direction, Segment},
};

use crate::{
    count::count,
    entries::{EEXIST, EMPTY, enter, find, handshake, identify, remove, syn_with_data, tell},
    maps::{CONNECTIONS, LOCALS, PODS, PORTS, SCRATCH, Scratch},
    payload,
    skb::{ETHERNET, Skb},
};

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` to clsact: whatever comes behind us decides. 0 would be
/// `TC_ACT_OK`, which bypasses other people's policy programs.
pub(crate) const NEXT: i32 = -1;

/// One packet.
#[inline(always)]
pub(crate) fn observe(ctx: &TcContext, direction: Direction) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    if !parse(skb, run, direction) {
        return NEXT;
    }
    // SAFETY: a u32 is read whole.
    let Some(&number) = (unsafe { LOCALS.get(&run.key.local) }) else { return NEXT };
    let Some(pod) = PODS.get_ptr_mut(&number) else { return NEXT };
    run.key.pod = number;
    // SAFETY: `bpf_ktime_get_ns` has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    match direction {
        Direction::In => count!(pod, packets_in, 1),
        Direction::Out => count!(pod, packets_out, 1),
    }
    match run.packet.kind {
        // SAFETY: `pod` was just looked up; a lost race costs one timestamp.
        Kind::Fragment => unsafe { (*pod).last_payload = now },
        Kind::Segment => segment(skb, direction, run, pod, now),
        Kind::Datagram => datagram(direction, run, pod, now),
    }
    NEXT
}

/// Reads the headers. A function of its own, so that its part of the stack of 512 bytes is free again.
#[inline(never)]
pub(crate) fn parse(skb: Skb, run: &mut Scratch, direction: Direction) -> bool {
    if !flow::parse_into(&skb, &mut run.packet) {
        return false;
    }
    // Field by field, in place: two keys to choose from would lie on the stack.
    let (packet, key) = (&run.packet, &mut run.key);
    (key.pod, key.protocol, key.pad) = (0, TCP, [0; 3]);
    match direction {
        Direction::In => {
            (key.local_port, key.peer_port) = (packet.destination_port, packet.source_port);
            (key.local, key.peer) = (packet.destination, packet.source);
        }
        Direction::Out => {
            (key.local_port, key.peer_port) = (packet.source_port, packet.destination_port);
            (key.local, key.peer) = (packet.source, packet.destination);
        }
    }
    true
}

#[inline(always)]
fn segment(skb: Skb, direction: Direction, run: &mut Scratch, pod: *mut Pod, now: u64) {
    let port_key = PortKey { pod: run.key.pod, port: run.key.local_port, protocol: TCP, pad: 0 };
    // SAFETY: four bytes, written once by the agent.
    let Some(&port) = (unsafe { PORTS.get(&port_key) }) else { return };
    if run.packet.flags & tcp::SYN != 0 {
        match direction {
            Direction::Out if run.packet.flags & tcp::ACK != 0 => handshake(run, pod, now),
            Direction::In if run.packet.flags & tcp::ACK == 0 && run.packet.payload > 0 => syn_with_data(run),
            _ => {}
        }
        return;
    }
    let mut entry = find(run);
    // SAFETY: read only where it is not null.
    let silent = entry.is_null() || abi::is_silent(unsafe { (*entry).flags });
    if entry.is_null() {
        run.fresh = Connection { first_seen: now, last_packet: now, protocol: port.protocol, ..EMPTY };
        if !enter(skb, direction, run, pod) {
            // A connection that is older than the attach and has been silent since: only a dump knows it,
            // and only a dump can show that it has ended.
            if run.packet.flags & (tcp::FIN | tcp::RST) != 0 {
                if matches!(direction, Direction::Out) {
                    count!(pod, silent_ends, 1);
                }
                tell(pod, run.key.pod, edge::LOOK, now);
            }
            return;
        }
        entry = find(run);
        if entry.is_null() {
            return;
        }
    }
    // SAFETY: a map value that was just looked up. Two processors may hold it at once (one direction
    // each); every field is written by one direction but for `flags`, where a lost bit is healed by
    // the next packet or the next dump, and `streams`, which is added to.
    let c = unsafe { &mut *entry };
    if matches!(direction, Direction::Out) {
        identify(skb, c);
    }
    let s = Segment {
        at: now,
        sequence: run.packet.sequence,
        acknowledgement: run.packet.acknowledgement,
        flags: run.packet.flags,
        payload: run.packet.payload,
    };
    let leaves = matches!(direction, Direction::Out)
        && s.flags & (tcp::FIN | tcp::RST) != 0
        && c.flags & flag::FIN_OUT == 0;
    let effect = tcp::advance(c, direction, &s);
    if effect.advanced {
        // SAFETY: `pod` was looked up in this run.
        unsafe { (*pod).last_payload = now };
        payload::find(skb, run);
        match direction {
            Direction::In => {
                if payload::request(skb, run, c, port.settles) {
                    payload::opened(run, c, pod, now);
                }
            }
            Direction::Out => payload::response(skb, run, c),
        }
    }
    if leaves && silent && s.payload == 0 {
        count!(pod, silent_ends, 1);
    } else if leaves && http::is_cut(c) {
        count!(pod, cut, 1);
    }
    if effect.ended {
        remove(run, pod, now);
    } else if effect.look {
        tell(pod, run.key.pod, edge::LOOK, now);
    }
}

/// UDP: a flow is whatever comes in to a port that counts, and the answers to it.
#[inline(always)]
fn datagram(direction: Direction, run: &mut Scratch, pod: *mut Pod, now: u64) {
    run.key.protocol = UDP;
    let port_key = PortKey { pod: run.key.pod, port: run.key.local_port, protocol: UDP, pad: 0 };
    if PORTS.get_ptr(&port_key).is_none() {
        return;
    }
    let mut entry = find(run);
    if entry.is_null() {
        if matches!(direction, Direction::Out) {
            return;
        }
        run.fresh = Connection { first_seen: now, ..EMPTY };
        match CONNECTIONS.insert(&run.key, &run.fresh, u64::from(BPF_NOEXIST)) {
            Ok(()) => count!(pod, flows, 1),
            Err(EEXIST) => {}
            Err(_) => {
                count!(pod, refused, 1);
                return;
            }
        }
        entry = find(run);
        if entry.is_null() {
            return;
        }
    }
    // SAFETY: as in `segment`.
    let c = unsafe { &mut *entry };
    c.last_packet = now;
    match direction {
        Direction::In => {
            c.last_in = now;
            c.bytes_in = c.bytes_in.wrapping_add(u64::from(run.packet.payload));
            c.flags |= flag::IN;
            // SAFETY: `pod` was looked up in this run.
            unsafe { (*pod).last_datagram = now };
        }
        Direction::Out => {
            c.last_out = now;
            c.bytes_out = c.bytes_out.wrapping_add(u64::from(run.packet.payload));
            c.flags |= flag::OUT;
        }
    }
    // SAFETY: as above.
    unsafe { (*pod).last_payload = now };
}

/// What the agent asks for. 1 where it was done.
#[inline(always)]
pub(crate) fn command(ctx: &TcContext) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let Ok(asked) = ctx.load::<Command>(ETHERNET as usize) else { return 0 };
    run.key = asked.key;
    let Some(pod) = PODS.get_ptr_mut(&run.key.pod) else { return 0 };
    if asked.kind == command::ARM {
        // SAFETY: `pod` was just looked up.
        unsafe { core::ptr::write_volatile(&raw mut (*pod).armed, 1) };
        return 1;
    }
    let entry = find(run);
    // SAFETY: read only where it is not null; eight bytes, read whole.
    if entry.is_null() || unsafe { (*entry).last_packet } != asked.last_packet {
        return 0;
    }
    if run.key.protocol == UDP {
        if CONNECTIONS.remove(&run.key).is_ok() {
            count!(pod, flows, 1u64.wrapping_neg());
        }
    } else {
        // SAFETY: no preconditions.
        remove(run, pod, unsafe { bpf_ktime_get_ns() });
    }
    1
}
