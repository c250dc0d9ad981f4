//! Wire types: what the kernel programs write and the agent reads, and the other way round.
//!
//! Every type is `repr(C)`, padded by hand and of an asserted size, so that both sides, built by
//! different compilers for different targets, agree. Integers are in host byte order unless a name
//! says otherwise. Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).

/// Changes with every change of a type in this file. Pinned maps live in a folder of this name, so
/// an agent never reads another version's bytes.
pub const ABI_VERSION: u32 = 8;

/// Names of the maps and programs in the kernel object, once for both sides.
pub mod names {
    /// Hash: a pod's address to the pod's number.
    pub const LOCALS: &str = "LOCALS";
    /// Hash: a pod's number to its counters.
    pub const PODS: &str = "PODS";
    /// Hash: a port of a pod that counts.
    pub const PORTS: &str = "PORTS";
    /// Hash: hash of a request target that only health checks ask for.
    pub const HEALTH_PATHS: &str = "HEALTH_PATHS";
    /// Longest-prefix trie: sources whose new connections do not keep a pod unsettled.
    pub const IGNORED_SOURCES: &str = "IGNORED_SOURCES";
    /// Hash: the connection table.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// Hash: HTTP/2 streams that the pod has not ended.
    pub const STREAMS: &str = "STREAMS";
    /// LRU: handshakes that the pod has answered with a SYN+ACK.
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// LRU: the kubelet's own connections, by tuple, and when they closed.
    pub const PROBES: &str = "PROBES";
    /// Ring buffer of [`super::Edge`]s.
    pub const EDGES: &str = "EDGES";
    /// Array of one, pinned: how the hook programs behave.
    pub const HOOK_CONFIG: &str = "HOOK_CONFIG";
    /// Hash, pinned: a pod's address to how long its hook sleeps while nobody is home.
    pub const HOOK_WAITS: &str = "HOOK_WAITS";
    /// LRU, pinned: the 24 bits of a dial to the pod that was dialled.
    pub const DIALS: &str = "DIALS";
    /// LRU, pinned: sockets of the kubelet, by cookie, for [`PROBES`].
    pub const KUBELET_SOCKETS: &str = "KUBELET_SOCKETS";
    /// Array, pinned: counters of the hook programs.
    pub const HOOK_COUNTS: &str = "HOOK_COUNTS";
    /// Hash of one: the agent's own socket, by cookie, to the cookie of its network namespace.
    pub const NETNS_ASKED: &str = "NETNS_ASKED";

    /// Socket hash: sockets that are about to answer, and whose clients will be told to leave.
    pub const LAST_CALL_SOCKETS: &str = "LAST_CALL_SOCKETS";
    /// Socket storage: how far the announcement on a socket has come.
    pub const LAST_CALL_STATES: &str = "LAST_CALL_STATES";
    /// Hash: [`super::Unread`] requests, by a number that their connections share with few others.
    pub const LAST_CALL_UNREAD: &str = "LAST_CALL_UNREAD";
    /// Array of one: [`super::LastCallConfig`].
    pub const LAST_CALL_CONFIG: &str = "LAST_CALL_CONFIG";
    /// Array of one: until when the last call's programs may act, nanoseconds of `CLOCK_MONOTONIC`.
    pub const LAST_CALL_LEASE: &str = "LAST_CALL_LEASE";
    /// Array: counters of the last call.
    pub const LAST_CALL_COUNTS: &str = "LAST_CALL_COUNTS";

