//! A connection's two ends, in one form for packets and sockets.
//!
//! In: the kernel's 16-byte addresses and sock_diag's. Out: [`Ends`] that compare equal when they mean
//! the same, whatever family the packet or the socket was of.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lastcall_ebpf::abi;

/// An address (IPv4-mapped ones as IPv4) and a port.
pub(super) type End = (IpAddr, u16);

/// Local and remote end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ends {
    pub local: End,
    pub peer: End,
}

impl Ends {
    /// As the packets name it.
    pub(super) fn on_the_wire(key: &abi::FlowKey) -> Self {
        Self { local: (address(key.local), key.local_port), peer: (address(key.peer), key.peer_port) }
    }

    /// As the socket names it. Flow labels and scopes are no part of a connection's identity.
    pub(super) fn of_socket(local: SocketAddr, peer: SocketAddr) -> Self {
        let end = |a: SocketAddr| (a.ip().to_canonical(), a.port());
        Self { local: end(local), peer: end(peer) }
    }

    /// As the kubelet's `sock_ops` program noted it.
    pub(super) fn of_probe(key: &abi::ProbeKey) -> Self {
        Self { local: (address(key.local), key.local_port), peer: (address(key.peer), key.peer_port) }
    }

    /// The same connection as its other end would name it.
    pub(super) fn reversed(self) -> Self {
        Self { local: self.peer, peer: self.local }
    }

    /// Never leaves the pod. Of the pod's own end nothing can be told: what comes from outside may be
    /// led to a proxy on 127.0.0.1 (DNAT).
    pub(super) fn is_loopback(self) -> bool {
        self.peer.0.is_loopback()
    }
}

fn address(a: abi::Address) -> IpAddr {
    Ipv6Addr::from(a).to_canonical()
}
