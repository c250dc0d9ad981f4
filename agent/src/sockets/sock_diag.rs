//! sock_diag: the sockets of a namespace, and one socket by its addresses.
//!
//! In: a [`Filter`]. Out: a [`Dump`]. Wire formats: include/uapi/linux/inet_diag.h.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use libc::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, c_int};

use super::{
    Dump, Filter, Namespace, Socket, TcpState,
    error::{Error, Result},
    tcp_info,
    wire::{WireError, attributes, bytes_at, push_attribute, u32_at, u64_at},
};
use crate::moment::Moment;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_MARK: u16 = 15;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `struct inet_diag_msg`, without attributes.
const MESSAGE: usize = 72;
/// `idiag_timer`, include/net/inet_connection_sock.h by way of `inet_sk_diag_fill`.
const TIMER_RETRANSMIT: u8 = 1;
const TIMER_KEEP_ALIVE: u8 = 2;
const TIMER_WINDOW_PROBE: u8 = 4;

impl Namespace {
    /// The TCP sockets that the filter lets through. Blocks for as long as the kernel takes to walk its
    /// tables, which hold the sockets of all namespaces (0.3 to 20 ms).
    ///
    /// A dump of more than about 70 sockets comes in batches. Between two, a socket may be missed
    /// where one before it in the same hash bucket closes: before "gone" is believed of a single
    /// connection, [`Namespace::look_up`] asks for it alone, exactly and cheaply.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Malformed`], and what opening the socket inside may give. No error
    /// and no malformed answer is ever taken for "no sockets".
    pub fn dump(&self, filter: &Filter) -> Result<Dump> {
        let started = Moment::now();
        let mut sockets = Vec::new();
        let mut interrupted = false;
        for family in [AF_INET, AF_INET6] {
            let (found, changed) = self.sockets(family, IPPROTO_TCP, filter)?;
            sockets.extend(found);
            interrupted |= changed;
        }
        Ok(Dump { started, finished: Moment::now(), interrupted, sockets })
    }

    /// [`Namespace::dump`] for callers that must not block.
    ///
    /// # Errors
    /// As there, and [`Error::Runtime`].
    pub async fn dump_async(&self, filter: Filter) -> Result<Dump> {
        let namespace = self.clone();
        tokio::task::spawn_blocking(move || namespace.dump(&filter)).await?
    }

    /// The socket between these addresses with this cookie, if there still is one, in whatever state
    /// (TIME-WAIT too). A hash lookup: costs the same on a node of ten sockets and of a million. Blocks
    /// for microseconds.
    ///
    /// IPv4 addresses find IPv4 sockets and dual-stack ones alike.
    ///
    /// # Errors
    /// As [`Namespace::dump`].
    pub fn look_up(&self, local: SocketAddr, peer: SocketAddr, cookie: u64) -> Result<Option<Socket>> {
        let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        let request = request(family, IPPROTO_TCP, u32::MAX, &socket_id(local, peer, cookie));
        let (found, _) = self.ask_sock_diag("look up a TCP socket", |wire| {
            let mut found = None;
            let read = |_, body: &[u8]| {
                found = socket(body)?;
                Ok(())
            };
            match wire.get(SOCK_DIAG_BY_FAMILY, &request, read) {
                Ok(()) => Ok((found, false)),
                // ENOENT: none; ESTALE: the addresses have another socket by now.
                Err(WireError::Io(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                    Ok((None, false))
                }
                Err(e) => Err(e),
            }
        })?;
        Ok(found)
    }

    /// The ports of UDP sockets that take datagrams from anybody, sorted. UDP has no listening state:
    /// a client that sends from an unconnected socket (many resolvers) is among them. Blocks.
    ///
    /// # Errors
    /// As [`Namespace::dump`]; [`Error::Netlink`] also on kernels without `udp_diag`.
    pub fn listening_udp_ports(&self) -> Result<Vec<u16>> {
        // Unconnected UDP sockets are in TCP's CLOSE.
        let filter = Filter { states: super::States::of(&[TcpState::Close]), ports: super::Ports::All };
        let mut ports = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let (sockets, _) = self.sockets(family, IPPROTO_UDP, &filter)?;
            ports.extend(sockets.iter().map(|s| s.local.port()).filter(|port| *port != 0));
        }
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }

