//! The last call, as the ledger sees it.

use lastcall_ebpf::abi::{self, Connection, FlowKey, flag, protocol};

use super::fixtures::{Asked, HTTP, Packets, SQL, at, key, ledger, older};
use crate::{
    contract::{Audience, Contract},
    ledger::{Call, Ledger, View},
    moment::Moment,
};

/// A client that was asking when the drain began, and has asked again and again since.
fn busy(exchanges: u32, last: f64) -> Connection {
    let c = older(1001.0).asks(last - 0.1).answers(last).acks(last).asks(last + 0.01);
    Connection { exchanges, ..c.flags(flag::BOUNDARY).speaks(protocol::HTTP1) }
}

fn told(c: Connection, when: f64) -> Connection {
    Connection { told_at: at(when).0, ..c }
}

fn calling(audience: Audience) -> Ledger {
    let mut ledger = ledger();
    ledger.tell(audience);
    ledger
}

fn reads_with_new(ledger: &mut Ledger, when: f64, last_new: f64, entries: &[(FlowKey, Connection)]) {
    ledger.table(at(when), entries, &abi::Pod { last_new: at(last_new).0, ..abi::Pod::default() });
}

#[test]
fn whose_clients_are_told_is_shown() {
    let entries = [
        (key(HTTP, 1), busy(0, 1002.0)),
        (key(HTTP, 2), told(busy(1, 1002.0), 1001.9)),
        (key(SQL, 3), older(1001.0).asks(1001.5).speaks(protocol::UNKNOWN)),
    ];
    let calls = |audience| {
        let mut ledger = calling(audience);
        ledger.reads(1002.1, &entries);
        ledger.lines(at(1002.1), &Contract::default()).iter().map(|l| l.call).collect::<Vec<_>>()
    };
    let (next, was) = (Some(Call::WithTheNextAnswer), Some(Call::Told(at(1001.9))));
    assert_eq!(calls(Audience::EveryPort), [next, was, next]);
    assert_eq!(calls(Audience::HttpPorts), [next, was, None]);
    assert_eq!(calls(Audience::Nobody), [None, was, None], "told is told");
}

#[test]
fn waiting_for_a_client_that_is_told_is_not_in_vain_and_ends() {
    let mut ledger = calling(Audience::HttpPorts);
    let told_for = |view: View| (view.closed_loop, view.being_told, view.being_told_until);
    ledger.reads(1001.0, &[(key(HTTP, 1), busy(0, 1000.9))]);
    ledger.reads(1001.5, &[(key(HTTP, 1), busy(1, 1001.4))]);
    assert_eq!(told_for(ledger.auto(1001.5)), (true, 1, None), "its next answer will tell it");
    // It is told with that, and has patience to go.
    ledger.reads(1002.0, &[(key(HTTP, 1), told(busy(2, 1001.9), 1001.8))]);
    assert_eq!(told_for(ledger.auto(1002.0)), (true, 1, Some(at(1006.8))));
    assert_eq!(told_for(ledger.auto(1006.7)), (true, 1, Some(at(1006.8))));
    assert_eq!(told_for(ledger.auto(1006.8)), (true, 0, None), "it is as if it had not been told");
}

#[test]
fn one_that_cannot_be_told_holds_nobody_up() {
    let mut ledger = calling(Audience::HttpPorts);
    ledger.reads(1001.0, &[(key(HTTP, 1), busy(0, 1000.9))]);
    for (n, more) in [(1, 1), (4, 1), (5, 0), (9, 0)] {
        let when = 1001.0 + f64::from(n);
        ledger.reads(when, &[(key(HTTP, 1), busy(n, when - 0.1))]);
        assert_eq!(ledger.auto(when).being_told, more, "after {n} exchanges");
    }
    let mut ledger = calling(Audience::HttpPorts);
    let tls = |n, when| Connection { protocol: protocol::HTTP, flags: flag::IN | flag::OUT, ..busy(n, when) };
    ledger.reads(1001.0, &[(key(HTTP, 1), tls(0, 1000.9))]);
    ledger.reads(1002.0, &[(key(HTTP, 1), tls(1, 1001.9))]);
    assert_eq!(ledger.auto(1002.0).being_told, 0, "TLS");
}

