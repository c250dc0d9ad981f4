//! Two witnesses, one connection: cookies, aliases, redirects, removals in any order.

use lastcall_ebpf::abi::{self, flag, protocol};

use super::fixtures::*;
use crate::{
    contract::{Contract, Until},
    ledger::{Completeness, Ledger},
    sockets::{Dump, Socket, TcpState},
};

const PROXY: u16 = 15006;

fn counts(ledger: &Ledger, when: f64) -> (usize, usize) {
    let view = ledger.auto(when);
    (view.open, view.in_flight)
}

#[test]
fn one_line_per_connection() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(7).on(HTTP).asks(1001.5);
    ledger.dumps(1001.6, &[socket(7, HTTP, 40_000)]);
    ledger.reads(1001.7, &[(key(HTTP, 40_000), c)]);
    let line = ledger.only(1001.7);
    assert_eq!((line.cookie, line.redirected_to), (Some(7), None));
    assert_eq!(line.peer.to_string(), "10.9.9.9:40000");
}

#[test]
fn an_entry_without_a_cookie_is_joined_by_its_tuple_then_by_the_peer() {
    let mut ledger = ledger();
    ledger.dumps(1001.6, &[socket(7, HTTP, 40_000), socket(8, PROXY, 40_001)]);
    ledger.reads(1001.7, &[(key(HTTP, 40_000), new(1001.0)), (key(HTTP, 40_001), new(1001.0))]);
    let lines = ledger.lines(at(1001.7), &Contract::default());
    assert_eq!(lines.iter().map(|l| l.cookie).collect::<Vec<_>>(), [Some(7), Some(8)]);
    assert_eq!(lines[1].redirected_to, Some(PROXY));
}

#[test]
fn a_redirected_connection_is_joined_by_cookie_and_not_thrown_away() {
    let mut ledger = ledger();
    let c = older(1001.0).cookie(7).on(PROXY).asks(1001.5);
    ledger.reads(1001.6, &[(key(HTTP, 40_000), c)]);
    let stale = ledger.dumps(1003.0, &[socket(7, PROXY, 40_000), listener(PROXY)]);
    assert_eq!(stale, [], "its socket is there, under another port");
    let line = ledger.only(1003.0);
    assert_eq!((line.local.port(), line.redirected_to, line.awaited), (HTTP, Some(PROXY), true));
}

#[test]
fn a_silent_connection_to_a_port_that_nobody_declared_counts_unless_idle() {
    let mut ledger = ledger();
    let idle = socket(7, PROXY, 40_000);
    let doubtful = Socket { info: Some(ages(4000, 5000, 4000)), ..socket(8, PROXY, 40_001) };
    ledger.dumps(1001.0, &[listener(PROXY), idle.clone(), doubtful]);
    ledger.reads(1001.1, &[]);
    assert_eq!(counts(&ledger, 1001.1), (1, 1));
    assert_eq!(ledger.lines(at(1001.1), &until(Until::Closed)).len(), 2);
    // Not listened on: the pod's own connection to somebody.
    ledger.dumps(1001.2, &[socket(9, 50_000, 443)]);
    assert_eq!(counts(&ledger, 1001.2), (0, 0));
}

#[test]
fn once_a_packet_shows_the_redirect_all_of_its_connections_are_the_wire_ports() {
    let mut ledger = ledger();
    let (silent, other) = (socket(7, PROXY, 40_000), socket(8, PROXY, 40_001));
    let sockets = [listener(PROXY), silent, other];
    ledger.dumps(1001.0, &sockets);
    ledger.reads(1001.1, &[]);
    assert_eq!(counts(&ledger, 1001.1), (0, 0));
    let sql = older(1001.2).cookie(8).on(PROXY).asks(1001.2).speaks(protocol::UNKNOWN);
    ledger.reads(1001.3, &[(key(SQL, 40_001), sql)]);
    assert_eq!(counts(&ledger, 1001.3), (2, 2), "the silent one may be SQL as well");
}

#[test]
fn a_proxy_connected_to_a_port_inside_the_pod_makes_its_silent_clients_count_like_that_ports() {
    let mut ledger = ledger();
    let app = between(90, ("127.0.0.1", SQL), ("127.0.0.6", 41_000));
    let proxy = between(91, ("127.0.0.6", 41_000), ("127.0.0.1", SQL));
    ledger.dumps(1001.0, &[listener(PROXY), socket(7, PROXY, 40_000), app, proxy]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.says(1001.1, &Contract::default()), ["!in flight (open, protocol unknown), inferred"]);
}

