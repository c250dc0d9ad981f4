//! Who does not keep a pod from draining: the kubelet's probes, and sources that the operator names.
//!
//! The kubelet's probes are known by their tuple, noted before the SYN left, and never by source
//! address: SNAT makes real clients look like the node.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use lastcall_ebpf::abi;

use super::ends::{End, Ends};

#[derive(Clone, Debug, Default)]
pub(super) struct Excluded {
    ignored: Vec<IpNet>,
    probes: HashSet<Ends>,
    /// Address of the pod, and the kubelet's end: a redirected probe's socket has another local port.
    probe_peers: HashSet<(IpAddr, End)>,
}

impl Excluded {
    pub(super) fn ignore(&mut self, sources: &[IpNet]) {
        self.ignored = sources.to_vec();
    }

    pub(super) fn probes(&mut self, probes: impl IntoIterator<Item = abi::ProbeKey>) {
        self.probes = probes.into_iter().map(|p| Ends::of_probe(&p)).collect();
        self.probe_peers = self.probes.iter().map(|e| (e.local.0, e.peer)).collect();
    }

    /// `ignore-sources` names the peer.
    pub(super) fn ignores(&self, peer: IpAddr) -> bool {
        self.ignored.iter().any(|net| net.contains(&peer))
    }

    /// The socket is the pod's end of a kubelet's probe. Asked of sockets only: the kernel makes no
    /// entry for a probe, so that a tuple in the table is a client's, even one that reuses a probe's.
    /// `redirected`: the socket's port is not a wire port, so that the probe's may be another.
    pub(super) fn is_probe(&self, ends: Ends, redirected: bool) -> bool {
        self.probes.contains(&ends) || (redirected && self.probe_peers.contains(&(ends.local.0, ends.peer)))
    }
}
