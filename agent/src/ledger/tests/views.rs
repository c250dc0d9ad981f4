//! What the policy asks beside the counts.

use lastcall_ebpf::abi::{self, flag, protocol};

use super::fixtures::*;
use crate::sockets::{Socket, TcpInfo};

fn pod(f: impl FnOnce(&mut abi::Pod)) -> abi::Pod {
    let mut pod = abi::Pod::default();
    f(&mut pod);
    pod
}

#[test]
fn the_kernel_says_who_is_new() {
    let mut ledger = ledger();
    ledger.reads(1001.0, &[]);
    assert_eq!(ledger.auto(1001.0).last_new, None);
    ledger.table(at(1002.0), &[], &pod(|p| p.last_new = at(1001.5).0));
    assert_eq!(ledger.auto(1002.0).last_new, Some(at(1001.5)));
}

#[test]
fn by_dumps_alone_a_new_cookie_that_has_asked_is_new() {
    let mut ledger = ledger();
    let old = Socket { info: Some(TcpInfo { bytes_received: 0, ..answered() }), ..socket(1, HTTP, 1) };
    let silent = Socket { info: old.info, ..socket(2, HTTP, 2) };
    ledger.dumps(1001.0, std::slice::from_ref(&old));
    ledger.dumps(1002.0, &[old.clone(), silent.clone()]);
    assert_eq!(ledger.auto(1002.0).last_new, None, "a load balancer's TCP check");
    ledger.dumps(1003.0, &[Socket { info: Some(answered()), ..old }, silent.clone()]);
    assert_eq!(ledger.auto(1003.0).last_new, None, "not new");
    ledger.dumps(1004.0, &[Socket { info: Some(answered()), ..silent }]);
    assert_eq!(ledger.auto(1004.0).last_new, Some(at(1004.0)));
}

#[test]
fn stillness_begins_with_the_end_of_the_dump_that_last_showed_movement() {
    let mut ledger = ledger();
    let s = socket(1, HTTP, 1);
    ledger.dumps(1001.0, std::slice::from_ref(&s));
    assert_eq!(ledger.auto(1001.0).still_since, Some(at(1001.0)));
    ledger.dumps(1002.0, std::slice::from_ref(&s));
    assert_eq!(ledger.auto(1002.0).still_since, Some(at(1001.0)));
    let more = TcpInfo { bytes_received: 501, ..answered() };
    ledger.dumps(1003.0, &[Socket { info: Some(more), ..s.clone() }]);
    assert_eq!(ledger.auto(1003.0).still_since, Some(at(1003.0)));
    ledger.dumps(1004.0, &[]);
    assert_eq!(ledger.auto(1004.0).still_since, Some(at(1003.0)), "to go is not to move");
    ledger.dumps(1005.0, &[s]);
    assert_eq!(ledger.auto(1005.0).still_since, Some(at(1005.0)), "to come is");
}

#[test]
fn health_checks_have_a_rate() {
    let mut ledger = ledger();
    ledger.table(at(1001.0), &[], &pod(|p| p.health_connections = 5));
    ledger.table(at(1001.5), &[], &pod(|p| p.health_connections = 9));
    assert!(ledger.auto(1001.5).health_per_second.abs() < 1e-9, "too short a time for a rate");
    ledger.table(at(1011.0), &[], &pod(|p| p.health_connections = 35));
    assert!((ledger.auto(1011.0).health_per_second - 3.0).abs() < 1e-9);
}

#[test]
fn a_closed_loop_has_finished_an_exchange_and_started_another() {
    let one = new(1001.0).asks(1002.0).answers(1002.1).acks(1002.2);
    let another = one.asks(1002.9);
    let tls = |exchanges| abi::Connection { exchanges, ..another };
    let rows = [
        ("the first request", new(1001.0).asks(1002.5), false),
        ("one exchange, silent for now", abi::Connection { last_out: at(1002.9).0, ..one }, false),
        ("and another", another.speaks(protocol::HTTP1), true),
        ("two", another.answers(1002.95).acks(1002.96).speaks(protocol::HTTP1), true),
        ("a TLS handshake is none", tls(3), false),
        ("behind one", tls(4), true),
        ("an unknown protocol", another.flags(flag::UPGRADED), false),
        ("HTTP/2, always at work", another.speaks(protocol::HTTP2), false),
    ];
    for (name, c, expected) in rows {
        let mut ledger = ledger();
        ledger.reads(1003.0, &[(key(HTTP, 1), c)]);
        let view = ledger.auto(1003.0);
        assert_eq!((view.awaited, view.closed_loop), (1, expected), "{name}");
    }
}

#[test]
fn exchanges_before_the_drain_do_not_make_a_loop() {
    let mut ledger = ledger();
    let busy = abi::Connection { exchanges: 900, ..older(999.0) };
    ledger.reads(1003.0, &[(key(HTTP, 1), busy.asks(1002.9))]);
    assert!(!ledger.auto(1003.0).closed_loop);
    let busy = abi::Connection { exchanges: 901, ..busy };
    ledger.reads(1004.0, &[(key(HTTP, 1), busy.asks(1003.9))]);
    assert!(ledger.auto(1004.0).closed_loop);
}

#[test]
fn http2_loops_when_it_was_at_rest_in_between() {
    let mut ledger = ledger();
    let h2 = new(1001.0).flags(flag::H2_FOLLOWED).speaks(protocol::HTTP2);
    let busy = |exchanges| abi::Connection { exchanges, streams: 1, ..h2.asks(1003.0) };
    ledger.reads(1003.0, &[(key(HTTP, 1), busy(5))]);
    ledger.reads(1003.1, &[(key(HTTP, 1), busy(6))]);
    assert!(!ledger.auto(1003.1).closed_loop, "the messages of one stream");
    ledger.reads(1003.2, &[(key(HTTP, 1), abi::Connection { streams: 0, ..busy(7) })]);
    ledger.reads(1003.3, &[(key(HTTP, 1), busy(7))]);
    assert!(ledger.auto(1003.3).closed_loop);
}

#[test]
fn one_that_does_not_loop_is_enough() {
    let mut ledger = ledger();
    let looping = new(1001.0).asks(1002.0).answers(1002.1).asks(1002.9).speaks(protocol::HTTP1);
    let long = new(1001.0).asks(1002.0);
    ledger.reads(1003.0, &[(key(HTTP, 1), looping), (key(HTTP, 2), long)]);
    assert!(!ledger.auto(1003.0).closed_loop);
    ledger.reads(1003.1, &[(key(HTTP, 1), looping)]);
    let view = ledger.auto(1003.1);
    assert_eq!((view.closed_loop, view.last_left), (true, Some(at(1003.1))));
}

#[test]
fn lost_edges_and_passing_packets_are_noticed() {
    let mut ledger = ledger();
    ledger.table(at(1001.0), &[], &pod(|p| p.packets_in = 5));
    ledger.table(at(1002.0), &[], &pod(|p| p.packets_in = 5));
    assert_eq!(ledger.auto(1002.0).stirred_at, at(1001.0));
    ledger.table(at(1003.0), &[], &pod(|p| (p.packets_in, p.edges_lost) = (6, 1)));
    let view = ledger.auto(1003.0);
    assert_eq!((view.stirred_at, view.changed_at), (at(1003.0), at(1003.0)));
    ledger.table(at(1004.0), &[], &pod(|p| (p.packets_in, p.edges_lost) = (6, 1)));
    assert_eq!(ledger.auto(1004.0).changed_at, at(1003.0));
}
