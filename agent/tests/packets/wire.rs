//! Packets, built by hand: Ethernet, IPv4 or IPv6, TCP or UDP. Checksums are nobody's business here.

use std::net::{IpAddr, SocketAddr};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    /// The segment from its first port on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(self.from.port().to_be_bytes());
        b.extend(self.to.port().to_be_bytes());
        b.extend(self.sequence.to_be_bytes());
        b.extend(self.acknowledgement.to_be_bytes());
        // Timestamps, as nearly every segment has: 32 bytes of header.
        b.extend([8 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        b.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        b.extend(self.payload);
        b
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        ethernet(ip(self.from.ip(), self.to.ip(), 6, &self.bytes()))
    }
}

/// A UDP datagram.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend(from.port().to_be_bytes());
    b.extend(to.port().to_be_bytes());
    b.extend((8 + payload.len() as u16).to_be_bytes());
    b.extend([0, 0]);
    b.extend(payload);
    ethernet(ip(from.ip(), to.ip(), 17, &b))
}

/// The network header, and behind it what it carries.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, carried: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + carried.len() as u16).to_be_bytes();
            let mut b = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
            b.extend(from.octets());
            b.extend(to.octets());
            b.extend(carried);
            b
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = (carried.len() as u16).to_be_bytes();
            let mut b = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            b.extend(from.octets());
            b.extend(to.octets());
            b.extend(carried);
            b
        }
        _ => panic!("{from} cannot talk to {to}"),
    }
}

/// An Ethernet frame around a packet, not padded.
pub(crate) fn ethernet(packet: Vec<u8>) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    link(kind, packet)
}

/// A frame of any kind.
pub(crate) fn link(kind: [u8; 2], packet: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(kind);
    frame.extend(packet);
    frame
}
