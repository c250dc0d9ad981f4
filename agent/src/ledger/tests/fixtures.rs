//! A pod's snapshots in a few words.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lastcall_ebpf::abi::{self, Connection, FlowKey, flag, protocol};

use crate::{
    cluster::{AppProtocol, PortFacts, Transport},
    contract::{Contract, Until},
    ledger::{Ledger, Line, Stale, View},
    moment::Moment,
    sockets::{Dump, Socket, TcpInfo, TcpState},
};

pub(super) const HTTP: u16 = 8080;
pub(super) const SQL: u16 = 5432;
pub(super) const QUIC: u16 = 443;
pub(super) const SYSLOG: u16 = 514;
pub(super) const ATTACHED: f64 = 1000.0;

pub(super) fn at(seconds: f64) -> Moment {
    Moment((seconds * 1e6).round() as u64 * 1000)
}

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn until(until: Until) -> Contract {
    Contract { until, ..Contract::default() }
}

pub(super) fn ports() -> BTreeSet<PortFacts> {
    let port = |port, transport, protocol| PortFacts {
        port,
        transport,
        protocol,
        cleartext: protocol != AppProtocol::Unknown && transport == Transport::Tcp,
        in_slice: true,
    };
    [
        port(HTTP, Transport::Tcp, AppProtocol::Http),
        port(SQL, Transport::Tcp, AppProtocol::Unknown),
        port(QUIC, Transport::Udp, AppProtocol::Unknown),
        port(SYSLOG, Transport::Udp, AppProtocol::Unknown),
    ]
    .into()
}

/// A ledger of a pod whose links are watched since [`ATTACHED`].
pub(super) fn ledger() -> Ledger {
    let mut ledger = Ledger::new(at(ATTACHED));
    ledger.ports(&ports());
    ledger
}

fn address(ip: &str) -> abi::Address {
    match ip.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// A client's connection to a wire port of the pod.
pub(super) fn key(local_port: u16, peer_port: u16) -> FlowKey {
    FlowKey {
        pod: 1,
        local_port,
        peer_port,
        local: address("10.0.0.2"),
        peer: address("10.9.9.9"),
        protocol: if matches!(local_port, QUIC | SYSLOG) { abi::UDP } else { abi::TCP },
        pad: [0; 3],
    }
}

/// An entry of a connection whose handshake was seen at `first`.
pub(super) fn new(first: f64) -> Connection {
    Connection { flags: flag::NEW, ..older(first) }
}

/// An entry of a connection that is older than the attach; a packet of it came at `first`.
pub(super) fn older(first: f64) -> Connection {
    Connection {
        first_seen: at(first).0,
        last_packet: at(first).0,
        protocol: protocol::HTTP,
        ..Connection::default()
    }
}

/// What packets do to an entry, in the order of the calls.
pub(super) trait Packets {
    fn cookie(self, cookie: u64) -> Self;
    fn on(self, socket_port: u16) -> Self;
    fn flags(self, flags: u32) -> Self;
    fn asks(self, when: f64) -> Self;
    fn answers(self, when: f64) -> Self;
    fn sends(self, when: f64) -> Self;
    fn acks(self, when: f64) -> Self;
    fn packet(self, when: f64) -> Self;
    fn speaks(self, protocol: u8) -> Self;
}

impl Packets for Connection {
    fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }
    fn on(mut self, socket_port: u16) -> Self {
        self.socket_port = socket_port;
        self
    }
    fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }
    fn asks(mut self, when: f64) -> Self {
        self.last_in = at(when).0;
        self.flags |= flag::IN | flag::WAITING;
        self.packet(when)
    }
    fn answers(mut self, when: f64) -> Self {
        self.flags &= !flag::WAITING;
        self.exchanges += 1;
        self.sends(when)
    }
    fn sends(mut self, when: f64) -> Self {
        self.last_out = at(when).0;
        self.flags |= flag::OUT;
        self.out_end = self.out_end.wrapping_add(100);
        self.packet(when)
    }
    fn acks(mut self, when: f64) -> Self {
        self.flags |= flag::ACKED;
        self.out_acked = self.out_end;
        self.packet(when)
    }
    fn packet(mut self, when: f64) -> Self {
        self.last_packet = at(when).0;
        self
    }
    fn speaks(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }
}

/// The client's socket in the pod.
pub(super) fn socket(cookie: u64, local_port: u16, peer_port: u16) -> Socket {
    between(cookie, ("10.0.0.2", local_port), ("10.9.9.9", peer_port))
}

pub(super) fn between(cookie: u64, local: (&str, u16), peer: (&str, u16)) -> Socket {
    let end = |(ip, port): (&str, u16)| SocketAddr::new(ip.parse().expect("an address"), port);
    Socket {
        cookie,
        state: TcpState::Established,
        local: end(local),
        peer: end(peer),
        inode: 77,
        receive_queue: 0,
        send_queue: 0,
        retransmits: 0,
        cgroup: 0,
        mark: 0,
        info: Some(answered()),
    }
}

/// Answered a minute ago.
pub(super) fn answered() -> TcpInfo {
    TcpInfo {
        last_data_sent: ms(60_000),
        last_data_received: ms(60_100),
        last_ack_received: ms(59_960),
        bytes_received: 500,
        bytes_acked: 900,
        ..TcpInfo::default()
    }
}

/// Last data received, sent and last ACK, milliseconds before the dump.
pub(super) fn ages(received: u64, sent: u64, ack: u64) -> TcpInfo {
    TcpInfo {
        last_data_received: ms(received),
        last_data_sent: ms(sent),
        last_ack_received: ms(ack),
        ..answered()
    }
}

pub(super) fn listener(port: u16) -> Socket {
    Socket { state: TcpState::Listen, info: None, ..between(port.into(), ("0.0.0.0", port), ("0.0.0.0", 0)) }
}

/// A dump that takes no time.
pub(super) fn dump(when: f64, sockets: &[Socket]) -> Dump {
    let listeners = [listener(HTTP), listener(SQL)];
    Dump {
        started: at(when),
        finished: at(when),
        interrupted: false,
        sockets: listeners.into_iter().chain(sockets.iter().cloned()).collect(),
    }
}

/// What the tests ask a ledger.
pub(super) trait Asked {
    fn reads(&mut self, when: f64, entries: &[(FlowKey, Connection)]);
    fn dumps(&mut self, when: f64, sockets: &[Socket]) -> Vec<Stale>;
    fn auto(&self, when: f64) -> View;
    fn says(&self, when: f64, contract: &Contract) -> Vec<String>;
    fn only(&self, when: f64) -> Line;
}

impl Asked for Ledger {
    fn reads(&mut self, when: f64, entries: &[(FlowKey, Connection)]) {
        self.table(at(when), entries, &abi::Pod::default());
    }
    fn dumps(&mut self, when: f64, sockets: &[Socket]) -> Vec<Stale> {
        self.dump(&dump(when, sockets))
    }
    fn auto(&self, when: f64) -> View {
        self.view(at(when), &Contract::default())
    }
    /// Each connection as `state (reason), known`, with `!` where it is awaited and `*` where at work.
    fn says(&self, when: f64, contract: &Contract) -> Vec<String> {
        let say = |l: Line| {
            let marks = format!("{}{}", if l.awaited { "!" } else { "" }, if l.at_work { "*" } else { "" });
            format!("{marks}{} ({}), {}", l.state, l.reason, l.known)
        };
        self.lines(at(when), contract).into_iter().map(say).collect()
    }
    fn only(&self, when: f64) -> Line {
        let lines = self.lines(at(when), &Contract::default());
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines[0].clone()
    }
}