#[test]
fn who_goes_on_after_having_heard_stays() {
    let stays = |after: &[(f64, u32)]| {
        let mut ledger = calling(Audience::HttpPorts);
        for (when, exchanges) in after {
            ledger.reads(*when, &[(key(HTTP, 1), told(busy(*exchanges, when - 0.1), 1001.8))]);
        }
        let line = ledger.only(1005.0);
        (matches!(line.call, Some(Call::Stays(_))), ledger.auto(1005.0).told_stayed)
    };
    // What it had sent before it heard is answered within a second.
    assert_eq!(stays(&[(1002.0, 2), (1002.2, 3), (1002.9, 4)]), (false, 0));
    assert_eq!(
        stays(&[(1002.0, 2), (1002.9, 4), (1003.1, 5), (1003.9, 6)]),
        (true, 1),
        "and is counted once"
    );
    // HTTP/2 finishes its streams; a new one is another matter.
    let h2 = |exchanges, highest| {
        let mut c = told(busy(exchanges, 1002.0), 1001.8).speaks(protocol::HTTP2);
        c.h2_in.highest = highest;
        c
    };
    for (highest, stayed) in [(7, 0), (9, 1)] {
        let mut ledger = calling(Audience::HttpPorts);
        ledger.reads(1002.9, &[(key(HTTP, 1), h2(3, 7))]);
        ledger.reads(1003.9, &[(key(HTTP, 1), h2(9, highest))]);
        assert_eq!(ledger.auto(1004.0).told_stayed, stayed, "stream {highest}");
    }
}

#[test]
fn clients_that_were_told_left_and_stay_away_are_missed() {
    let mut ledger = calling(Audience::HttpPorts);
    // Half a second between its answers.
    let gone = |port, last| {
        (key(HTTP, port), told(Connection { first_seen: at(last - 0.5).0, ..busy(2, last) }, last))
    };
    let missed = |ledger: &Ledger, when: f64| {
        let view = ledger.auto(when);
        (view.missed, view.missed_next)
    };
    reads_with_new(&mut ledger, 1002.0, 0.0, &[gone(1, 1001.9), gone(2, 1001.9)]);
    reads_with_new(&mut ledger, 1002.2, 0.0, &[gone(2, 1001.9)]);
    assert_eq!(missed(&ledger, 1002.2), (0, Some(at(1003.2))), "it would be back within twice its pace");
    reads_with_new(&mut ledger, 1002.4, 0.0, &[]);
    assert_eq!(missed(&ledger, 1003.2), (1, Some(at(1003.4))));
    assert_eq!(missed(&ledger, 1003.4), (2, None));
    // Somebody comes: those who left before prove nothing any more.
    reads_with_new(&mut ledger, 1003.6, 1003.5, &[gone(3, 1003.5)]);
    assert_eq!(missed(&ledger, 1009.0), (0, None));
    reads_with_new(&mut ledger, 1003.7, 1003.5, &[]);
    assert_eq!(missed(&ledger, 1009.0), (1, None));
}

#[test]
fn who_left_without_having_been_told_or_cannot_be_counted_on_is_not_missed() {
    let c = Connection { first_seen: at(1001.4).0, ..busy(2, 1001.9) };
    let told_one = told(c, 1001.9);
    let missed = |key: FlowKey, c: Connection, ignore: &[ipnet::IpNet]| {
        let mut ledger = calling(Audience::EveryPort);
        ledger.ignore(ignore);
        reads_with_new(&mut ledger, 1002.0, 0.0, &[(key, c)]);
        reads_with_new(&mut ledger, 1002.2, 0.0, &[]);
        ledger.view(Moment(u64::MAX), &Contract::default()).missed
    };
    let everybody = ["0.0.0.0/0".parse().expect("a network")];
    assert_eq!(missed(key(HTTP, 1), told_one, &[]), 1);
    assert_eq!(missed(key(HTTP, 1), c, &[]), 0, "was not told");
    assert_eq!(missed(key(HTTP, 1), told_one, &everybody), 0, "its return would not be counted");
    assert_eq!(missed(key(HTTP, 1), told_one.flags(flag::HEALTH_ONLY), &[]), 0);
    assert_eq!(missed(key(HTTP, 1), Connection { exchanges: 1, ..told_one }, &[]), 0, "who knows how often");
}