#[test]
fn not_counted() {
    let mut ledger = ledger();
    let state = |state, n: u64| Socket { state, info: None, ..socket(n, HTTP, n as u16) };
    let hairpin = between(20, ("10.0.0.2", HTTP), ("10.0.0.2", 50_000));
    let its_other_end = between(21, ("10.0.0.2", 50_000), ("10.0.0.2", HTTP));
    let sockets = [
        state(TcpState::SynReceived, 1),
        state(TcpState::NewSynReceived, 2),
        state(TcpState::TimeWait, 3),
        state(TcpState::Close, 4),
        between(10, ("127.0.0.1", HTTP), ("127.0.0.1", 50_000)),
        hairpin,
        its_other_end,
        socket(30, 50_001, 443),
        between(31, ("10.0.0.2", HTTP), ("10.0.0.1", 999)),
    ];
    let probe = abi::ProbeKey {
        local: key(HTTP, 1).local,
        peer: std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets(),
        local_port: HTTP,
        peer_port: 999,
    };
    ledger.probes([probe]);
    ledger.dumps(1001.0, &sockets);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.lines(at(1001.1), &until(Until::Closed)), []);
    // A client that is SNATed to the node's address is in the table, and counts, probe or not.
    let mut client = key(HTTP, 999);
    client.peer = probe.peer;
    ledger.reads(1001.2, &[(client, new(1001.15).asks(1001.15))]);
    assert_eq!(counts(&ledger, 1001.2), (1, 1));
}

#[test]
fn a_probe_of_a_redirected_port_is_known_by_its_peer() {
    let mut ledger = ledger();
    let probe = abi::ProbeKey {
        local: key(HTTP, 1).local,
        peer: key(HTTP, 1).peer,
        local_port: HTTP,
        peer_port: 999,
    };
    ledger.probes([probe]);
    let busy = |cookie, port| Socket { receive_queue: 9, ..socket(cookie, port, 999) };
    ledger.dumps(1001.0, &[listener(PROXY), busy(7, PROXY), busy(8, SQL)]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.only(1001.1).cookie, Some(8), "the same peer on another declared port is a client");
}

#[test]
fn ignored_sources_count_only_while_they_are_served() {
    let mut ledger = ledger();
    ledger.ignore(&["10.9.0.0/16".parse().expect("a network")]);
    let done = new(1001.0).asks(1002.0).answers(1002.1).acks(1002.2);
    ledger.reads(1002.3, &[(key(HTTP, 1), done), (key(HTTP, 2), new(1001.0).asks(1002.0))]);
    let view = ledger.auto(1002.3);
    assert_eq!((view.open, view.awaited), (2, 1));
    assert_eq!(ledger.view(at(1002.3), &until(Until::Closed)).awaited, 1);
}

#[test]
fn without_declared_ports_those_that_are_listened_on_count() {
    let mut ledger = Ledger::new(at(ATTACHED));
    ledger.dumps(1001.0, &[socket(7, HTTP, 40_000), socket(8, 50_000, 443)]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.only(1001.1).cookie, Some(7));
    // The app closes its listener first, as it should: its connections still count.
    let dump = Dump { sockets: vec![socket(7, HTTP, 40_000)], ..dump(1002.0, &[]) };
    ledger.dump(&dump);
    assert_eq!(ledger.only(1002.0).cookie, Some(7));
    // Ports become known in mid-drain.
    ledger.ports(&ports());
    assert_eq!(ledger.auto(1002.0).in_flight, 0, "http, and idle");
}

#[test]
fn a_dump_removes_only_what_was_silent_since_it_began() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(7).on(HTTP).asks(1002.0);
    let entry = (key(HTTP, 40_000), c);
    ledger.reads(1002.1, &[entry]);
    assert_eq!(ledger.dumps(1002.0, &[]), [], "a packet of the same time");
    assert_eq!(counts(&ledger, 1002.2), (1, 1));
    let stale = ledger.dumps(1002.3, &[]);
    assert_eq!(stale.len(), 1);
    assert_eq!((stale[0].key, stale[0].cookie, stale[0].last_packet), (entry.0, 7, c.last_packet));
    assert_eq!(counts(&ledger, 1002.3), (0, 0));
    assert_eq!(ledger.auto(1002.3).last_left, Some(at(1002.3)));
    // Not yet deleted in the kernel.
    ledger.reads(1002.4, &[entry]);
    assert_eq!(counts(&ledger, 1002.4), (0, 0));
    // It was there after all: a packet.
    ledger.reads(1002.6, &[(entry.0, c.packet(1002.5))]);
    assert_eq!(counts(&ledger, 1002.6), (1, 1));
}

