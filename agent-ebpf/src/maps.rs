//! Every map: key, value, who writes, who reads, its size, and what happens when it is full.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_sock_tuple},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use lastcall_ebpf::{
    abi::{
        Address, Announcing, Connection, Dial, FlowKey, Handshake, HealthPath, HookConfig, HookWait,
        LastCallConfig, Pod, Port, PortKey, ProbeKey, StreamKey, Unread, hook_count, last_call_count,
    },
    announce::{UNREAD_PLACES, UNREAD_PODS},
    chunks::Chunks,
    flow::Packet,
    frames::Walk,
    head::{HEAD_PEEK, Head},
    http::{REQUEST_PEEK, Start},
};

/// More pods than a node has (Kubernetes' limit is 110; some raise it to 500).
const MAX_PODS: u32 = 1024;

/// A draining pod's address to its number. Agent writes, TC reads. Full: the pod is polled.
#[map]
pub(crate) static LOCALS: HashMap<Address, u32> = HashMap::with_max_entries(4 * MAX_PODS, 0);

/// A draining pod's counters. Agent inserts, TC counts. Full: the pod is polled.
#[map]
pub(crate) static PODS: HashMap<u32, Pod> = HashMap::with_max_entries(MAX_PODS, 0);

/// Ports that count. Agent writes, TC reads. Full: the pod is polled.
#[map]
pub(crate) static PORTS: HashMap<PortKey, Port> = HashMap::with_max_entries(8 * MAX_PODS, 0);

/// Paths of health checks. Agent writes, TC reads. Full: such checks count as traffic.
#[map]
pub(crate) static HEALTH_PATHS: HashMap<HealthPath, u8> =
    HashMap::with_max_entries(16 * MAX_PODS, BPF_F_NO_PREALLOC);

/// Sources that do not keep a pod unsettled. Agent writes at start, TC reads.
#[map]
pub(crate) static IGNORED_SOURCES: LpmTrie<Address, u8> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// The connection table. TC writes in place, the agent reads it in batches and removes what a dump
/// has proved gone. Its size is the agent's flag; full: counted in `Pod::refused`, and the pod polled.
#[map]
pub(crate) static CONNECTIONS: HashMap<FlowKey, Connection> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Handshakes answered, not yet completed. TC only. Full: the oldest goes, and that connection is
/// found by its first packet out of the pod instead: a flood of SYNs costs nothing else.
#[map]
pub(crate) static HANDSHAKES: LruHashMap<FlowKey, Handshake> = LruHashMap::with_max_entries(16_384, 0);

/// HTTP/2 streams that the pod has not ended, of connections that are followed. TC only; the agent removes
/// what its connections have left behind. Full: that connection is followed no longer.
#[map]
pub(crate) static STREAMS: HashMap<StreamKey, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Heads of responses that have been sent in part. TC only. Full: the oldest goes, and that response's end
/// is not known.
#[map]
pub(crate) static HEADS: LruHashMap<FlowKey, Head> = LruHashMap::with_max_entries(1024, 0);

/// "Look now" for the agent. Full: counted in `Pod::edges_lost`; the reconcile comes within a second.
#[map]
pub(crate) static EDGES: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// What one run works on: too large for the stack of 512 bytes. TC runs with bottom halves off, so
/// a processor's value has one user at a time. The second is that of [`LAST_CALL_LOOK`], which the agent runs, before
/// Linux 6.2 with bottom halves on.
///
/// [`LAST_CALL_LOOK`]: lastcall_ebpf::abi::names::LAST_CALL_LOOK
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);

/// [`SCRATCH`]'s values.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// Where the payload starts in the frame, link header and all.
    pub(crate) payload_at: u32,
    pub(crate) key: FlowKey,
    pub(crate) probe: ProbeKey,
    pub(crate) fresh: Connection,
    pub(crate) tuple: bpf_sock_tuple,
    pub(crate) start: Start,
    pub(crate) target_hash: u32,
    /// The segment is one frame of a WebSocket client.
    pub(crate) websocket: bool,
    pub(crate) unread: Unread,
    /// The place in [`LAST_CALL_UNREAD`] that the next look begins with: stays from run to run.
    pub(crate) next_look: u32,
    pub(crate) stream: StreamKey,
    pub(crate) walk: Walk,
    pub(crate) head: Head,
    pub(crate) chunks: Chunks,
    pub(crate) request: [u8; REQUEST_PEEK],
    pub(crate) bytes: [u8; HEAD_PEEK],
}