    /// TC ingress of a draining pod's link, behind [`OBSERVE_INGRESS`]: puts sockets into
    /// [`LAST_CALL_SOCKETS`].
    pub const LAST_CALL_INGRESS: &str = "last_call_ingress";
    /// TC egress, behind [`OBSERVE_EGRESS`]: takes them out again.
    pub const LAST_CALL_EGRESS: &str = "last_call_egress";
    /// Run by the agent, inside the pod's network namespace: looks at [`LAST_CALL_UNREAD`] as a packet does.
    /// Behind an Ethernet header: the pod's number.
    pub const LAST_CALL_LOOK: &str = "last_call_look";
    /// `sk_msg` on [`LAST_CALL_SOCKETS`]: puts the announcement into what the pod sends.
    pub const ANNOUNCE: &str = "announce";
    /// TC ingress of a pod's link.
    pub const OBSERVE_INGRESS: &str = "observe_ingress";
    /// TC egress of a pod's link.
    pub const OBSERVE_EGRESS: &str = "observe_egress";
    /// Does what the agent cannot do to a map that the kernel counts in: a [`super::Command`], run with
    /// `BPF_PROG_TEST_RUN`.
    pub const COMMAND: &str = "command";
    /// `cgroup/connect4`.
    pub const HOOK4: &str = "hook4";
    /// `cgroup/connect6`.
    pub const HOOK6: &str = "hook6";
    /// `sock_ops` on the kubelet's cgroup.
    pub const PROBE: &str = "probe";
    /// `cgroup/connect4`, for one call of the agent's own.
    pub const TELL_NETNS: &str = "tell_netns";
}

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, in network byte order.
pub type Address = [u8; 16];

/// The wire's name for a connection or flow, as seen on a link of the pod.
///
/// Where the pod redirects, the socket has another local port; [`Connection::cookie`] tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The pod's number, as in [`names::LOCALS`].
    pub pod: u32,
    /// The pod's port on the wire.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// The pod's address.
    pub local: Address,
    /// The peer's address.
    pub peer: Address,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// What the packets of one connection have shown, updated in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The socket's cookie, as sock_diag names it; 0 until a packet of the socket left the pod.
    pub cookie: u64,
    /// When the entry was made.
    pub first_seen: u64,
    /// Last inbound payload, 0 for none.
    pub last_in: u64,
    /// Last outbound payload, 0 for none.
    pub last_out: u64,
    /// Last packet of any kind.
    pub last_packet: u64,
    /// Inbound payload, bytes.
    pub bytes_in: u64,
    /// Outbound payload, bytes.
    pub bytes_out: u64,
    /// Sequence number behind the last inbound payload.
    pub in_end: u32,
    /// Sequence number behind the last outbound payload (a FIN not counted).
    pub out_end: u32,
    /// Highest acknowledgement of the peer.
    pub out_acked: u32,
    /// Sequence number behind the response in progress, where [`flag::RESPONSE_LENGTH`] is set; of its next
    /// chunk header, where [`flag::RESPONSE_CHUNKED`] is.
    pub response_end: u32,
    /// Sequence number behind the peer's FIN, where [`flag::FIN_IN`] is set.
    pub fin_in: u32,
    /// Sequence number behind the pod's FIN, where [`flag::FIN_OUT`] is set.
    pub fin_out: u32,
    /// Complete exchanges: a turn from inbound payload to outbound payload.
    pub exchanges: u32,
    /// HTTP/2 streams opened by the peer and not ended, where [`flag::H2_FOLLOWED`] is set. Every
    /// processor adds to it by itself, so it may be one too many for an instant, never one too few.
    pub streams: u32,
    /// [`flag`]s.
    pub flags: u32,
    /// Highest acknowledgement of the pod, where [`flag::IN_ACKED`] is set.
    pub in_acked: u32,
    /// Sequence number behind the last request, where [`flag::REQUEST_LENGTH`] is set.
    pub request_end: u32,
    /// The socket's own local port, 0 until known.
    pub socket_port: u16,
    /// A [`protocol`].
    pub protocol: u8,
    /// Counts the times that [`Connection::streams`] began anew: streams of before are other streams.
    pub h2_epoch: u8,
    /// HTTP/2: where the peer's frames are.
    pub h2_in: H2Position,
    /// HTTP/2: where the pod's frames are.
    pub h2_out: H2Position,
    /// HTTP/2: frames of the peer that have overtaken others.
    pub h2_ahead: H2Ahead,
    /// How far that chunk header was read, see [`crate::chunks`].
    pub chunk: u32,
    /// HTTP/2: when the peer's frames, or the pod's, were last out of sight after they had been followed: a
    /// stream may have been opened, and may be open. 0 for never.
    pub h2_unseen: u64,
    /// When its client was told to leave: the announcement was sent. 0 for never.
    pub told_at: u64,
}