#[test]
fn an_entry_without_a_cookie_stays_while_any_socket_has_its_peer() {
    let entry = (key(HTTP, 40_000), older(1001.0).asks(1001.0));
    for (socket, stays) in [
        (socket(7, PROXY, 40_000), true),
        (Socket { state: TcpState::SynReceived, ..socket(7, HTTP, 40_000) }, true),
        (Socket { state: TcpState::TimeWait, ..socket(7, HTTP, 40_000) }, false),
        (socket(7, HTTP, 40_001), false),
    ] {
        let mut ledger = ledger();
        ledger.reads(1001.1, &[entry]);
        assert_eq!(ledger.dumps(1002.0, std::slice::from_ref(&socket)).is_empty(), stays, "{socket:?}");
    }
}

#[test]
fn an_entry_without_a_cookie_stays_while_its_peers_only_socket_is_anothers() {
    let mut ledger = ledger();
    let named = (key(HTTP, 40_000), new(1001.0).cookie(7).on(PROXY).asks(1001.0));
    let nameless = (key(SQL, 40_000), older(1001.0).asks(1001.0).speaks(protocol::UNKNOWN));
    ledger.reads(1001.1, &[named, nameless]);
    assert_eq!(ledger.dumps(1002.0, &[socket(7, PROXY, 40_000)]), []);
    assert_eq!(counts(&ledger, 1002.0), (2, 2));
    assert_eq!(ledger.dumps(1003.0, &[]).len(), 2);
}

#[test]
fn the_same_tuple_under_another_cookie_is_no_proof_of_life() {
    let mut ledger = ledger();
    let done = new(1001.0).cookie(7).on(HTTP).asks(1001.0).answers(1001.1).acks(1001.2);
    ledger.reads(1003.0, &[(key(HTTP, 40_000), done)]);
    let stale = ledger.dumps(1004.0, &[socket(8, SQL, 40_000), socket(9, HTTP, 40_000)]);
    assert_eq!(stale.iter().map(|s| s.cookie).collect::<Vec<_>>(), [7]);
    let lines = ledger.lines(at(1004.0), &Contract::default());
    assert_eq!(lines.iter().map(|l| l.cookie).collect::<Vec<_>>(), [Some(8), Some(9)]);
}

#[test]
fn a_handshake_that_has_just_ended_is_not_disproved() {
    let mut ledger = ledger();
    ledger.reads(1001.0, &[(key(HTTP, 40_000), new(1000.999))]);
    assert_eq!(ledger.dumps(1001.001, &[]), []);
    assert_eq!(ledger.dumps(1001.1, &[]).len(), 1);
}

#[test]
fn an_older_dump_does_not_bring_back_what_the_kernel_removed() {
    let mut ledger = ledger();
    let busy = Socket { receive_queue: 9, ..socket(7, HTTP, 40_000) };
    ledger.reads(1002.0, &[(key(HTTP, 40_000), new(1001.0).cookie(7).on(HTTP).asks(1001.5))]);
    ledger.reads(1003.0, &[]);
    ledger.dumps(1002.5, std::slice::from_ref(&busy));
    assert_eq!(counts(&ledger, 1003.0), (0, 0));
    // The same port of the client, another connection.
    let other = Socket { cookie: 8, ..busy.clone() };
    ledger.dumps(1002.6, &[other]);
    assert_eq!(counts(&ledger, 1003.0), (1, 1));
    // A dump that began after the removal is the newer witness.
    ledger.dumps(1003.1, &[busy]);
    assert_eq!(counts(&ledger, 1003.1), (1, 1));
}

#[test]
fn an_older_dump_does_not_bring_back_an_entry_that_never_knew_its_cookie() {
    let mut ledger = ledger();
    ledger.reads(1002.0, &[(key(HTTP, 40_000), older(1001.0).asks(1001.5))]);
    ledger.reads(1003.0, &[]);
    ledger.dumps(1002.5, &[Socket { receive_queue: 9, ..socket(7, HTTP, 40_000) }]);
    assert_eq!(counts(&ledger, 1003.0), (0, 0));
}

#[test]
fn snapshots_that_arrive_late_or_twice_change_nothing() {
    let mut ledger = ledger();
    ledger.reads(1002.0, &[(key(HTTP, 40_000), new(1001.0).cookie(7).on(HTTP).asks(1001.5))]);
    ledger.dumps(1002.5, &[socket(7, HTTP, 40_000)]);
    let before = ledger.auto(1003.0);
    ledger.reads(1001.0, &[]);
    ledger.dumps(1002.4, &[]);
    ledger.dumps(1002.5, &[socket(7, HTTP, 40_000)]);
    assert_eq!(ledger.auto(1003.0), before);
}

