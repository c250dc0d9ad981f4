//! Listening sockets of the thread's network namespace, by sock_diag.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// `INET_DIAG_CGROUP_ID`, `include/uapi/linux/inet_diag.h`.
const CGROUP_ID: u16 = 21;
/// What the kernel sends at a time, at most.
const CHUNK: usize = 64 * 1024;

/// A TCP socket in LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// As `SO_COOKIE` says.
    pub(super) cookie: u64,
    /// None where the kernel does not tell (before 5.9).
    pub(super) cgroup: Option<u64>,
}

/// All of them, IPv4 and IPv6.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let mut found = dump(AF_INET)?;
    found.extend(dump(AF_INET6)?);
    Ok(found)
}

fn dump(family: u8) -> io::Result<Vec<Listener>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send(&request(family), 0)?;
    let mut found = Vec::new();
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        socket.recv(&mut bytes, 0)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(malformed)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    found.push(listener(&socket));
                }
                _ => {}
            }
            // Messages are aligned to four bytes; a length of zero would never end.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn request(family: u8) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn listener(socket: &InetResponse) -> Listener {
    let id = &socket.header.socket_id;
    let cgroup = socket.nlas.iter().find_map(|nla| match nla {
        Nla::Other(other) if other.kind() == CGROUP_ID => {
            let mut value = [0; 8];
            (other.value_len() == 8).then(|| {
                other.emit_value(&mut value);
                u64::from_ne_bytes(value)
            })
        }
        _ => None,
    });
    let ip = match id.source_address {
        IpAddr::V6(v6) => v6.to_canonical(),
        v4 @ IpAddr::V4(_) => v4,
    };
    Listener {
        address: SocketAddr::new(ip, id.source_port),
        // Two 32-bit halves, the low one first (`sock_diag_save_cookie`).
        cookie: u64::from_le_bytes(id.cookie),
        cgroup,
    }
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag's answer: {error}"))
}