/// How far one direction of an HTTP/2 connection has been followed. Each direction writes its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Position {
    /// Sequence number of the next byte of a frame header.
    pub next: u32,
    /// Highest id of a stream that the peer has opened; only inbound.
    pub highest: u32,
    /// The first bytes of a header that goes on in the next segment.
    pub head: [u8; 8],
    /// How many of them.
    pub have: u8,
    /// A [`follow`].
    pub state: u8,
    /// 1: the last frame header was one of HEADERS that go on in CONTINUATION; only outbound.
    pub within_headers: u8,
    /// Zero.
    pub pad: u8,
}

/// Whole frames behind a gap in [`Connection::h2_in`], until what they have overtaken comes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Ahead {
    /// Sequence number of their first byte.
    pub start: u32,
    /// Sequence number behind their last; the same as `start`: there are none.
    pub end: u32,
    /// [`H2Position::highest`] before the gap.
    pub highest: u32,
}

/// Values of [`H2Position::state`].
pub mod follow {
    /// Not followed, or not any more: `next` and `head` mean nothing.
    pub const NO: u8 = 0;
    /// One segment of whole frames was seen; `next` is behind it.
    pub const CANDIDATE: u8 = 1;
    /// Followed from somewhere: there may be streams that were opened before.
    pub const PARTLY: u8 = 2;
    /// Followed from the first byte: every stream is known.
    pub const WHOLLY: u8 = 3;
}

/// A stream that the pod has not ended, see [`names::STREAMS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// [`Connection::first_seen`] of its connection.
    pub first_seen: u64,
    /// The pod's number.
    pub pod: u32,
    /// Its id (RFC 9113 section 5.1.1).
    pub stream: u32,
    /// The peer's port.
    pub peer_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// [`Connection::h2_epoch`].
    pub epoch: u32,
}

/// By its [`flag`]s: older than the attach, and nothing but an acknowledgement has passed since. What it was at
/// then only its socket tells.
#[inline(always)]
pub const fn is_silent(flags: u32) -> bool {
    flags & (flag::NEW | flag::IN | flag::OUT) == 0
}

