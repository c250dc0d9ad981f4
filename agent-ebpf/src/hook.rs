//! `cgroup/connect`: the kubelet's call finds the agent, or, with nobody home, becomes a sleep.
//!
//! In: a `connect()` of the kubelet to `podIP:9902`, or, for hostNetwork pods, to `127.0.0.1:9902`. Out: the
//! same call to `240.x.y.z` on `lo` with a user timeout, where the agent answers, or, without one, nothing does
//! until the timeout, or until an agent has come back. The 24 bits name the pod ([`DIALS`]), so that nothing a
//! tenant writes into the request can.
//!
//! `240.x.y.z` is nobody's address. At one of the node's own the kernel answers with a reset whatever
//! comes for a socket that is not there: the SYN of a call that finds the agent's port just closed, and
//! the keep-alive of a held hook between one agent's end and the next one's start. Here it says nothing,
//! and the kubelet asks again. Where firewall rules keep these addresses off `lo`, calls that find the agent
//! go to `127.x.y.z` instead ([`HookConfig::to_loopback`]). Where nobody comes back, a held hook is a sleep too: it
//! is let go [`LET_GO`] after the kubelet heard of an agent last.
//!
//! Every other call, of anybody, passes untouched.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_sock_addr, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1},
    helpers::generated as helpers,
    programs::{SockAddrContext, SockOpsContext},
};
use lastcall_ebpf::{
    abi::{Address, Dial, HookConfig, ProbeKey, hook_count},
    flow::mapped,
};

use crate::count::add;
use crate::maps::{DIALS, HOOK_CONFIG, HOOK_COUNTS, HOOK_WAITS, KUBELET_SOCKETS, NETNS_ASKED, PROBES};

