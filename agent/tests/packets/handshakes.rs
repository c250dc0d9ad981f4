//! When an entry is made and when it goes.

use std::net::{SocketAddr, TcpStream};

use aya::maps::{HashMap, Map, MapData};
use lastcall_agent::kernel::observer::{Direction, address};
use lastcall_ebpf::abi::{Pod, ProbeKey, edge, names, protocol};

use crate::{
    bench::{HTTP, SQL, STRANGER, UNCOUNTED, bench, bench_of},
    talk::*,
    wire::{ACK, RST, SYN},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn an_entry_is_made_by_the_ack_that_completes_a_handshake() {
    bench(|bench| {
        let mut talk = Talk::with(bench, HTTP);
        talk.table(&[(Syn, "-"), (SynAck, "-"), (AckIn, "http"), (In(GET), "http1 waiting")]);
        let counters = talk.bench().counters();
        assert_eq!((counters.open, counters.new_connections, counters.refused), (1, 1, 0));
        assert_eq!((counters.packets_in, counters.packets_out), (3, 1));
    });
    bench(|bench| {
        let mut talk = Talk::with6(bench, HTTP);
        talk.table(&[(Syn, "-"), (SynAck, "-"), (AckIn, "http"), (In(GET), "http1 waiting")]);
    });
}

#[test]
fn payload_may_come_with_that_ack_and_nothing_else_will_do() {
    bench(|bench| {
        let mut talk = Talk::with(bench, HTTP);
        talk.table(&[(Syn, "-"), (In(GET), "-"), (RstIn, "-"), (FinIn, "-")]);
        // An ACK of another number than the pod's: a cookie nobody has given.
        talk.take(SynAck);
        let (peers, pods) = (talk.peers, talk.pods);
        for wrong in [pods.wrapping_sub(1), pods.wrapping_add(1), 0] {
            talk.segment(Direction::In, ACK, peers, wrong, GET);
            assert_eq!(talk.known(), "-", "acknowledging {wrong}");
        }
        talk.segment(Direction::In, RST | ACK, peers, pods, b"");
        talk.segment(Direction::In, SYN | ACK, peers, pods, b"");
        talk.segment(Direction::In, 0, peers, pods, GET);
        assert_eq!(talk.known(), "-");
        talk.table(&[(In(GET), "http1 waiting")]);
    });
}

#[test]
fn who_does_not_count_is_not_in_the_table() {
    let peer: SocketAddr = "192.0.2.7:40000".parse().expect("an address");
    bench(|bench| {
        let mut talk = Talk::with(bench, UNCOUNTED);
        talk.shake();
        talk.table(&[(In(GET), "-")]);
        let mut talk = Talk::between(bench, format!("{STRANGER}:{HTTP}").parse().expect("an address"), peer);
        talk.shake();
        talk.table(&[(In(GET), "-"), (Out(b"x"), "-"), (RstOut, "-")]);
        let counters = bench.counters();
        assert_eq!(counters.packets_in, 3, "the stranger's packets are nobody's");
        assert_eq!(Pod { packets_in: 0, packets_out: 0, began: 0, ..counters }, Pod::default());
    });
}

#[test]
fn a_connection_of_the_kubelet_is_no_clients() {
    bench_of(64, |bench| {
        let map = MapData::from_pin(bench.pins.join(names::PROBES)).expect("the pinned map");
        let mut probes: HashMap<_, ProbeKey, u64> = Map::LruHashMap(map).try_into().expect("a hash");
        let mut talk = Talk::with(bench, HTTP);
        let key = ProbeKey {
            local: address(talk.local.ip()),
            peer: address(talk.peer.ip()),
            local_port: talk.local.port(),
            peer_port: talk.peer.port(),
        };
        probes.insert(key, 0, 0).expect("note a probe");
        talk.table(&[(Syn, "-"), (SynAck, "-"), (AckIn, "-"), (In(GET), "-"), (Out(b"x"), "-")]);
        assert!(bench.observer.probe(&key).is_some());
        let mut other = Talk::with(bench, HTTP);
        other.peer.set_port(40_001);
        other.shake();
        assert_eq!(other.known(), "http");
    });
}

#[test]
fn a_full_table_refuses_and_says_so() {
    bench_of(2, |bench| {
        for port in 1..=5 {
            let mut talk = Talk::with(bench, HTTP);
            talk.peer.set_port(port);
            talk.shake();
            talk.take(In(GET));
        }
        let counters = bench.counters();
        assert_eq!((counters.open, bench.table().len()), (2, 2));
        assert_eq!(counters.refused, 3);
    });
}

#[test]
fn a_syn_ack_that_is_sent_again_changes_nothing() {
    bench(|bench| {
        let mut talk = Talk::open(bench, HTTP);
        let first = talk.entry();
        let (peers, pods) = (talk.peers, talk.pods);
        talk.table(&[(In(GET), "http1 waiting")]);
        talk.segment(Direction::Out, SYN | ACK, pods.wrapping_sub(1), peers, b"");
        assert_eq!(talk.known(), "http1 waiting");
        assert_eq!(talk.entry().map(|c| c.first_seen), first.map(|c| c.first_seen));
        // Another number is another connection, whose handshake is not complete.
        talk.segment(Direction::Out, SYN | ACK, pods.wrapping_add(5000), peers, b"");
        assert_eq!(talk.known(), "-");
        assert_eq!(bench.counters().open, 0);
    });
}

#[test]
fn data_with_the_syn_is_a_request_if_the_pod_takes_it() {
    for (taken, expected) in [(0, "http"), (GET.len() as u32, "http waiting")] {
        bench(|bench| {
            let talk = Talk::with(bench, HTTP);
            let (peers, pods) = (talk.peers, talk.pods);
            talk.segment(Direction::In, SYN, peers, 0, GET);
            talk.segment(Direction::Out, SYN | ACK, pods, peers + 1 + taken, b"");
            assert_eq!(talk.known(), "-");
            talk.segment(Direction::In, ACK, peers + 1 + taken, pods.wrapping_add(1), b"");
            assert_eq!(talk.known(), expected);
        });
    }
}

#[test]
fn a_connection_older_than_the_attach_is_found_by_its_socket() {
    bench(|bench| {
        let listener = bench.older(protocol::UNKNOWN);
        let local = listener.local_addr().expect("an address");
        let client = TcpStream::connect(local).expect("connect");
        let peer = client.local_addr().expect("an address");
        let mut talk = Talk::between(bench, local, peer);
        talk.table(&[(AckIn, "-"), (In(b"SELECT 1"), "? waiting")]);
        let leaves = TcpStream::connect(local).expect("connect");
        let mut leaving = Talk::between(bench, local, leaves.local_addr().expect("an address"));
        leaving.table(&[(AckIn, "-"), (FinIn, "-")]);
        let mut nobody = Talk::between(bench, local, "127.0.0.1:1".parse().expect("an address"));
        nobody.table(&[(In(b"SELECT 1"), "-")]);
        drop((client, listener));
    });
}

#[test]
fn the_last_close_says_that_nothing_is_open() {
    bench(|bench| {
        let mut a = Talk::open(bench, HTTP);
        a.peer.set_port(40_001);
        (a.peers, a.pods) = (1000, 5000);
        a.shake();
        let mut b = Talk::with(bench, HTTP);
        (b.peers, b.pods) = (1001, u32::MAX - 19);
        assert_eq!(b.known(), "http");
        b.table(&[
            (FinIn, "http fin-in"),
            (AckOut, "http fin-in"),
            (FinOut, "http fin-in fin-out"),
            (AckIn, "-"),
        ]);
        assert_eq!((bench.edges(), bench.counters().open), (vec![], 1), "not armed, and one is left");
        let mut a = Talk::with(bench, HTTP);
        a.peer.set_port(40_001);
        (a.peers, a.pods) = (1001, 5001);
        a.table(&[
            (FinOut, "http fin-out"),
            (AckIn, "http fin-out"),
            (FinIn, "http fin-in fin-out"),
            (AckOut, "-"),
        ]);
        assert_eq!((bench.edges(), bench.counters().open), (vec![edge::NOTHING_OPEN], 0));
        assert_eq!(bench.counters().cut, 0);
    });
}

#[test]
fn an_armed_pod_tells_one_removal_and_one_reset() {
    bench(|bench| {
        for port in 1..=4 {
            let mut talk = Talk::with(bench, HTTP);
            talk.peer.set_port(port);
            talk.shake();
        }
        let one = |bench: &mut crate::bench::Bench, port: u16, step: Step<'_>| {
            let mut talk = Talk::with(bench, HTTP);
            talk.peer.set_port(port);
            (talk.peers, talk.pods) = (1001, u32::MAX - 19);
            talk.take(step);
        };
        one(bench, 1, RstIn);
        assert!(bench.edges().is_empty(), "not armed");
        let pod = bench.pod;
        bench.observer.arm(pod).expect("arm");
        one(bench, 2, RstIn);
        one(bench, 2, RstIn);
        assert_eq!(bench.edges(), [edge::LOOK], "one, and nothing is removed by it");
        assert_eq!(bench.counters().open, 4);
        bench.observer.arm(pod).expect("arm");
        one(bench, 2, RstOut);
        one(bench, 3, RstOut);
        assert_eq!(bench.edges(), [edge::REMOVED]);
        one(bench, 1, RstOut);
        assert!(bench.edges().is_empty());
        one(bench, 4, RstOut);
        assert_eq!(bench.edges(), [edge::NOTHING_OPEN], "whether armed or not");
        assert_eq!(bench.counters().open, 0);
    });
}

