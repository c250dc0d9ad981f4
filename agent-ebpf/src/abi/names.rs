//! Names of the maps and programs in the kernel object, once for both sides.

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