/// Bits of [`Connection::flags`].
pub mod flag {
    /// The handshake was seen: the connection is newer than the attach.
    pub const NEW: u32 = 1 << 0;
    /// Inbound payload was seen; `in_end` is valid.
    pub const IN: u32 = 1 << 1;
    /// Outbound payload was seen; `out_end` is valid.
    pub const OUT: u32 = 1 << 2;
    /// `out_acked` is valid.
    pub const ACKED: u32 = 1 << 3;
    /// The last payload was inbound: a request waits for its answer.
    pub const WAITING: u32 = 1 << 4;
    /// The peer's FIN was seen.
    pub const FIN_IN: u32 = 1 << 5;
    /// The pod's FIN was seen.
    pub const FIN_OUT: u32 = 1 << 6;
    /// The peer's FIN was acknowledged by the pod.
    pub const FIN_IN_ACKED: u32 = 1 << 7;
    /// A reset came in, and nothing has left since. Anybody can forge one: a reason to look, not a
    /// removal.
    pub const RESET_IN: u32 = 1 << 8;
    /// The request in progress is a HEAD: its response has no body.
    pub const HEAD: u32 = 1 << 9;
    /// The response in progress has a known end, `response_end`.
    pub const RESPONSE_LENGTH: u32 = 1 << 10;
    /// The response in progress is chunked and its last chunk has not been seen.
    pub const RESPONSE_CHUNKED: u32 = 1 << 11;
    /// The response in progress ends with the connection.
    pub const RESPONSE_UNTIL_CLOSE: u32 = 1 << 12;
    /// An HTTP message boundary was seen: `protocol` is what the packets say, not the port.
    pub const BOUNDARY: u32 = 1 << 13;
    /// The connection became something else (status 101, or 2xx to CONNECT): every open one counts.
    pub const UPGRADED: u32 = 1 << 14;
    /// The pod's HTTP/2 frames are followed, which end streams: `streams` is valid. Where the peer's
    /// are not followed from the first byte as well ([`super::H2Position::state`],
    /// [`super::Connection::h2_unseen`]), there may be more of them than it says; while they are not
    /// followed at all, [`WAITING`] says what the bytes say.
    pub const H2_FOLLOWED: u32 = 1 << 15;
    /// Everything asked for so far was for a health check.
    pub const HEALTH_ONLY: u32 = 1 << 16;
    /// Counted in [`super::Pod::new_connections`].
    pub const COUNTED: u32 = 1 << 17;
    /// Payload was seen that is in the middle of a message: no boundary known yet.
    pub const MIDWAY: u32 = 1 << 18;
    /// `in_acked` is valid.
    pub const IN_ACKED: u32 = 1 << 19;
    /// The last request has a known end, `request_end`.
    pub const REQUEST_LENGTH: u32 = 1 << 20;
    /// The last request is chunked and its last chunk has not been seen.
    pub const REQUEST_CHUNKED: u32 = 1 << 21;
    /// A request came before the answer to the one before it. How many wait is not known, so
    /// [`WAITING`] stays.
    pub const PIPELINED: u32 = 1 << 22;
    /// What came in last began as an HTTP request does, on a port of which nothing is known.
    pub const ASKED: u32 = 1 << 23;
    /// The request in progress is a CONNECT: what follows its 2xx response is anything.
    pub const CONNECT: u32 = 1 << 24;
    /// The response in progress has sent a part of its head.
    pub const RESPONSE_HEAD: u32 = 1 << 25;
    /// A request came before the end of the answer to the one before it, or what was sent did not end where
    /// it was taken to: where answers begin is not certain, for as long as the connection is open.
    pub const UNCERTAIN: u32 = 1 << 26;
    /// The request in progress is larger than [`crate::announce::SMALL_REQUEST`], or may be.
    pub const LARGE_REQUEST: u32 = 1 << 27;
}

/// What a connection speaks, as far as the drain decision cares.
pub mod protocol {
    /// Nothing known: every open connection counts, its silence is not idleness.
    pub const UNKNOWN: u8 = 0;
    /// Request and response, one at a time (HTTP/1.0, HTTP/1.1).
    pub const HTTP1: u8 = 1;
    /// HTTP/2 with prior knowledge, gRPC.
    pub const HTTP2: u8 = 2;
    /// HTTP by the port's name, the version not seen yet.
    pub const HTTP: u8 = 3;
}

/// A pod's counters. Written by the kernel alone, see [`Command`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// TCP entries in the table.
    pub open: u64,
    /// UDP entries in the table.
    pub flows: u64,
    /// Packets seen on ingress, of any kind.
    pub packets_in: u64,
    /// Packets seen on egress, of any kind.
    pub packets_out: u64,
    /// Last payload in either direction.
    pub last_payload: u64,
    /// Last new connection that carried a request other than a health check's.
    pub last_new: u64,
    /// How many of those.
    pub new_connections: u64,
    /// New connections that only checked health.
    pub health_connections: u64,
    /// Last inbound datagram of a port that counts.
    pub last_datagram: u64,
    /// Connections that found no place in the table: the view is incomplete.
    pub refused: u64,
    /// Connections that the pod ended, by FIN or RST, with a request or a response unfinished.
    pub cut: u64,
    /// Connections that the pod ended, by FIN or RST, of which no packet had been seen before: they are older
    /// than the attach and have been silent since.
    pub silent_ends: u64,
    /// Edge events that found no place in the ring.
    pub edges_lost: u64,
    /// Clients that were told to leave, by [`told`].
    pub told: [u64; told::LEN],
    /// Connections that ended after that, by [`told`].
    pub left: [u64; told::LEN],
    /// How long they took from the announcement to their end, added up, nanoseconds, by [`told`].
    pub left_ns: [u64; told::LEN],
    /// When its drain began. Written once, by the agent.
    pub began: u64,
    /// Its clients are told to leave one after another, in so many nanoseconds from then on. Written once, by
    /// the agent.
    pub told_within: u64,
    /// 1: the next removal sends an [`Edge`] and disarms. Set by [`command::ARM`].
    pub armed: u32,
    /// Zero.
    pub pad: u32,
}