#[test]
fn a_stale_reading_removes_nothing() {
    bench(|bench| {
        let mut talk = Talk::open(bench, SQL);
        let (local, peer) = (talk.local, talk.peer);
        talk.take(In(b"BEGIN"));
        let (key, old) = talk.bench().entry(local, peer).expect("an entry");
        talk.take(AckIn);
        assert!(!talk.bench().observer.remove_stale(key, &old).expect("ask"), "it has moved since");
        assert_eq!(talk.bench().counters().open, 1);
        let (key, now) = talk.bench().entry(local, peer).expect("an entry");
        assert!(talk.bench().observer.remove_stale(key, &now).expect("ask"));
        assert!(!talk.bench().observer.remove_stale(key, &now).expect("ask"), "twice");
        assert_eq!((talk.bench().counters().open, talk.known()), (0, "-".to_owned()));
        assert_eq!(talk.bench().edges(), [edge::NOTHING_OPEN]);
    });
}

#[test]
fn a_forgotten_pod_leaves_nothing_behind() {
    bench(|bench| {
        let mut talk = Talk::open(bench, HTTP);
        talk.take(In(GET));
        let pod = bench.pod;
        bench.observer.forget(pod);
        assert_eq!(bench.table().len(), 0);
        assert!(bench.observer.pod(pod).is_err());
        let mut talk = Talk::with(bench, HTTP);
        talk.shake();
        talk.table(&[(In(GET), "-")]);
    });
}