    fn sockets(&self, family: c_int, protocol: c_int, filter: &Filter) -> Result<(Vec<Socket>, bool)> {
        let operation = match (protocol, family) {
            (IPPROTO_TCP, AF_INET) => "dump IPv4 TCP sockets",
            (IPPROTO_TCP, _) => "dump IPv6 TCP sockets",
            (_, AF_INET) => "dump IPv4 UDP sockets",
            _ => "dump IPv6 UDP sockets",
        };
        let mut request = request(family, protocol, filter.states.mask(), &[0; 48]);
        let bytecode = filter.bytecode();
        if let Some(bytecode) = &bytecode {
            push_attribute(&mut request, INET_DIAG_REQ_BYTECODE, bytecode);
        }
        let answer = self.ask_sock_diag(operation, |wire| {
            let mut sockets = Vec::new();
            let interrupted = wire.dump(SOCK_DIAG_BY_FAMILY, &request, |_, body| {
                sockets.extend(socket(body)?.filter(|s| bytecode.is_some() || filter.admits(s)));
                Ok(())
            })?;
            Ok((sockets, interrupted))
        });
        match answer {
            // A kernel without IPv6. One without sock_diag has already failed for IPv4.
            Err(Error::Netlink { source, .. })
                if family == AF_INET6 && source.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok((Vec::new(), false))
            }
            other => other,
        }
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: c_int, protocol: c_int, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let extensions = 1 << (INET_DIAG_INFO - 1); // the mark and the cgroup come unasked
    let mut bytes = vec![family as u8, protocol as u8, extensions, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// `struct inet_diag_sockid`.
fn socket_id(local: SocketAddr, peer: SocketAddr, cookie: u64) -> [u8; 48] {
    let mut id = [0; 48];
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&peer.port().to_be_bytes());
    for (at, ip) in [(4, local.ip()), (20, peer.ip())] {
        match ip {
            IpAddr::V4(v4) => id[at..at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => id[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    id[40..44].copy_from_slice(&(cookie as u32).to_ne_bytes());
    id[44..48].copy_from_slice(&((cookie >> 32) as u32).to_ne_bytes());
    id
}

/// Reads `struct inet_diag_msg` and its attributes. None for a state of a later kernel, which nobody
/// has asked for.
fn socket(body: &[u8]) -> Result<Option<Socket>, &'static str> {
    let short = "a socket is too short";
    let message = body.first_chunk::<MESSAGE>().ok_or(short)?;
    let Some(state) = state(message[1]) else { return Ok(None) };
    // Of a timer that is not running, or TIME-WAIT's, the count says nothing.
    let retransmits = match message[2] {
        TIMER_RETRANSMIT | TIMER_WINDOW_PROBE | TIMER_KEEP_ALIVE => message[3],
        _ => 0,
    };
    let word = |at| u32_at(message, at).ok_or(short);
    let mut socket = Socket {
        cookie: u64::from(word(44)?) | u64::from(word(48)?) << 32,
        state,
        local: address(message, 4, 8).ok_or(short)?,
        peer: address(message, 6, 24).ok_or(short)?,
        inode: word(68)?,
        receive_queue: word(56)?,
        send_queue: word(60)?,
        retransmits,
        cgroup: 0,
        mark: 0,
        info: None,
    };
    for attribute in attributes(&body[MESSAGE..]) {
        match attribute? {
            (INET_DIAG_INFO, value) if state != TcpState::Listen => socket.info = tcp_info::parse(value),
            (INET_DIAG_MARK, value) => socket.mark = u32_at(value, 0).unwrap_or(0),
            (INET_DIAG_CGROUP_ID, value) => socket.cgroup = u64_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    Ok(Some(socket))
}

/// A port and an address of `struct inet_diag_sockid`, both in network order.
fn address(message: &[u8; MESSAGE], port: usize, ip: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes_at(message, port)?);
    let ip = match c_int::from(message[0]) {
        AF_INET => IpAddr::from(bytes_at::<4>(message, ip)?),
        _ => Ipv6Addr::from(bytes_at::<16>(message, ip)?).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

fn state(number: u8) -> Option<TcpState> {
    use TcpState::*;
    [
        Established,
        SynSent,
        SynReceived,
        FinWait1,
        FinWait2,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Listen,
        Closing,
        NewSynReceived,
    ]
    .into_iter()
    .find(|state| *state as u8 == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer about an IPv6 socket that carries IPv4, as the kernel sends it.
    fn answer() -> Vec<u8> {
        let (local, peer) = ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.2]:5000");
        let mut body = vec![AF_INET6 as u8, 1, TIMER_RETRANSMIT, 3];
        body.extend(socket_id(local.parse().unwrap(), peer.parse().unwrap(), 0x1_0000_0002));
        for word in [0_u32, 11, 22, 1000, 333] {
            body.extend(word.to_ne_bytes());
        }
        body
    }

    #[test]
    fn a_mapped_address_is_given_as_ipv4() {
        let socket = socket(&answer()).unwrap().unwrap();
        assert_eq!(socket.local, "10.0.0.1:80".parse().unwrap());
        assert_eq!(socket.peer, "10.0.0.2:5000".parse().unwrap());
        assert_eq!((socket.cookie, socket.inode), (0x1_0000_0002, 333));
        assert_eq!((socket.receive_queue, socket.send_queue, socket.retransmits), (11, 22, 3));
    }

    #[test]
    fn attributes_are_read_and_unknown_ones_passed_over() {
        let mut body = answer();
        push_attribute(&mut body, 99, b"new");
        push_attribute(&mut body, INET_DIAG_MARK, &7_u32.to_ne_bytes());
        push_attribute(&mut body, INET_DIAG_CGROUP_ID, &8_u64.to_ne_bytes());
        let socket = socket(&body).unwrap().unwrap();
        assert_eq!((socket.mark, socket.cgroup, socket.info), (7, 8, None));
    }

    #[test]
    fn the_count_of_a_timer_that_does_not_run_is_none() {
        let mut body = answer();
        body[2] = 3; // TIME-WAIT's
        assert_eq!(socket(&body).unwrap().unwrap().retransmits, 0);
    }

    #[test]
    fn a_state_of_a_later_kernel_is_passed_over_and_a_short_answer_is_not() {
        let mut body = answer();
        body[1] = 13; // TCP_BOUND_INACTIVE
        assert_eq!(socket(&body), Ok(None));
        assert!(socket(&body[..MESSAGE - 1]).is_err());
        body[1] = 1;
        body.extend([9, 0]);
        assert!(socket(&body).is_err(), "a broken attribute");
    }

    #[test]
    fn states_have_the_kernels_numbers() {
        assert_eq!(state(1), Some(TcpState::Established));
        assert_eq!(state(12), Some(TcpState::NewSynReceived));
        assert_eq!((state(0), state(13)), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = socket(&bytes);
        }
    }
}