/// The kubelet's connections by tuple, and when the kubelet's end closed: 0 while it is open. `sock_ops`
/// writes, TC and the agent read. Pinned. Full: the oldest goes; a probe lasts a second.
#[map]
pub(crate) static PROBES: LruHashMap<ProbeKey, u64> = LruHashMap::pinned(16_384, 0);

/// The kubelet's sockets by cookie. The connect programs write, `sock_ops` reads. Pinned.
#[map]
pub(crate) static KUBELET_SOCKETS: LruHashMap<u64, u8> = LruHashMap::pinned(4096, 0);

/// How the hook programs behave. Agent writes, the connect programs read. Pinned, so that they go on
/// without an agent.
#[map]
pub(crate) static HOOK_CONFIG: Array<HookConfig> = Array::pinned(1, 0);

/// How long a pod's hook sleeps while nobody is home. Agent writes, the connect programs read.
/// Pinned. Full: the pod sleeps as long as an unknown one.
#[map]
pub(crate) static HOOK_WAITS: HashMap<Address, HookWait> = HashMap::pinned(4 * MAX_PODS, BPF_F_NO_PREALLOC);

/// Which pod the 24 bits of a dial mean. The connect programs write, the agent reads. Pinned: an
/// agent that takes a waiting hook over must know whose it is. Full: the oldest goes.
#[map]
pub(crate) static DIALS: LruHashMap<u32, Dial> = LruHashMap::pinned(4 * MAX_PODS, 0);

/// What the connect programs did. They write, the agent reads. Pinned, so that sleeps while it was
/// away are counted.
#[map]
pub(crate) static HOOK_COUNTS: Array<u64> = Array::pinned(hook_count::LEN, 0);

/// Sockets whose next response carries the announcement. TC ingress puts them in, TC egress and the agent
/// take them out. Never pinned: with the agent's death they are what they were. Full: counted, not announced.
#[map]
pub(crate) static LAST_CALL_SOCKETS: SockHash<FlowKey> = SockHash::with_max_entries(16_384, 0);

/// How far the announcement on a socket has come. TC ingress makes it, the `sk_msg` program and TC egress
/// go on with it; it goes with the socket. No memory: counted, not announced.
#[btf_map]
pub(crate) static LAST_CALL_STATES: SkStorage<Announcing> = SkStorage::new();

/// Large requests that have come in, and may not have been read. The last call's programs alone, but that the agent
/// asks whether there are any. Two connections of one place: the later one takes it, and the other is not told this
/// time.
#[map]
pub(crate) static LAST_CALL_UNREAD: HashMap<u32, Unread> =
    HashMap::with_max_entries(UNREAD_PODS * UNREAD_PLACES, 0);

/// By pod, which of its places in [`LAST_CALL_UNREAD`] are taken, or were a moment ago. A byte each, which two
/// processors may write at once.
#[map]
pub(crate) static LAST_CALL_PLACES: Array<[u8; UNREAD_PLACES as usize]> =
    Array::with_max_entries(UNREAD_PODS, 0);

/// Where the kernel keeps what the last call has to know. Agent writes once, the last call's programs read.
#[map]
pub(crate) static LAST_CALL_CONFIG: Array<LastCallConfig> = Array::with_max_entries(1, 0);

/// Until when the last call's programs may act. Agent renews it, they read it.
#[map]
pub(crate) static LAST_CALL_LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// What the last call's programs did, and what they refused. They write, the agent reads.
#[map]
pub(crate) static LAST_CALL_COUNTS: Array<u64> = Array::with_max_entries(last_call_count::LEN, 0);

/// The agent's own socket by its cookie, and the cookie of the network namespace that it connects in. The agent
/// writes 0, `tell_netns` the answer.
#[map]
pub(crate) static NETNS_ASKED: HashMap<u64, u64> = HashMap::with_max_entries(1, 0);