#[test]
fn a_tuple_used_again_is_another_connection() {
    let mut ledger = ledger();
    let old = older(1001.0).cookie(7).on(HTTP).asks(1001.0);
    ledger.reads(1001.1, &[(key(HTTP, 40_000), old)]);
    ledger.dumps(1001.2, &[socket(7, HTTP, 40_000)]);
    // The old one goes silently; the new one's entry has its own cookie, and the old socket is no line.
    let young = new(1001.5).cookie(8).on(HTTP).asks(1001.6);
    ledger.reads(1001.7, &[(key(HTTP, 40_000), young)]);
    assert_eq!(ledger.only(1001.7).cookie, Some(8));
    assert_eq!(ledger.dumps(1001.8, &[socket(8, HTTP, 40_000)]), []);
    assert_eq!(counts(&ledger, 1001.8), (1, 1));
}

#[test]
fn an_interrupted_dump_proves_what_it_shows_and_nothing_else() {
    let mut ledger = ledger();
    let quiet = socket(8, HTTP, 40_001);
    let entry = (key(HTTP, 40_000), new(1001.0).cookie(7).on(HTTP).asks(1001.5));
    ledger.dumps(1001.6, &[socket(7, HTTP, 40_000), quiet]);
    ledger.reads(1001.7, &[entry, (key(HTTP, 40_003), new(1001.65))]);
    let part = Dump { interrupted: true, ..dump(1003.0, &[socket(9, HTTP, 40_002)]) };
    assert_eq!(ledger.dump(&part), []);
    let view = ledger.auto(1003.1);
    assert_eq!(view.open, 4, "the three that it does not show, and the one that it does");
    assert_eq!((view.dump_started, view.interrupted), (Some(at(1001.6)), Some(at(1003.0))));
    ledger.dumps(1004.0, &[]);
    assert_eq!((ledger.auto(1004.0).open, ledger.auto(1004.0).interrupted), (0, None));
}

#[test]
fn an_interrupted_dump_does_not_make_an_older_sample_young() {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[socket(7, HTTP, 40_000)]);
    let sent = older(1001.5).cookie(7).on(HTTP).sends(1001.5);
    ledger.dump(&Dump { interrupted: true, ..dump(1002.0, &[]) });
    ledger.reads(1002.1, &[(key(HTTP, 40_000), sent)]);
    let said = ledger.says(1002.1, &Contract::default());
    assert_eq!(said, ["!*in flight (data not acknowledged), seen"], "the empty queue is older than the data");
}

#[test]
fn what_is_missing_is_named() {
    let mut ledger = ledger();
    assert_eq!(ledger.auto(1001.0).completeness, Completeness::NeverRead);
    ledger.reads(1001.0, &[]);
    assert_eq!(ledger.auto(1001.0).completeness, Completeness::NeverDumped);
    ledger.dumps(999.0, &[]);
    assert_eq!(ledger.auto(1001.0).completeness, Completeness::DumpedBeforeAttach);
    ledger.dumps(1002.0, &[]);
    assert!(ledger.auto(1002.0).complete());
    ledger.table(at(1003.0), &[], &abi::Pod { refused: 3, ..abi::Pod::default() });
    assert_eq!(ledger.auto(1003.0).completeness, Completeness::Refused(3));
    ledger.unobserved();
    assert_eq!(ledger.auto(1003.0).completeness, Completeness::NeverRead);
}

#[test]
fn ipv6_and_mapped_ipv4_meet() {
    let mut ledger = ledger();
    let mut k = key(HTTP, 40_000);
    k.local = "fd00::2".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    k.peer = "fd00::9".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    ledger.dumps(
        1001.0,
        &[
            between(7, ("fd00::2", HTTP), ("fd00::9", 40_000)),
            between(8, ("::ffff:10.0.0.2", HTTP), ("::ffff:10.9.9.9", 40_001)),
        ],
    );
    ledger.reads(1001.1, &[(k, new(1000.5)), (key(HTTP, 40_001), new(1000.5).flags(flag::IN))]);
    let lines = ledger.lines(at(1001.1), &Contract::default());
    assert_eq!(lines.iter().map(|l| l.cookie).collect::<Vec<_>>(), [Some(8), Some(7)]);
}
