//! Which sockets of a dump are the pod's ends of the kubelet's probes.
//!
//! In: a dump, and the tuples that `sock_ops` noted as the kubelet dialled, with the time at which the
//! kubelet's end closed. Out: the sockets' own tuples, for the ledger. Pure.
//!
//! Two things stand between them. Where the pod redirects, the socket has another port than the kubelet
//! dialled. And a port that the kubelet has had may be a client's next, for SNAT gives clients the same
//! address: what is left of a probe whose other end has closed has its FIN, and nothing passes any more.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lastcall_ebpf::abi::ProbeKey;

use crate::{
    kernel::observer::{OPEN, address},
    ledger::TICK,
    moment::Moment,
    sockets::{Dump, Socket, TcpState},
};

/// `addresses`: the pod's; `wires`: the ports that it is known by; `closed_at`: of a noted tuple, [`OPEN`]
/// while the kubelet's end is open.
pub(super) fn among(
    dump: &Dump,
    addresses: &BTreeSet<IpAddr>,
    wires: &[u16],
    closed_at: impl Fn(&ProbeKey) -> Option<Moment>,
) -> Vec<ProbeKey> {
    let is_probe = |socket: &&Socket| {
        let (Some(last), ended) = (last_activity(dump.started, socket), has_fin(socket.state)) else {
            return false;
        };
        let dialled = dialled(socket.local, addresses, wires).into_iter();
        let mut closed = dialled.filter_map(|local| closed_at(&key(local, socket.peer)));
        closed.any(|at| at == OPEN || (ended && last <= at + TICK))
    };
    let from_outside = dump.sockets.iter().filter(|s| !s.peer.ip().is_loopback());
    from_outside.filter(is_probe).map(|s| key(s.local, s.peer)).collect()
}

/// What may have been dialled to reach this end: the end itself, or, where it is no port that the pod is
/// known by, any of those; at any of the pod's addresses, where the proxy has loopback's.
fn dialled(local: SocketAddr, addresses: &BTreeSet<IpAddr>, wires: &[u16]) -> Vec<SocketAddr> {
    let mut ends = vec![local];
    let translated = local.ip().is_loopback();
    if translated || !wires.contains(&local.port()) {
        let translated = addresses.iter().filter(|a| translated && a.is_ipv4() == local.is_ipv4());
        let at = [local.ip()].into_iter().chain(translated.copied());
        ends.extend(at.flat_map(|a| wires.iter().map(move |port| SocketAddr::new(a, *port))));
    }
    ends
}

/// The other end has said that it sends no more.
fn has_fin(state: TcpState) -> bool {
    matches!(state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing)
}

/// When anything last passed on a socket, at the latest its handshake, by its own ages.
fn last_activity(dumped: Moment, socket: &Socket) -> Option<Moment> {
    let info = socket.info.as_ref()?;
    Some(dumped - info.last_data_sent.min(info.last_data_received).min(info.last_ack_received))
}

fn key(local: SocketAddr, peer: SocketAddr) -> ProbeKey {
    ProbeKey {
        local: address(local.ip()),
        peer: address(peer.ip()),
        local_port: local.port(),
        peer_port: peer.port(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sockets::TcpInfo;

    const PEER: &str = "10.0.0.1:40000";

    /// Whether a socket that was dumped at 100 s, after so much silence, is the probe that was noted.
    fn is_probe(local: &str, (state, silent): (TcpState, u64), noted: &str, closed_at: Moment) -> bool {
        let age = Duration::from_millis(silent);
        let info = TcpInfo {
            last_data_sent: age,
            last_data_received: age,
            last_ack_received: age,
            ..TcpInfo::default()
        };
        let (local, peer) = (local.parse().unwrap(), PEER.parse().unwrap());
        let socket = Socket { local, peer, state, info: Some(info), ..socket() };
        let started = Moment::from_secs_f64(100.0);
        let dump = Dump { started, finished: started, interrupted: false, sockets: vec![socket] };
        let addresses = ["10.1.0.5", "fd00::5"].map(|a| a.parse().unwrap()).into();
        let noted = key(noted.parse().unwrap(), peer);
        !among(&dump, &addresses, &[8080, 8081], |k| (*k == noted).then_some(closed_at)).is_empty()
    }

    fn socket() -> Socket {
        let any = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
        Socket {
            cookie: 1,
            state: TcpState::Established,
            local: any,
            peer: any,
            inode: 1,
            receive_queue: 0,
            send_queue: 0,
            retransmits: 0,
            cgroup: 0,
            mark: 0,
            info: None,
        }
    }

    #[test]
    fn a_probe_is_known_by_what_the_kubelet_dialled() {
        for (local, noted, want) in [
            ("10.1.0.5:8080", "10.1.0.5:8080", true),
            ("10.1.0.5:8080", "10.1.0.5:8081", false),
            ("10.1.0.5:15006", "10.1.0.5:8081", true),
            ("127.0.0.1:15006", "10.1.0.5:8081", true),
            ("10.1.0.5:15006", "10.1.0.5:9999", false),
            ("127.0.0.1:8080", "10.1.0.5:8080", true),
        ] {
            assert_eq!(
                is_probe(local, (TcpState::Established, 0), noted, OPEN),
                want,
                "{local}, dialled {noted}"
            );
        }
    }

    #[test]
    fn a_port_that_the_kubelet_had_may_be_a_clients_next() {
        let closed = Moment::from_secs_f64(98.0);
        let of = |state, silent| is_probe("10.1.0.5:8080", (state, silent), "10.1.0.5:8080", closed);
        assert!(of(TcpState::CloseWait, 2_000), "the app still thinks about a probe that was given up");
        assert!(of(TcpState::CloseWait, 1_995), "ages are jiffies");
        assert!(!of(TcpState::CloseWait, 1_900), "something has passed since");
        assert!(!of(TcpState::Established, 1_995), "the kubelet's FIN would be here");
    }
}