/// Indices of what a [`Pod`] counts of the last call.
pub mod told {
    /// `Connection: close`.
    pub const HTTP1: usize = 0;
    /// GOAWAY.
    pub const HTTP2: usize = 1;
    /// How many there are.
    pub const LEN: usize = 2;
}

/// What the agent asks of the program [`names::COMMAND`], behind an Ethernet header.
///
/// The agent cannot do these by itself: a count has to follow in the same step, or counts that the
/// kernel is adding to meanwhile stand in the same value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Which entry; for [`command::ARM`] only its pod.
    pub key: FlowKey,
    /// A [`command`].
    pub kind: u32,
    /// The entry's `last_packet`, as the agent read it: an entry that has moved since stays.
    pub last_packet: u64,
}

/// Kinds of [`Command`].
pub mod command {
    /// Take an entry out of the table that a dump has proved gone. Returns 1 where it did.
    pub const REMOVE: u32 = 0;
    /// Send one [`super::Edge`] at the pod's next removal.
    pub const ARM: u32 = 1;
}

/// A port of a pod that counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The pod's number.
    pub pod: u32,
    /// The wire port.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// What is known of a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// A [`protocol`].
    pub protocol: u8,
    /// 1: new connections to it keep the pod unsettled.
    pub settles: u8,
    /// 1: its clients are told to leave.
    pub announce: u8,
    /// Zero.
    pub pad: u8,
}

/// A handshake answered by the pod, until the peer's ACK proves that it is not forged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The pod's initial sequence number.
    pub isn: u32,
    /// What the SYN+ACK acknowledges: behind the peer's SYN, and behind data that came with it.
    pub acknowledged: u32,
    /// 1: data came with the SYN (TCP Fast Open), and the pod has taken it. A SYN+ACK has yet to come
    /// where this is [`Handshake::SYN`]; `isn` is the peer's then.
    pub asked: u32,
    /// Zero.
    pub pad: u32,
}

impl Handshake {
    /// See [`Handshake::asked`].
    pub const SYN: u32 = 2;
}

/// A connection of the kubelet, as TC will see it come in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// The pod's address.
    pub local: Address,
    /// The kubelet's address.
    pub peer: Address,
    /// The pod's port.
    pub local_port: u16,
    /// The kubelet's port.
    pub peer_port: u16,
}

/// "Look now": the one thing the kernel tells without being asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// When.
    pub at: u64,
    /// The pod's number.
    pub pod: u32,
    /// An [`edge`].
    pub kind: u32,
}

/// Kinds of [`Edge`].
pub mod edge {
    /// The pod's last open connection was removed.
    pub const NOTHING_OPEN: u32 = 1;
    /// A connection was removed while the pod was armed.
    pub const REMOVED: u32 = 2;
    /// A reset or a FIN says that a connection has ended: look whether its socket is gone. Only while
    /// armed.
    pub const LOOK: u32 = 3;
}

/// A path of a pod that only health checks ask for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HealthPath {
    /// The pod's number.
    pub pod: u32,
    /// [`path_hash`] of the path.
    pub hash: u32,
}

/// How the hook programs behave. Written by the agent, read at every call; all zero: inert.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookConfig {
    /// Cookie of the node's network namespace: other namespaces' calls pass untouched.
    pub netns_cookie: u64,
    /// The kubelet's cgroup (v2) id, or 0 for any.
    pub cgroup: u64,
    /// The kubelet's process name, NUL-padded, or empty for any.
    pub comm: [u8; 16],
    /// The hook's port. 0: inert.
    pub port: u16,
    /// 1: `240.0.0.0/4` does not get through on this node's `lo`; a call that finds the agent home goes to
    /// `127.x.y.z`.
    pub to_loopback: u16,
    /// `SO_MARK` of the agent's listener: a listener without it is a squatter, not the agent.
    pub mark: u32,
    /// How long the hook of an unknown pod sleeps while nobody is home, milliseconds.
    pub unknown_wait_ms: u32,
    /// The same of a hostNetwork pod, whose address is the node's.
    pub direct_wait_ms: u32,
}

