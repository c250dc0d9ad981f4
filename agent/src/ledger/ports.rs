//! Which ports count, and what they speak.
//!
//! In: the declared ports (EndpointSlices, containerPorts), the ports that the pod listens on, and
//! redirects as the joined connections show them. Out: for a wire port or a socket's port, whether its
//! connections count and whether their silence means anything.
//!
//! Where a mesh redirects (Istio's 15006, Linkerd's 4143), a socket's port is not the port on the wire,
//! and nothing but a packet can show which belongs to which. Until one does, a socket on a listening
//! port that nobody declared is a **candidate**: it counts unless it is idle.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{AppProtocol, PortFacts, Transport},
    contract::Audience,
};

/// What a connection's silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speaks {
    /// Request and response: answered and silent is idle.
    Exchanges,
    /// Nothing known: open is in flight.
    Anything,
}

/// What is known of a socket's local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub speaks: Speaks,
    /// Not declared and not known to be a redirect's target: counts unless idle.
    pub candidate: bool,
    /// Not a port on the wire, or perhaps not: its sockets' tuples are not the packets'.
    pub redirected: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    declared: BTreeSet<PortFacts>,
    /// Every port that was ever seen in LISTEN: an app that closes its listener first, as it should,
    /// still owes its connections an answer.
    listening: BTreeSet<u16>,
    /// Socket's port to the wire ports that end there.
    redirects: BTreeMap<u16, BTreeSet<u16>>,
    /// At which ports clients are told to leave.
    audience: Audience,
    /// Declared ports to which somebody inside the pod is connected: a proxy stands before them.
    fronted: BTreeSet<u16>,
    /// The network is the node's: what listens there beside the declared ports is somebody else's.
    shared: bool,
}

impl Ports {
    pub(super) fn declare(&mut self, ports: &BTreeSet<PortFacts>) {
        self.declared.clone_from(ports);
    }

    pub(super) fn tell(&mut self, audience: Audience) {
        self.audience = audience;
    }

    pub(super) fn share(&mut self) {
        self.shared = true;
    }

    /// Clients of this wire port are told to leave.
    pub(super) fn tells(&self, wire: u16) -> bool {
        let at = |p: &PortFacts| p.port == wire && p.transport == Transport::Tcp;
        self.audience.includes(self.declared.iter().any(|p| at(p) && p.cleartext))
    }

    /// A new connection to this wire port says that routing has not converged.
    pub(super) fn settles(&self, wire: u16) -> bool {
        let any = self.declared.iter().any(|p| p.in_slice);
        !any || self.declared.iter().any(|p| p.port == wire && p.transport == Transport::Tcp && p.in_slice)
    }

    pub(super) fn listens(&mut self, port: u16) {
        self.listening.insert(port);
    }

    pub(super) fn redirected(&mut self, wire: u16, socket: u16) {
        self.redirects.entry(socket).or_default().insert(wire);
    }

    /// A connection inside the pod ends at this port.
    pub(super) fn connected_from_inside(&mut self, port: u16) {
        if self.declares(port, Transport::Tcp) {
            self.fronted.insert(port);
        }
    }

    fn declares(&self, port: u16, transport: Transport) -> bool {
        self.declared.iter().any(|p| p.port == port && p.transport == transport)
    }

    fn any_declared(&self, transport: Transport) -> bool {
        self.declared.iter().any(|p| p.transport == transport)
    }

    /// What a declared wire port speaks. A port may be declared twice (a slice names its protocol, the
    /// container does not): what is known wins.
    fn speaks(&self, wire: u16) -> Speaks {
        let known = |p: &&PortFacts| {
            p.port == wire && p.transport == Transport::Tcp && p.protocol != AppProtocol::Unknown
        };
        if self.declared.iter().any(|p| known(&p)) { Speaks::Exchanges } else { Speaks::Anything }
    }

    /// The most careful reading of several ports that may be meant.
    fn strictest(&self, wires: &BTreeSet<u16>) -> Speaks {
        wires.iter().map(|w| self.speaks(*w)).max().unwrap_or(Speaks::Exchanges)
    }

    /// A TCP connection seen on the wire: does it count, and as what? `answered` says that the pod was
    /// seen to answer its handshake, so that it was opened from outside whatever the port.
    pub(super) fn on_the_wire(&self, wire: u16, socket: u16, answered: bool, dumped: bool) -> Option<Speaks> {
        let counts = if self.any_declared(Transport::Tcp) {
            self.declares(wire, Transport::Tcp)
        } else {
            // Before the first dump nobody knows what listens: the table's word is taken.
            answered || !dumped || self.listening.contains(&wire) || self.listening.contains(&socket)
        };
        counts.then(|| self.speaks(wire))
    }

    /// A TCP socket of which no packet was seen: does it count, and as what?
    pub(super) fn of_socket(&self, port: u16) -> Option<Standing> {
        if !self.any_declared(Transport::Tcp) {
            let speaks = self.redirects.get(&port).map_or(Speaks::Anything, |wires| self.strictest(wires));
            return self.listening.contains(&port).then_some(Standing {
                speaks,
                candidate: false,
                redirected: self.redirects.contains_key(&port),
            });
        }
        if self.declares(port, Transport::Tcp) {
            return Some(Standing { speaks: self.speaks(port), candidate: false, redirected: false });
        }
        if self.shared {
            return None;
        }
        if let Some(wires) = self.redirects.get(&port) {
            // One port of a proxy takes many (Istio's 15006 takes all): a silent connection to it may
            // belong to a port of which no packet has shown the redirect yet.
            let speaks = self.strictest(wires).max(self.strictest(&self.fronted));
            return Some(Standing { speaks, candidate: false, redirected: true });
        }
        // Nobody declared it. Where a proxy of the pod itself is connected to a declared port, this may
        // be the proxy's front, and its connections as talkative as that port's.
        let speaks = self.strictest(&self.fronted);
        self.listening.contains(&port).then_some(Standing { speaks, candidate: true, redirected: true })
    }

    /// A UDP flow: does it count? The kernel makes entries for ports that count only, so that without
    /// declared ports its word is taken.
    pub(super) fn flow_counts(&self, wire: u16) -> bool {
        !self.any_declared(Transport::Udp) || self.declares(wire, Transport::Udp)
    }

    /// HTTP/3 by its usual numbers, or because the port is said to speak HTTP: silent for longer than
    /// other UDP while a request thinks.
    pub(super) fn looks_like_quic(&self, wire: u16) -> bool {
        matches!(wire, 443 | 8443)
            || self.declared.iter().any(|p| {
                p.port == wire && p.transport == Transport::Udp && p.protocol != AppProtocol::Unknown
            })
    }
}
