//! A packet's headers: from bytes to addresses, ports, and where the payload is. Pure.
//!
//! In: bytes from the network header on. Out: [`Packet`]. IPv4 with options, IPv6 with extension
//! headers, fragments; TCP and UDP. The payload's length is the IP header's word, not the frame's:
//! Ethernet pads short frames to 60 bytes, and padding is not payload. Where the IP header says
//! nothing (BIG TCP super-packets, RFC 2675 jumbograms), the frame's length counts.

use crate::abi::{Address, TCP, UDP};

/// Bytes of a packet, from the network header on.
pub trait Bytes {
    /// `N` bytes from `offset`, or nothing where the packet is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// How many bytes there are behind the network header's start.
    fn total(&self) -> u32;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn total(&self) -> u32 {
        <[u8]>::len(self) as u32
    }
}

/// What a packet is to the observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Segment,
    /// A UDP datagram.
    Datagram,
    /// A fragment behind the first: it names no port, so it is activity of the pod and no more.
    #[default]
    Fragment,
}

/// Headers of one packet. Ports and numbers in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// What it is; where it is a fragment, only the addresses count.
    pub kind: Kind,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// TCP: sequence number of the first payload byte, or of the SYN.
    pub sequence: u32,
    /// TCP: acknowledgement number.
    pub acknowledgement: u32,
    /// TCP: flags as in [`crate::tcp`].
    pub flags: u8,
    /// Where the payload starts, from the network header.
    pub payload_offset: u32,
    /// Payload bytes.
    pub payload: u32,
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// More extension headers than any stack sends; a packet with more is not parsed.
const MAX_EXTENSION_HEADERS: usize = 6;

/// `::ffff:a.b.c.d`
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

#[inline(always)]
fn be16(b: [u8; 2]) -> u16 {
    u16::from_be_bytes(b)
}

/// Parses a packet; `None` for anything but IPv4 and IPv6 with TCP or UDP, or where it is cut short.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B) -> Option<Packet> {
    let mut packet = Packet::default();
    parse_into(bytes, &mut packet).then_some(packet)
}

/// The same, to where the packet is to be: a copy of it would be a sixth of a program's stack. `false`: what is
/// there now means nothing.
#[inline(always)]
pub fn parse_into<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> bool {
    packet.kind = Kind::Fragment;
    (packet.source_port, packet.destination_port) = (0, 0);
    (packet.sequence, packet.acknowledgement, packet.flags) = (0, 0, 0);
    (packet.payload_offset, packet.payload) = (0, 0);
    let Some([first]) = bytes.load::<1>(0) else { return false };
    let parsed = match first >> 4 {
        4 => parse_v4(bytes, packet),
        6 => parse_v6(bytes, packet),
        _ => None,
    };
    parsed.is_some()
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let h = bytes.load::<20>(0)?;
    let header = u32::from(h[0] & 0x0f) * 4;
    if header < 20 {
        return None;
    }
    let total = match be16([h[2], h[3]]) {
        0 => bytes.total(),
        n => u32::from(n),
    };
    packet.source = mapped([h[12], h[13], h[14], h[15]]);
    packet.destination = mapped([h[16], h[17], h[18], h[19]]);
    if be16([h[6], h[7]]) & 0x1fff != 0 {
        return Some(());
    }
    transport(bytes, h[9], header, total, packet)
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Option<()> {
    let lengths = bytes.load::<4>(4)?;
    packet.source = bytes.load::<16>(8)?;
    packet.destination = bytes.load::<16>(24)?;
    let total = match be16([lengths[0], lengths[1]]) {
        0 => bytes.total(),
        n => 40 + u32::from(n),
    };
    let mut next = lengths[2];
    let mut offset = 40u32;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [n, len] = bytes.load::<2>(offset)?;
                next = n;
                offset += (u32::from(len) + 1) * 8;
            }
            AUTHENTICATION => {
                let [n, len] = bytes.load::<2>(offset)?;
                next = n;
                offset += (u32::from(len) + 2) * 4;
            }
            FRAGMENT => {
                let [n, _, hi, lo] = bytes.load::<4>(offset)?;
                if be16([hi, lo]) & 0xfff8 != 0 {
                    return Some(());
                }
                next = n;
                offset += 8;
            }
            _ => break,
        }
    }
    transport(bytes, next, offset, total, packet)
}

#[inline(always)]
fn transport<B: Bytes + ?Sized>(
    bytes: &B,
    protocol: u8,
    offset: u32,
    total: u32,
    packet: &mut Packet,
) -> Option<()> {
    match protocol {
        TCP => {
            let h = bytes.load::<14>(offset)?;
            let header = u32::from(h[12] >> 4) * 4;
            if header < 20 {
                return None;
            }
            packet.kind = Kind::Segment;
            packet.source_port = be16([h[0], h[1]]);
            packet.destination_port = be16([h[2], h[3]]);
            packet.sequence = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
            packet.acknowledgement = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
            packet.flags = h[13];
            packet.payload_offset = offset + header;
        }
        UDP => {
            let h = bytes.load::<8>(offset)?;
            packet.kind = Kind::Datagram;
            packet.source_port = be16([h[0], h[1]]);
            packet.destination_port = be16([h[2], h[3]]);
            packet.payload_offset = offset + 8;
        }
        _ => return None,
    }
    packet.payload = total.checked_sub(packet.payload_offset)?;
    Some(())
}