/// What is known of a pod's hook while nobody is home.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookWait {
    /// How long the hook sleeps, milliseconds.
    pub wait_ms: u32,
    /// 1: the pod itself listens on the hook's port; its hook is not ours.
    pub pass_through: u32,
}

/// Which pod a dial to `240.x.y.z` or `127.x.y.z` was meant for; the key is `xyz`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// The address that the kubelet dialled.
    pub pod: Address,
}

/// Indices of [`names::HOOK_COUNTS`], an array of `u64`.
pub mod hook_count {
    /// Calls sent to the agent.
    pub const HOME: u32 = 0;
    /// Calls that found nobody home and sleep.
    pub const NOBODY_HOME: u32 = 1;
    /// Calls passed through because the pod listens on the port itself.
    pub const PASSED_THROUGH: u32 = 2;
    /// Calls of somebody who is not the kubelet, left alone.
    pub const NOT_THE_KUBELET: u32 = 3;
    /// Calls whose 24 bits were all taken by other pods.
    pub const NO_NAME: u32 = 4;
    /// Length of the array.
    pub const LEN: u32 = 8;
}

/// Where the running kernel keeps what the last call has to know of a socket: offsets in `struct tcp_sock`,
/// from its BTF. All zero: inert.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastCallConfig {
    /// `tcp_sock.write_seq`: sequence number of the next byte that the app writes.
    pub write_seq: u32,
    /// `inet_connection_sock.icsk_ulp_ops`: set where something sits between the app and TCP (kTLS, MPTCP).
    pub ulp_ops: u32,
    /// `tcp_sock.copied_seq`: sequence number of the next byte that the app reads.
    pub copied_seq: u32,
    /// 1: HTTP/2 too.
    pub http2: u32,
    /// 1: a socket in the map tells how much of a large request is still to be read, see
    /// [`crate::announce::SMALL_REQUEST`].
    pub tells_unread: u32,
    /// Zero.
    pub pad: u32,
}

/// A large request that has come in completely. Its app may not have read it yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Its connection.
    pub key: FlowKey,
    /// Sequence number behind the request.
    pub in_end: u32,
    /// Sequence number of its answer's first byte.
    pub out_end: u32,
}

/// How far the announcement on one socket has come. Lives as long as the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcing {
    /// Its connection.
    pub key: FlowKey,
    /// Sequence number of the boundary: the response's first byte, or the next frame's.
    pub boundary: u32,
    /// Sequence number of the next byte that the pod writes, if all since the boundary was seen.
    pub next: u32,
    /// A [`crate::announce::phase`].
    pub phase: u32,
    /// How far the response's head was read.
    pub reader: crate::announce::Reader,
    /// Counts the times that a boundary was set.
    pub turns: u32,
    /// 1: in [`names::LAST_CALL_SOCKETS`], unless the agent has taken it out.
    pub held: u32,
}