/// The call goes on.
const PASS: i32 = 1;
const SOCK_STREAM: u32 = 1;
const AF_INET: u32 = 2;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const IPPROTO_TCP: i32 = 6;
const TCP_KEEPINTVL: i32 = 5;
const TCP_USER_TIMEOUT: i32 = 18;
const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
/// `BPF_SOCK_OPS_TCP_CONNECT_CB`: the port is chosen, the SYN has not left.
const TCP_CONNECT_CB: u32 = 3;
/// `BPF_SOCK_OPS_STATE_CB`: the state is about to change, to the second argument.
const STATE_CB: u32 = 10;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`: call for that.
const STATE_CB_FLAG: i32 = 1 << 2;
/// `BPF_SOCK_OPS_RTT_CB`: data was acknowledged.
const RTT_CB: u32 = 12;
/// `BPF_SOCK_OPS_RTT_CB_FLAG`: call for that.
const RTT_CB_FLAG: i32 = 1 << 3;
/// `BPF_TCP_CLOSE`: nothing of the socket is left, but perhaps TIME-WAIT.
const CLOSE: u32 = 7;
/// The node's own addresses, 127.x.y.z, of which 127.0.0.1 says whether the agent is home.
const LOOPBACK: u32 = 127 << 24;
/// Nobody's addresses: 240.x.y.z (RFC 1112 section 4, reserved). Never routed.
const NOBODY: u32 = 240 << 24;
/// The 24 bits of 127.0.0.1, where people call and the path names the pod: no pod's.
const DIRECT: u32 = 1;
/// After this long without a word of an agent the kubelet's call has failed, milliseconds. It asks for one
/// after 15 s (Go's keep-alive), and then each [`ASK_AGAIN`]: an agent may be away for 5 s at any moment.
const LET_GO: u32 = 20_000;
/// Seconds.
const ASK_AGAIN: u32 = 1;
/// How many names are tried for a pod whose 24 bits are another's.
const NAMES: u32 = 8;

#[inline(always)]
fn count(index: u32) {
    if let Some(n) = HOOK_COUNTS.get_ptr_mut(index) {
        // SAFETY: a map value that was just looked up.
        unsafe { add(n, 1) };
    }
}

/// `connect()` of an IPv4 socket.
#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: a context field.
    let dialled = unsafe { (*ctx.sock_addr).user_ip4 };
    let bytes = dialled.to_ne_bytes();
    let loopback = bytes[0] == 127 || dialled == 0;
    let Some(config) = ours(ctx, loopback) else { return PASS };
    let meant = if bytes == [127, 0, 0, 1] {
        // A hostNetwork pod's hook, whose path names the pod.
        Some(Meant { bits: DIRECT, wait_ms: config.direct_wait_ms })
    } else if loopback {
        None
    } else {
        meant(config, mapped(bytes))
    };
    if let Some(to) = meant.and_then(|meant| redirect(ctx, config, meant)) {
        let to = core::hint::black_box(to.to_be());
        // SAFETY: a context field that this program type may write, whole.
        unsafe { write_volatile(&raw mut (*ctx.sock_addr).user_ip4, to) };
    }
    PASS
}

/// `connect()` of an IPv6 socket, which may carry an IPv4 address.
#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    let a = ctx.sock_addr;
    // SAFETY: the address that is dialled.
    let pod = unsafe { words(&raw const (*a).user_ip6) };
    let v4 = word(&pod, 0) == 0 && word(&pod, 4) == 0 && word(&pod, 8) == 0xffff;
    let local = word(&pod, 0) == 0 && word(&pod, 4) == 0 && word(&pod, 8) == 0 && word(&pod, 12) <= 1;
    let loopback = local || v4 && pod[12] == 127;
    let Some(config) = ours(ctx, loopback) else { return PASS };
    if loopback {
        return PASS;
    }
    if let Some(to) = meant(config, pod).and_then(|meant| redirect(ctx, config, meant)) {
        let to = core::hint::black_box(to.to_be());
        // SAFETY: context fields that this program type may write, whole.
        unsafe {
            write_volatile(&raw mut (*a).user_ip6[0], 0);
            write_volatile(&raw mut (*a).user_ip6[1], 0);
            write_volatile(&raw mut (*a).user_ip6[2], 0xffffu32.to_be());
            write_volatile(&raw mut (*a).user_ip6[3], to);
        }
    }
    PASS
}

#[inline(always)]
fn word(a: &Address, at: usize) -> u32 {
    u32::from_be_bytes([a[at], a[at + 1], a[at + 2], a[at + 3]])
}

/// Is this a call of the kubelet to the hook's port? Notes the kubelet's other calls for [`probe`].
///
/// Anybody may call on loopback, where the agent answers `lastcall status`.
#[inline(always)]
fn ours(ctx: &SockAddrContext, to_loopback: bool) -> Option<&'static HookConfig> {
    let config = HOOK_CONFIG.get(0)?;
    let a = ctx.sock_addr;
    // SAFETY: context fields.
    let (kind, port) = unsafe { ((*a).type_, (*a).user_port) };
    if config.port == 0 || kind != SOCK_STREAM || !in_namespace(ctx, config) {
        return None;
    }
    let hook = u16::from_be(port as u16) == config.port;
    if !is_kubelet(config) {
        if hook && !to_loopback {
            count(hook_count::NOT_THE_KUBELET);
        }
        return None;
    }
    // SAFETY: the context of this program.
    let cookie = unsafe { helpers::bpf_get_socket_cookie(a.cast()) };
    let _ = KUBELET_SOCKETS.insert(&cookie, &1, 0);
    hook.then_some(config)
}

#[inline(always)]
fn in_namespace(ctx: &SockAddrContext, config: &HookConfig) -> bool {
    // SAFETY: the context of this program.
    unsafe { helpers::bpf_get_netns_cookie(ctx.sock_addr.cast()) == config.netns_cookie }
}

/// Says in which network namespace the agent's own socket connects, where the kernel has no `SO_NETNS_COOKIE`
/// (before 5.14). Attached for that one call; sockets that nobody asked about pass unread.
#[inline(always)]
pub(crate) fn tell_netns(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context of this program, for both; a map value that was just looked up.
    unsafe {
        let socket = helpers::bpf_get_socket_cookie(ctx.sock_addr.cast());
        if let Some(netns) = NETNS_ASKED.get_ptr_mut(&socket) {
            write_volatile(netns, helpers::bpf_get_netns_cookie(ctx.sock_addr.cast()));
        }
    }
    PASS
}

#[inline(always)]
fn is_kubelet(config: &HookConfig) -> bool {
    // SAFETY: no preconditions.
    if config.cgroup != 0 && unsafe { helpers::bpf_get_current_cgroup_id() } != config.cgroup {
        return false;
    }
    if config.comm[0] == 0 {
        return config.cgroup != 0;
    }
    let mut comm = [0u8; 16];
    // SAFETY: sixteen bytes on the stack.
    if unsafe { helpers::bpf_get_current_comm(comm.as_mut_ptr().cast(), 16) } != 0 {
        return false;
    }
    u128::from_ne_bytes(comm) == u128::from_ne_bytes(config.comm)
}

/// Whose hook a call is.
struct Meant {
    /// They name the pod.
    bits: u32,
    /// How long it sleeps while nobody is home.
    wait_ms: u32,
}

/// The hook of the pod at this address; `None`: the pod listens on the port itself.
#[inline(always)]
fn meant(config: &HookConfig, pod: Address) -> Option<Meant> {
    let mut wait_ms = config.unknown_wait_ms;
    // SAFETY: eight bytes, written whole by the agent.
    if let Some(wait) = unsafe { HOOK_WAITS.get(&pod) } {
        if wait.pass_through != 0 {
            count(hook_count::PASSED_THROUGH);
            return None;
        }
        wait_ms = wait.wait_ms;
    }
    Some(Meant { bits: name(&pod), wait_ms })
}

/// Where the call is to go instead; `None`: where it was going.
#[inline(always)]
fn redirect(ctx: &SockAddrContext, config: &HookConfig, meant: Meant) -> Option<u32> {
    let Meant { bits, mut wait_ms } = meant;
    if somebody_home(ctx, config) {
        count(hook_count::HOME);
        if config.to_loopback != 0 {
            return if bits == DIRECT { None } else { Some(LOOPBACK | bits) };
        }
    } else {
        count(hook_count::NOBODY_HOME);
    }
    let a: *mut bpf_sock_addr = ctx.sock_addr;
    let mut lo = *b"lo\0\0";
    // SAFETY: both values live on the stack, their sizes are given.
    unsafe {
        helpers::bpf_setsockopt(a.cast(), IPPROTO_TCP, TCP_USER_TIMEOUT, (&raw mut wait_ms).cast(), 4);
        helpers::bpf_setsockopt(a.cast(), SOL_SOCKET, SO_BINDTODEVICE, (&raw mut lo).cast(), 3);
    }
    Some(NOBODY | bits)
}

/// 24 bits that name the pod: its address's last, or, where another pod has those, the next free.
#[inline(always)]
fn name(pod: &Address) -> u32 {
    let own = u32::from_be_bytes([0, pod[13], pod[14], pod[15]]);
    for i in 0..NAMES {
        let bits = (own + i) & 0x00ff_ffff;
        // 0.0.0 is no host address.
        if bits <= DIRECT {
            continue;
        }
        // SAFETY: sixteen bytes, written once.
        match unsafe { DIALS.get(&bits) } {
            Some(dial) if same(&dial.pod, pod) => return bits,
            Some(_) => {}
            None if DIALS.insert(&bits, &Dial { pod: *pod }, u64::from(BPF_NOEXIST)).is_ok() => return bits,
            None => {}
        }
    }
    count(hook_count::NO_NAME);
    0x00ff_ffff
}

#[inline(always)]
fn same(a: &Address, b: &Address) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// Does the agent listen? A listener without its mark is a squatter's, and gains nothing.
#[inline(always)]
fn somebody_home(ctx: &SockAddrContext, config: &HookConfig) -> bool {
    // SAFETY: all zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: 0,
        daddr: (LOOPBACK | 1).to_be(),
        sport: 0,
        dport: config.port.to_be(),
    };
    // SAFETY: `tuple` lives on the stack, 12 bytes of it are IPv4's; the socket is released.
    unsafe {
        let sk = helpers::bpf_sk_lookup_tcp(ctx.sock_addr.cast(), &raw mut tuple, 12, CURRENT_NETNS, 0);
        if sk.is_null() {
            return false;
        }
        let home = (*sk).state == LISTEN && (*sk).mark == config.mark;
        helpers::bpf_sk_release(sk.cast());
        home
    }
}

/// `sock_ops`: a socket of the kubelet is about to send its SYN. Its probes last a millisecond, so
/// nobody can ask afterwards whose they were. When it has closed, its port may be anybody's: SNAT gives
/// clients the same address. And a hook's request has arrived.
#[inline(always)]
pub(crate) fn probe(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => {
            // SAFETY: the context of this program.
            let cookie = unsafe { helpers::bpf_get_socket_cookie(ctx.ops.cast()) };
            if KUBELET_SOCKETS.get_ptr(&cookie).is_some() {
                let _ = PROBES.insert(&probe_key(ctx), &0, 0);
                let calls = if is_led(ctx) { STATE_CB_FLAG | RTT_CB_FLAG } else { STATE_CB_FLAG };
                // Others may have asked for other calls.
                let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | calls);
            }
        }
        // Others may have asked for it on other sockets.
        RTT_CB if is_led(ctx) => keep_asking(ctx),
        STATE_CB if ctx.arg(1) == CLOSE => {
            if let Some(closed_at) = PROBES.get_ptr_mut(&probe_key(ctx)) {
                // SAFETY: eight bytes that were just looked up; the helper has no preconditions.
                unsafe { write_volatile(closed_at, helpers::bpf_ktime_get_ns()) };
            }
        }
        _ => {}
    }
    // Anything else would have the kernel refuse what other programs on the cgroup answer.
    1
}

/// Is it a hook's call, to nobody's address?
#[inline(always)]
fn is_led(ctx: &SockOpsContext) -> bool {
    let Some(config) = HOOK_CONFIG.get(0) else { return false };
    // SAFETY: a context field; of an IPv6 socket with an IPv4 peer it is that.
    let peer = unsafe { read_volatile(&raw const (*ctx.ops).remote_ip4) };
    peer.to_ne_bytes()[0] == (NOBODY >> 24) as u8 && u32::from_be(ctx.remote_port()) as u16 == config.port
}

/// The agent has acknowledged the request: by now the kubelet has set its own keep-alives, 15 s apart. Two of them
/// without an answer would be the end of a grace of 30 s.
#[inline(always)]
fn keep_asking(ctx: &SockOpsContext) {
    let (mut again, mut let_go) = (ASK_AGAIN, LET_GO);
    // SAFETY: both values live on the stack, their sizes are given.
    unsafe {
        helpers::bpf_setsockopt(ctx.ops.cast(), IPPROTO_TCP, TCP_KEEPINTVL, (&raw mut again).cast(), 4);
        helpers::bpf_setsockopt(ctx.ops.cast(), IPPROTO_TCP, TCP_USER_TIMEOUT, (&raw mut let_go).cast(), 4);
    }
}

/// What TC at the pod will call this connection.
#[inline(always)]
fn probe_key(ctx: &SockOpsContext) -> ProbeKey {
    let o = ctx.ops;
    // SAFETY: context fields. Both families' are read whatever the family: a choice between two
    // pointers into the context is refused by the verifier, a choice between two values is not.
    let (local4, peer4, local6, peer6) = unsafe {
        (
            read_volatile(&raw const (*o).remote_ip4),
            read_volatile(&raw const (*o).local_ip4),
            words(&raw const (*o).remote_ip6),
            words(&raw const (*o).local_ip6),
        )
    };
    let (local, peer) = if ctx.family() == AF_INET {
        (mapped(local4.to_ne_bytes()), mapped(peer4.to_ne_bytes()))
    } else {
        (local6, peer6)
    };
    ProbeKey {
        local,
        peer,
        local_port: u32::from_be(ctx.remote_port()) as u16,
        peer_port: ctx.local_port() as u16,
    }
}

/// An IPv6 address of a context, read word by word as the verifier wants it.
///
/// # Safety
///
/// `p` points to such a field of the program's context.
#[inline(always)]
unsafe fn words(p: *const [u32; 4]) -> Address {
    // SAFETY: the caller's promise.
    let words = unsafe {
        [
            read_volatile(&raw const (*p)[0]),
            read_volatile(&raw const (*p)[1]),
            read_volatile(&raw const (*p)[2]),
            read_volatile(&raw const (*p)[3]),
        ]
    };
    let mut a = [0; 16];
    let mut i = 0;
    while i < 4 {
        let b = words[i].to_ne_bytes();
        a[i * 4] = b[0];
        a[i * 4 + 1] = b[1];
        a[i * 4 + 2] = b[2];
        a[i * 4 + 3] = b[3];
        i += 1;
    }
    a
}
