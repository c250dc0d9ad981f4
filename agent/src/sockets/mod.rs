//! The second witness: network namespaces, their links and addresses, and sock_diag's dumps.
//!
//! In: a pod's address. Out: its namespace; its links; its sockets with state, queues and ages.
//! One OS thread enters namespaces, never a tokio worker; what it opens there (a sock_diag socket, a
//! route socket) is used from anywhere afterwards.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails is meant to panic"))]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

mod cookie;
mod counters;
mod directory;
mod error;
mod filter;
mod index;
mod links;
mod namespace;
mod namespaces;
mod opening_rates;
mod sock_diag;
mod tcp_info;
#[cfg(test)]
pub(crate) mod tests_fixture;
#[cfg(test)]
mod tests_links;
#[cfg(test)]
mod tests_namespaces;
#[cfg(test)]
mod tests_rates;
#[cfg(test)]
mod tests_sock_diag;
mod thread;
mod watch;
mod wire;

pub use error::{Error, Result};
pub use filter::{Filter, Ports, States};
pub use links::LinkEvents;
pub use namespace::Namespace;
pub use namespaces::{DIRECTORY, Namespaces};
pub use opening_rates::{OpeningRate, OpeningRates};

use crate::moment::Moment;

/// A TCP socket as sock_diag shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `idiag_cookie`: the connection's identity, the same as `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Its state.
    pub state: TcpState,
    /// Local end. IPv4-mapped addresses are given as IPv4.
    pub local: SocketAddr,
    /// Remote end.
    pub peer: SocketAddr,
    /// Inode of the socket's file; 0: not accepted yet, or orphaned.
    pub inode: u32,
    /// Bytes received and not read; a FIN that was not read counts as one (for LISTEN: connections
    /// waiting for accept).
    pub receive_queue: u32,
    /// Bytes written and not acknowledged; a FIN counts as one (for LISTEN: how many connections may
    /// wait for accept).
    pub send_queue: u32,
    /// Retransmissions, zero-window probes or keep-alive probes sent in a row without an answer.
    pub retransmits: u8,
    /// Cgroup (v2) id of the socket; 0 where the kernel does not tell.
    pub cgroup: u64,
    /// `SO_MARK`; 0 where not set or not shown.
    pub mark: u32,
    /// What `TCP_INFO` adds; absent for LISTEN, TIME-WAIT, SYN-RECV.
    pub info: Option<TcpInfo>,
}

/// The part of `struct tcp_info` (`include/uapi/linux/tcp.h`) that tells live from idle.
///
/// The ages are jiffies (4 to 10 ms), given in milliseconds: two within a tick are a tie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// `tcpi_last_data_sent`.
    pub last_data_sent: Duration,
    /// `tcpi_last_data_recv`.
    pub last_data_received: Duration,
    /// `tcpi_last_ack_recv`.
    pub last_ack_received: Duration,
    /// `tcpi_bytes_received`.
    pub bytes_received: u64,
    /// `tcpi_bytes_acked`.
    pub bytes_acked: u64,
    /// `tcpi_unacked`, segments.
    pub unacked: u32,
    /// `tcpi_notsent_bytes`.
    pub not_sent: u32,
    /// `tcpi_retransmits`.
    pub retransmits: u8,
}

/// RFC 9293's states, numbered as in `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    NewSynReceived = 12,
}

/// All sockets of a namespace that a filter let through, at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// When it was asked for: a socket that is missing had gone by `finished`, one that is there was
    /// there at some time between the two.
    pub started: Moment,
    /// When the last answer had come.
    pub finished: Moment,
    /// The kernel said, each time it was asked again, that the sockets changed under the dump: one may
    /// be missing that is there.
    pub interrupted: bool,
    /// The sockets, in no order.
    pub sockets: Vec<Socket>,
}

/// A link of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// `ifindex` in its namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// It is a loopback device.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}