/// Indices of [`names::LAST_CALL_COUNTS`], an array of `u64`.
pub mod last_call_count {
    /// Sockets put into the map.
    pub const INSERTED: u32 = 0;
    /// Sockets taken out by the response's first segment.
    pub const DELETED: u32 = 1;
    /// Announcements of `Connection: close` that have left the pod.
    pub const HTTP1: u32 = 2;
    /// Announcements of GOAWAY that have left the pod.
    pub const HTTP2: u32 = 3;
    /// A request in several segments finds its socket in the map: no refusal.
    pub const ALREADY_IN: u32 = 4;
    /// Refused: a segment that the socket has had, or one that has overtaken others.
    pub const DUPLICATE_SEGMENT: u32 = 5;
    /// Refused: no socket by that tuple.
    pub const NO_SOCKET: u32 = 6;
    /// Refused: a socket that is not ESTABLISHED.
    pub const NOT_ESTABLISHED: u32 = 7;
    /// Refused: something sits between the app and TCP (kTLS, MPTCP).
    pub const ULP: u32 = 8;
    /// Refused: the map is full, or the kernel does not take this socket.
    pub const NOT_TAKEN: u32 = 9;
    /// Refused: not one exchange was seen from its beginning to its end, or a response is in progress.
    pub const NO_BOUNDARY: u32 = 10;
    /// Refused: bytes of before are not sent, or not acknowledged.
    pub const UNSENT: u32 = 11;
    /// Refused: its client does not wait for answers.
    pub const PIPELINED: u32 = 12;
    /// Refused: the connection has become something else.
    pub const UPGRADED: u32 = 13;
    /// Given up: what was written does not begin where the boundary is.
    pub const MISSED: u32 = 14;
    /// Given up: what is at the boundary is no status line.
    pub const UNRECOGNISED: u32 = 15;
    /// Given up: no memory for the announcement, or the kernel's helper cannot put it there.
    pub const PUSH_FAILED: u32 = 16;
    /// Given up: what was written could not be looked at.
    pub const PULL_FAILED: u32 = 17;
    /// A message was dropped because a hole in it could be neither filled nor closed.
    pub const DROPPED: u32 = 18;
    /// Given up: so long a head of an interim response, or status line, is not read.
    pub const TOO_LONG: u32 = 19;
    /// Refused: a large request, of unknown end, or one whose answer began before anybody saw that it had been
    /// read; see [`crate::announce::SMALL_REQUEST`].
    pub const LARGE_REQUEST: u32 = 20;
    /// Large requests that wait to be read: no refusal.
    pub const UNREAD: u32 = 21;
    /// Length of the array.
    pub const LEN: u32 = 24;
}

/// FNV-1a, 32 bits, over the path of a request target: how [`names::HEALTH_PATHS`] is keyed.
///
/// The kernel hashes at most [`HEALTH_PATH_MAX`] bytes, up to `?`, `#`, a space or a line end.
pub const fn path_hash(path: &[u8]) -> u32 {
    let mut hash = FNV_OFFSET;
    let mut i = 0;
    while i < path.len() && i < HEALTH_PATH_MAX {
        hash = path_hash_step(hash, path[i]);
        i += 1;
    }
    hash
}

/// Start value of [`path_hash`].
pub const FNV_OFFSET: u32 = 0x811c_9dc5;
/// Longest path that is looked at, bytes.
pub const HEALTH_PATH_MAX: usize = 48;

/// One step of [`path_hash`].
#[inline(always)]
pub const fn path_hash_step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

const _: () = {
    assert!(size_of::<FlowKey>() == 44);
    assert!(size_of::<Connection>() == 176);
    assert!(size_of::<Pod>() == 176);
    assert!(size_of::<Command>() == 56);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<Port>() == 4);
    assert!(size_of::<Handshake>() == 16);
    assert!(size_of::<H2Position>() == 20);
    assert!(size_of::<StreamKey>() == 24);
    assert!(size_of::<ProbeKey>() == 36);
    assert!(size_of::<Edge>() == 16);
    assert!(size_of::<HealthPath>() == 8);
    assert!(size_of::<HookConfig>() == 48);
    assert!(size_of::<HookWait>() == 8);
    assert!(size_of::<Dial>() == 16);
    assert!(size_of::<LastCallConfig>() == 24);
    assert!(size_of::<Unread>() == 52);
    assert!(size_of::<Announcing>() == 80);
};

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ty),+) => { $(
            // SAFETY: `repr(C)`, integers and arrays of integers only, no implicit padding (sizes
            // asserted above): every bit pattern is valid.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        super::FlowKey,
        super::Connection,
        super::Pod,
        super::Command,
        super::PortKey,
        super::Port,
        super::Handshake,
        super::StreamKey,
        super::ProbeKey,
        super::Edge,
        super::HealthPath,
        super::HookConfig,
        super::HookWait,
        super::Dial,
        super::LastCallConfig,
        super::Unread,
        super::Announcing
    );
}
