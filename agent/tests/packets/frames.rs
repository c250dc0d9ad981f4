//! What else is on a link: fragments, extension headers, padding, datagrams, and what is no IP at all.

use std::net::SocketAddr;

use lastcall_agent::kernel::observer::Direction;
use lastcall_ebpf::abi::{Pod, flag};

use crate::{
    bench::{Bench, DNS, HTTP, POD, POD6, bench, bench_of},
    talk::*,
    wire::{ACK, Segment, datagram, ethernet, ip, link},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// What is known after a request in a packet that was `changed`.
fn request(bench: &mut Bench, local: &str, changed: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut talk = if local == POD6 { Talk::with6(bench, HTTP) } else { Talk::with(bench, HTTP) };
    // A port of its own, by what the pod has seen.
    let port = talk.bench().counters().packets_in as u16 + 1;
    talk.peer.set_port(port);
    talk.shake();
    let (sequence, acknowledgement) = (talk.peers, talk.pods);
    let (from, to) = (talk.peer, talk.local);
    let segment = Segment { from, to, sequence, acknowledgement, flags: ACK, payload: GET };
    let mut packet = ip(from.ip(), to.ip(), 6, &segment.bytes());
    changed(&mut packet);
    talk.bench().show(Direction::In, &ethernet(packet));
    format!("{}, {} bytes", talk.known(), talk.entry().map_or(0, |c| c.bytes_in))
}

const FOUND: &str = "http1 waiting, 27 bytes";

#[test]
fn a_request_in_ipv4() {
    bench(|bench| {
        let four = |bench: &mut Bench, changed: fn(&mut Vec<u8>)| request(bench, POD, changed);
        assert_eq!(four(bench, |_| {}), FOUND);
        let options = |p: &mut Vec<u8>| {
            (p[0], p[3]) = (0x47, p[3] + 8);
            p.splice(20..20, [1; 8]);
        };
        assert_eq!(four(bench, options), FOUND);
        assert_eq!(four(bench, |p| p.extend([0; 18])), FOUND, "padding");
        assert_eq!(four(bench, |p| p[2..4].fill(0)), FOUND, "BIG TCP: the frame says how long");
        assert_eq!(four(bench, |p| p[6] = 0x20), FOUND, "the first fragment");
        let nothing = "http, 0 bytes";
        assert_eq!(four(bench, |p| p[7] = 1), nothing, "a later fragment");
        assert_eq!(four(bench, |p| p[0] = 0x44), nothing, "a header that is too short");
        assert_eq!(four(bench, |p| p[9] = 50), nothing, "ESP");
        assert_eq!(four(bench, |p| p[32] = 4 << 4), nothing, "a TCP header that is too short");
        assert_eq!(four(bench, |p| p.truncate(30)), nothing, "cut off");
        assert_eq!(four(bench, |p| p[3] = 51), nothing, "shorter than its headers");
        assert_eq!(four(bench, |p| p.truncate(60)), "http waiting, 27 bytes", "cut off within the payload");
    });
}

#[test]
fn a_request_in_ipv6() {
    fn with(p: &mut Vec<u8>, kind: u8, header: &[u8]) {
        let mut header = header.to_vec();
        header[0] = p[6];
        p[6] = kind;
        p[5] += header.len() as u8;
        p.splice(40..40, header);
    }
    const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    bench(|bench| {
        let six = |bench: &mut Bench, changed: fn(&mut Vec<u8>)| request(bench, POD6, changed);
        assert_eq!(six(bench, |_| {}), FOUND);
        for kind in [0, 43, 60] {
            assert_eq!(request(bench, POD6, |p| with(p, kind, &OPTIONS)), FOUND, "header {kind}");
            let long = [&[0, 1][..], &[0; 14]].concat();
            assert_eq!(request(bench, POD6, |p| with(p, kind, &long)), FOUND, "header {kind}, 16 bytes");
        }
        assert_eq!(six(bench, |p| with(p, 51, &[&[0, 4][..], &[0; 22]].concat())), FOUND, "authentication");
        assert_eq!(six(bench, |p| with(p, 44, &[0, 0, 0, 1, 0, 0, 0, 9])), FOUND, "the first fragment");
        let nothing = "http, 0 bytes";
        assert_eq!(six(bench, |p| with(p, 44, &[0, 0, 0, 8, 0, 0, 0, 9])), nothing, "a later fragment");
        let chain = |n| move |p: &mut Vec<u8>| (0..n).for_each(|_| with(p, 60, &OPTIONS));
        assert_eq!(request(bench, POD6, chain(6)), FOUND);
        assert_eq!(request(bench, POD6, chain(7)), nothing, "more headers than any stack sends");
        assert_eq!(six(bench, |p| p[4..6].fill(0)), FOUND, "BIG TCP");
        assert_eq!(six(bench, |p| p.extend([0; 9])), FOUND, "padding");
        assert_eq!(six(bench, |p| p[6] = 59), nothing, "no next header");
    });
}

#[test]
fn padding_is_no_payload() {
    bench(|bench| {
        let mut talk = Talk::open(bench, HTTP);
        let (from, to, sequence, acknowledgement) = (talk.peer, talk.local, talk.peers, talk.pods);
        let mut packet = ip(
            from.ip(),
            to.ip(),
            6,
            &Segment { from, to, sequence, acknowledgement, flags: ACK, payload: b"" }.bytes(),
        );
        packet.extend(b"\0\0\0\0\0\0");
        talk.bench().show(Direction::In, &ethernet(packet));
        assert_eq!(talk.known(), "http");
        assert_eq!(talk.bench().counters().last_payload, 0);
    });
}

#[test]
fn fragments_without_ports_are_activity_of_the_pod() {
    bench(|bench| {
        for direction in [Direction::In, Direction::Out] {
            let before = bench.counters().last_payload;
            let (local, peer) = (POD.parse().expect("an address"), "192.0.2.7".parse().expect("an address"));
            let (from, to) = if direction == Direction::In { (peer, local) } else { (local, peer) };
            let mut packet = ip(from, to, 17, &[0; 64]);
            packet[7] = 185;
            bench.show(direction, &ethernet(packet));
            assert!(bench.counters().last_payload > before);
        }
        assert!(bench.table().is_empty());
    });
}

#[test]
fn what_is_no_ip_passes_and_counts_nothing() {
    bench(|bench| {
        let (local, peer): (SocketAddr, SocketAddr) = (
            format!("{POD}:{HTTP}").parse().expect("an address"),
            "192.0.2.7:1".parse().expect("an address"),
        );
        let segment =
            Segment { from: peer, to: local, sequence: 1, acknowledgement: 1, flags: ACK, payload: GET };
        let packet = ip(peer.ip(), local.ip(), 6, &segment.bytes());
        for direction in [Direction::In, Direction::Out] {
            bench.show(direction, &link([0x08, 0x06], vec![0; 28]));
            bench.show(direction, &link([0x88, 0xcc], vec![0x45; 60]));
            // A tag that no driver has taken off: the packet behind it is the VLAN device's.
            bench.show(direction, &link([0x81, 0x00], [&[0, 7, 8, 0][..], &packet].concat()));
        }
        for length in 20..packet.len() {
            bench.show(Direction::In, &link([0x08, 0x00], packet[..length].to_vec()));
        }
        assert!(bench.table().is_empty());
        let counters = bench.counters();
        assert_eq!(Pod { packets_in: 0, began: 0, ..counters }, Pod::default());
    });
}

#[test]
fn a_udp_flow_begins_with_what_comes_in() {
    let local: SocketAddr = format!("{POD}:{DNS}").parse().expect("an address");
    let peer: SocketAddr = "192.0.2.7:40000".parse().expect("an address");
    bench(|bench| {
        bench.show(Direction::Out, &datagram(local, peer, b"unasked"));
        assert!(bench.table().is_empty());
        bench.show(Direction::In, &datagram(peer, local, b"query"));
        bench.show(Direction::In, &datagram(peer, SocketAddr::new(local.ip(), HTTP), b"not a port of UDP"));
        let (_, c) = bench.entry(local, peer).expect("a flow");
        assert_eq!((c.flags, c.bytes_in, c.last_out), (flag::IN, 5, 0));
        assert_eq!((c.last_in, c.first_seen), (bench.counters().last_datagram, c.last_packet));
        bench.show(Direction::Out, &datagram(local, peer, b"answer!"));
        let (key, c) = bench.entry(local, peer).expect("a flow");
        assert_eq!((c.flags, c.bytes_out), (flag::IN | flag::OUT, 7));
        assert!(c.last_out > c.last_in && bench.counters().last_payload == c.last_out);
        assert_eq!((bench.counters().flows, bench.counters().open), (1, 0));
        assert!(bench.observer.remove_stale(key, &c).expect("ask"));
        assert_eq!((bench.counters().flows, bench.table().len()), (0, 0));
        assert!(bench.edges().is_empty(), "the agent's own doing");
    });
    bench_of(1, |bench| {
        for port in 1..=3 {
            bench.show(Direction::In, &datagram(SocketAddr::new(peer.ip(), port), local, b"query"));
        }
        assert_eq!((bench.counters().flows, bench.counters().refused), (1, 2));
    });
}
