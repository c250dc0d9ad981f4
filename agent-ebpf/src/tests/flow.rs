//! Headers.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use crate::{
    abi::Address,
    flow::{Kind, Packet, mapped, parse},
};

const V4: [[u8; 4]; 2] = [[192, 0, 2, 7], [10, 1, 0, 9]];
const V6: [Address; 2] = [[0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], [0xfd; 16]];

/// A TCP header with so many words of options, and a payload.
fn segment(options: u8, payload: usize) -> Vec<u8> {
    let mut b =
        vec![0x9c, 0x40, 0x1f, 0x90, 0, 0, 1, 0, 0xff, 0, 0, 1, (5 + options) << 4, 0x11, 0, 9, 0, 0, 0, 0];
    b.resize(b.len() + usize::from(options) * 4, 1);
    b.resize(b.len() + payload, b'x');
    b
}

fn v4(protocol: u8, options: u8, carried: &[u8]) -> Vec<u8> {
    let header = 20 + usize::from(options) * 4;
    let total = ((header + carried.len()) as u16).to_be_bytes();
    let mut b = vec![0x45 + options, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    b.extend(V4.concat());
    b.resize(header, 1);
    b.extend(carried);
    b
}

fn v6(next: u8, carried: &[u8]) -> Vec<u8> {
    let length = (carried.len() as u16).to_be_bytes();
    let mut b = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    b.extend(V6.concat());
    b.extend(carried);
    b
}

/// An extension header of eight bytes, before what it is followed by.
fn extension(next: u8, then: &[u8]) -> Vec<u8> {
    let mut b = vec![next, 0, 0, 0, 0, 0, 0, 0];
    b.extend(then);
    b
}

fn parsed(bytes: &[u8]) -> Packet {
    parse(bytes).expect("a packet")
}

#[test]
fn a_segment_with_and_without_options() {
    for (options, tcp_options, payload) in [(0, 0, 0), (0, 8, 7), (1, 0, 7), (10, 10, 100)] {
        let p = parsed(&v4(6, options, &segment(tcp_options, payload)));
        assert_eq!((p.kind, p.source, p.destination), (Kind::Segment, mapped(V4[0]), mapped(V4[1])));
        assert_eq!((p.source_port, p.destination_port), (40_000, 8080));
        assert_eq!((p.sequence, p.acknowledgement, p.flags), (256, 0xff00_0001, 0x11));
        let header = 40 + 4 * (u32::from(options) + u32::from(tcp_options));
        assert_eq!((p.payload_offset, p.payload), (header, payload as u32));
    }
}

#[test]
fn a_datagram() {
    let p = parsed(&v4(17, 0, &[0, 53, 0x10, 0, 0, 12, 0, 0, 1, 2, 3, 4]));
    assert_eq!((p.kind, p.source_port, p.destination_port, p.payload), (Kind::Datagram, 53, 4096, 4));
    let p = parsed(&v6(17, &[0, 53, 0x10, 0, 0, 8, 0, 0]));
    assert_eq!((p.kind, p.payload_offset, p.payload), (Kind::Datagram, 48, 0));
}

#[test]
fn padding_is_no_payload_and_without_a_length_the_frame_counts() {
    for mut packet in [v4(6, 0, &segment(0, 3)), v6(6, &segment(0, 3))] {
        packet.extend([0; 6]);
        assert_eq!(parsed(&packet).payload, 3);
        let length = if packet[0] >> 4 == 4 { 2..4 } else { 4..6 };
        packet[length].fill(0);
        assert_eq!(parsed(&packet).payload, 9);
    }
    let mut big = v6(6, &segment(0, 100_000));
    big[4..6].fill(0);
    assert_eq!(parsed(&big).payload, 100_000);
}

#[test]
fn a_length_that_ends_within_the_headers_is_no_packet() {
    for (i, at) in [(0, 3), (1, 5)] {
        let mut packet = [v4(6, 0, &segment(0, 3)), v6(6, &segment(0, 3))][i].clone();
        packet[at] -= 4;
        assert_eq!(parse(&packet[..]), None);
        packet[at] += 1;
        assert_eq!(parsed(&packet).payload, 0);
    }
}

#[test]
fn the_first_fragment_is_a_segment_and_later_ones_are_nobodys() {
    let mut first = v4(6, 0, &segment(0, 3));
    first[6] = 0x20;
    assert_eq!((parsed(&first).kind, parsed(&first).payload), (Kind::Segment, 3));
    for (offset, at) in [([0x20, 1], 6), ([0x01, 0], 6), ([0x1f, 0xff], 6)] {
        let mut later = v4(6, 0, &segment(0, 3));
        later[at..at + 2].copy_from_slice(&offset);
        let p = parsed(&later);
        assert_eq!((p.kind, p.source, p.source_port, p.payload), (Kind::Fragment, mapped(V4[0]), 0, 0));
    }
    // More fragments, the second reserved bit, then an offset of 8.
    for (low, kind) in [(1, Kind::Segment), (6, Kind::Segment), (8, Kind::Fragment)] {
        let mut header = extension(6, &segment(0, 3));
        header[3] = low;
        assert_eq!(parsed(&v6(44, &header)).kind, kind, "{low}");
    }
}

#[test]
fn extension_headers_are_passed_over() {
    let tcp = segment(0, 3);
    let authenticated = [&[6, 4][..], &[0; 22], &tcp].concat();
    let long = [&[6, 2][..], &[0; 22], &tcp].concat();
    for (kind, carried, offset) in [
        (0, extension(6, &tcp), 48),
        (43, extension(6, &tcp), 48),
        (60, extension(6, &tcp), 48),
        (44, extension(6, &tcp), 48),
        (51, authenticated, 64),
        (60, long, 64),
        (0, extension(43, &extension(44, &extension(60, &extension(6, &tcp)))), 72),
    ] {
        let p = parsed(&v6(kind, &carried));
        assert_eq!((p.kind, p.destination_port, p.payload), (Kind::Segment, 8080, 3), "{kind}");
        assert_eq!((p.payload_offset, p.destination), (offset + 20, V6[1]), "{kind}");
    }
    let chain = |n| (1..n).fold(extension(6, &tcp), |inner, _| extension(60, &inner));
    assert_eq!(parsed(&v6(60, &chain(6))).payload, 3);
    assert_eq!(parse(&v6(60, &chain(7))[..]), None);
    for other in [1, 41, 50, 58, 59, 132, 135] {
        assert_eq!(parse(&v6(other, &tcp)[..]), None, "{other}");
    }
}

#[test]
fn nothing_else_is_a_packet() {
    for (at, byte) in [(0, 0x44), (0, 0x55), (0, 0), (9, 1), (32, 0x40)] {
        let mut packet = v4(6, 0, &segment(0, 3));
        packet[at] = byte;
        assert_eq!(parse(&packet[..]), None, "{byte:#x} at {at}");
    }
    assert_eq!(parse(&[][..]), None);
}

proptest! {
    /// Whatever is cut off: the same packet, a later fragment's addresses, or nothing.
    #[test]
    fn what_is_cut_short_is_not_taken_for_something_else(
        six: bool, options in 0..10u8, chain in 0..5usize, payload in 0..50usize, cut in 0..300usize,
    ) {
        let tcp = segment(options, payload);
        let whole = if six {
            let carried = (0..chain).fold((6, tcp), |(next, inner), i| ([60, 0, 43, 44][i % 4], extension(next, &inner)));
            v6(carried.0, &carried.1)
        } else {
            v4(6, options, &tcp)
        };
        let cut = cut.min(whole.len());
        let expected = parsed(&whole);
        match parse(&whole[..cut]) {
            None => prop_assert!(cut < whole.len() - payload),
            Some(p) => prop_assert_eq!(p, expected),
        }
    }

    /// Any bytes: no panic, and the payload never begins before the headers' end.
    #[test]
    fn any_bytes_are_a_packet_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..120), six: bool) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x40 | *first & 0xf };
        }
        if let Some(p) = parse(&bytes[..]) && p.kind != Kind::Fragment {
            let least = if six { 48 } else { 28 };
            prop_assert!(p.payload_offset >= least);
            prop_assert!(p.payload <= u32::from(u16::MAX) + 40);
        }
    }
}
