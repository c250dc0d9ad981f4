//! TC on a Terminating pod's links: packets to the connection table.
//!
//! In: every packet of the link, either way. Out: [`CONNECTIONS`], [`PODS`], and an edge event when
//! nothing is open any more. Nothing else: the packet goes on as if nobody had looked.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, __sk_buff, bpf_sock, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2},
    helpers::{bpf_ktime_get_ns, generated as helpers},
    maps::lpm_trie::Key,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use lastcall_ebpf::{
    abi::{
        Address, Command, Connection, Edge, FlowKey, Handshake, HealthPath, Pod, PortKey, ProbeKey, TCP, UDP, command, edge,
        flag,
    },
    flow::{self, Bytes, Kind, Packet},
    http::{self, REQUEST_PEEK, RESPONSE_PEEK},
    tcp::{self, Direction, Segment},
};

use crate::count::add;
use crate::maps::{
    RESPONSE_ROOM,     CONNECTIONS, EDGES, HANDSHAKES, HEALTH_PATHS, IGNORED_SOURCES, LOCALS, PODS, PORTS, PROBES, SCRATCH, Scratch,
};

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` to clsact: whatever comes behind us decides. 0 would be
/// `TC_ACT_OK`, which bypasses other people's policy programs.
const NEXT: i32 = -1;

/// `BPF_HDR_START_NET`: offsets count from the network header, whatever the link's header is.
const FROM_NETWORK_HEADER: u32 = 1;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
/// An Ethernet header, bytes: only needed where the IP header does not say how long the packet is.
const ETHERNET: u32 = 14;

const ESTABLISHED: u32 = 1;

/// States of a socket that has been, or still is, a connection (`include/net/tcp_states.h`).
#[inline(always)]
fn connected(state: u32) -> bool {
    const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
    state < 12 && STATES & (1 << state) != 0
}

/// The packet of this run.
#[derive(Clone, Copy)]
struct Skb(*mut __sk_buff);

impl Skb {
    /// How long the link's header is: where the network header starts for [`Skb::copy_payload`].
    ///
    /// Nothing says it, so the addresses are looked for where Ethernet, no link header at all (tunnels)
    /// or a VLAN tag would put them.
    #[inline(always)]
    fn link_header(self) -> Option<u32> {
        let addresses = u64::from_ne_bytes(self.load::<8>(12)?);
        for length in [ETHERNET, 0, ETHERNET + 4] {
            let mut there = [0u8; 8];
            // SAFETY: eight bytes on the stack.
            let r = unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), length + 12, there.as_mut_ptr().cast(), 8) };
            if r == 0 && u64::from_ne_bytes(there) == addresses {
                return Some(length);
            }
        }
        None
    }

    /// Copies `len` bytes of payload (1 to the length of `to`). `offset` counts from the network header.
    ///
    /// Headers are always in the packet's linear part, payload often is not, and the helper that counts
    /// from the network header reads no further than the linear part (`net/core/filter.c`).
    #[inline(always)]
    fn copy_payload(self, offset: u32, to: *mut u8, len: u32) -> bool {
        let Some(link) = self.link_header() else { return false };
        // SAFETY: as in `copy`.
        unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), link + offset, to.cast(), len) == 0 }
    }

    /// `N` bytes of payload.
    #[inline(always)]
    fn payload<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        self.copy_payload(offset, bytes.as_mut_ptr(), N as u32).then_some(bytes)
    }

    /// Copies `len` bytes (1 to the length of `to`) of the headers, `false` where the packet is shorter.
    #[inline(always)]
    fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the callers pass a buffer of at least `len` bytes; the verifier checks it again.
        unsafe { helpers::bpf_skb_load_bytes_relative(self.0.cast(), offset, to.cast(), len, FROM_NETWORK_HEADER) == 0 }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        self.copy(offset, bytes.as_mut_ptr(), N as u32).then_some(bytes)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.0).len }.saturating_sub(ETHERNET)
    }
}

macro_rules! count {
    ($pod:expr, $field:ident, $n:expr) => {
        // SAFETY: a field of a map value that was just looked up.
        unsafe { add(&raw mut (*$pod).$field, $n) }
    };
}

/// One packet.
#[inline(always)]
pub(crate) fn observe(ctx: &TcContext, direction: Direction) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    let Some(packet) = flow::parse(&skb) else { return NEXT };
    run.packet = packet;
    run.key = match direction {
        Direction::In => FlowKey {
            pod: 0,
            local_port: packet.destination_port,
            peer_port: packet.source_port,
            local: packet.destination,
            peer: packet.source,
            protocol: TCP,
            pad: [0; 3],
        },
        Direction::Out => FlowKey {
            pod: 0,
            local_port: packet.source_port,
            peer_port: packet.destination_port,
            local: packet.source,
            peer: packet.destination,
            protocol: TCP,
            pad: [0; 3],
        },
    };
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

#[inline(always)]
fn segment(skb: Skb, direction: Direction, run: &mut Scratch, pod: *mut Pod, now: u64) {
    let port_key = PortKey { pod: run.key.pod, port: run.key.local_port, protocol: TCP, pad: 0 };
    // SAFETY: four bytes, written once by the agent.
    let Some(&port) = (unsafe { PORTS.get(&port_key) }) else { return };
    if run.packet.flags & tcp::SYN != 0 {
        if matches!(direction, Direction::Out) && run.packet.flags & tcp::ACK != 0 {
            handshake(run, pod, now);
        }
        return;
    }
    let mut entry = find(run);
    if entry.is_null() {
        run.fresh = Connection { first_seen: now, last_packet: now, protocol: port.protocol, ..EMPTY };
        if !enter(skb, direction, run, pod) {
            // A connection that is older than the attach and has been silent since: only a dump knows it,
            // and only a dump can show that it has ended.
            if run.packet.flags & (tcp::FIN | tcp::RST) != 0 {
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
    // the next packet or the next dump.
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
        match direction {
            Direction::In => {
                if request(skb, run, c, port.settles) {
                    opened(run, c, pod, now);
                }
            }
            Direction::Out => response(skb, run, c),
        }
    }
    if leaves && c.flags & http::UNFINISHED != 0 {
        count!(pod, cut, 1);
    }
    if effect.ended {
        remove(run, pod, now);
    } else if effect.look {
        tell(pod, run.key.pod, edge::LOOK, now);
    }
}

#[inline(always)]
fn find(run: &Scratch) -> *mut Connection {
    CONNECTIONS.get_ptr_mut(&run.key).unwrap_or(core::ptr::null_mut())
}

/// The pod answers a SYN. What the table still has under these ports was another connection.
#[inline(always)]
fn handshake(run: &mut Scratch, pod: *mut Pod, now: u64) {
    if !find(run).is_null() {
        remove(run, pod, now);
    }
    let h = Handshake { at: now, isn: run.packet.sequence, pad: 0 };
    let _ = HANDSHAKES.insert(&run.key, &h, 0);
}

/// Makes an entry for a connection that is certainly one: its handshake was completed, or the
/// packet comes from its socket, or its socket is found.
#[inline(never)]
fn enter(skb: Skb, direction: Direction, run: &mut Scratch, pod: *mut Pod) -> bool {
    if run.packet.flags & (tcp::RST | tcp::ACK) != tcp::ACK {
        return false;
    }
    run.probe = ProbeKey {
        local: run.key.local,
        peer: run.key.peer,
        local_port: run.key.local_port,
        peer_port: run.key.peer_port,
    };
    if PROBES.get_ptr(&run.probe).is_some() {
        return false;
    }
    match direction {
        Direction::In => {
            // SAFETY: sixteen bytes, written once per handshake.
            let isn = unsafe { HANDSHAKES.get(&run.key) }.map(|h| h.isn);
            if isn.is_some_and(|isn| run.packet.acknowledgement == isn.wrapping_add(1)) {
                run.fresh.flags = flag::NEW;
                let _ = HANDSHAKES.remove(&run.key);
            } else if run.packet.payload == 0 || !established(skb, run) {
                return false;
            }
        }
        Direction::Out => {
            let sk = socket(skb);
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
    debug!(&ctx, "pod {}: connection to port {} from port {}", run.key.pod, run.key.local_port, run.key.peer_port);
    true
}

const EEXIST: i32 = -17;
const EMPTY: Connection = Connection {
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
    h2_next_in: 0,
    h2_next_out: 0,
    flags: 0,
    socket_port: 0,
    protocol: 0,
    pad: 0,
};

/// The socket that sends this packet, or null.
#[inline(always)]
fn socket(skb: Skb) -> *mut bpf_sock {
    // SAFETY: reading a context field; the verifier types it as a socket or null.
    unsafe { (*skb.0).__bindgen_anon_2.sk }
}

/// Learns whose packet this is. Another cookie under the same ports is another connection.
#[inline(always)]
fn identify(skb: Skb, c: &mut Connection) {
    // SAFETY: the context of this program.
    let cookie = unsafe { helpers::bpf_get_socket_cookie(skb.0.cast()) };
    if cookie == 0 || cookie == c.cookie {
        return;
    }
    let sk = socket(skb);
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

/// Is there an established socket for this tuple, as it is on the wire?
#[inline(always)]
fn established(skb: Skb, run: &mut Scratch) -> bool {
    let (key, tuple) = (&run.key, &mut run.tuple);
    let (sport, dport) = (key.peer_port.to_be(), key.local_port.to_be());
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
    // SAFETY: `tuple` is this run's, `size` is that of its family's part; the socket is released.
    unsafe {
        let sk = helpers::bpf_sk_lookup_tcp(skb.0.cast(), tuple, size, CURRENT_NETNS, 0);
        if sk.is_null() {
            return false;
        }
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

/// Inbound payload: a request, or a piece of one. Answers whether it is the first of a connection
/// whose opening may keep the pod unsettled.
#[inline(never)]
fn request(skb: Skb, run: &mut Scratch, c: &mut Connection, settles: u8) -> bool {
    let len = run.packet.payload.min(REQUEST_PEEK as u32);
    if len == 0 || !skb.copy_payload(run.packet.payload_offset, run.request.as_mut_ptr(), len) {
        c.flags |= flag::WAITING;
        return false;
    }
    let (start, target) = http::start(&run.request, len as usize);
    let frame = http::frame(&run.request, len as usize, run.packet.payload);
    if c.flags & (flag::NEW | flag::BOUNDARY) == 0 && http::websocket(&run.request, len as usize, run.packet.payload) {
        http::upgraded(c);
    }
    let waited = c.flags & flag::WAITING != 0;
    http::request(c, start, frame);
    if matches!(start, http::Start::Request | http::Start::Head) {
        scan_head(skb.0, run.packet.payload_offset, run.packet.payload);
        http::pipelined(c, waited, &run.scan, run.packet.payload);
    }
    if settles == 0 || c.flags & (flag::NEW | flag::COUNTED) != flag::NEW {
        return false;
    }
    run.target_hash = if target == 0 { 0 } else { http::target_hash(&run.request, target, len as usize) };
    true
}

/// A new connection carries a request: a client's, or a health check's?
#[inline(always)]
fn opened(run: &Scratch, c: &mut Connection, pod: *mut Pod, now: u64) {
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
fn response(skb: Skb, run: &mut Scratch, c: &mut Connection) {
    if !response_head(skb, run, c, 0) {
        http::response_continues(c);
    } else if c.flags & flag::WAITING != 0 && run.scan.body != 0 {
        // An interim response. The final one may stand behind it in the same segment.
        let behind = run.scan.body;
        response_head(skb, run, c, behind);
    }
    if c.flags & (flag::RESPONSE_LENGTH | flag::RESPONSE_CHUNKED) != 0 {
        http::response_ends(c, tail(skb, &run.packet));
    }
}

/// Whether a response begins `at` so many bytes of payload; if so, takes its head into account.
#[inline(always)]
fn response_head(skb: Skb, run: &mut Scratch, c: &mut Connection, at: u32) -> bool {
    let (offset, payload) = (run.packet.payload_offset + at, run.packet.payload.wrapping_sub(at));
    if c.flags & flag::UPGRADED != 0 || run.packet.payload < at + 12 {
        return false;
    }
    let Some(status) = skb.payload::<12>(offset).and_then(|line| http::status(&line)) else { return false };
    // Verified once by itself, whatever the caller's paths are: it is a function with a BTF
    // signature of its own (Linux 5.6).
    scan_head(skb.0, offset, payload);
    http::response_begins(c, status, &run.scan, run.packet.sequence.wrapping_add(at));
    true
}

#[inline(always)]
fn tail(skb: Skb, packet: &Packet) -> Option<[u8; 7]> {
    if packet.payload >= 7 {
        skb.payload::<7>(packet.payload_offset + packet.payload - 7)
    } else if packet.payload == 5 {
        let b = skb.payload::<5>(packet.payload_offset)?;
        Some([b'\r', b'\n', b[0], b[1], b[2], b[3], b[4]])
    } else {
        None
    }
}

/// Scans the head of a response at `offset` with `payload` bytes into [`SCRATCH`]. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan_head(skb: *mut __sk_buff, offset: u32, payload: u32) -> i32 {
    let Some(run) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's own value, see its map.
    let run: &mut Scratch = unsafe { &mut *run };
    run.scan = http::HeadScan::default();
    // The mask says it again in words that the verifier follows; the compiler must not see through.
    let len = core::hint::black_box(payload.min(RESPONSE_PEEK as u32)) & (RESPONSE_ROOM as u32 - 1);
    if len == 0 || !Skb(skb).copy_payload(offset, run.response.as_mut_ptr(), len) {
        return 0;
    }
    for i in 0..RESPONSE_PEEK {
        if i >= len as usize || run.scan.ended() {
            break;
        }
        run.scan.step(run.response[i]);
    }
    0
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

/// Takes a connection out of the table. Whoever takes it out counts it, so that the count is exact
/// without any atomic operation that returns a value (those are not there before kernel 5.12).
#[inline(always)]
fn remove(run: &Scratch, pod: *mut Pod, now: u64) {
    if CONNECTIONS.remove(&run.key).is_err() {
        return;
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

/// Tells the agent once, until it arms the pod again: never more than it asks for.
#[inline(always)]
fn tell(pod: *mut Pod, number: u32, kind: u32, now: u64) {
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
