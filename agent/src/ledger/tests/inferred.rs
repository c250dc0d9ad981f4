//! What a socket tells of a connection of which no packet was seen, in the order of the questions.

use super::fixtures::*;
use crate::{
    contract::{Contract, Until},
    sockets::{Dump, Socket, TcpInfo},
};

/// A socket in the dump at 1001 s, the only one so far.
fn judged(s: Socket) -> String {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[s]);
    ledger.reads(1001.1, &[]);
    let mut said = ledger.says(1001.1, &Contract::default());
    assert_eq!(said.len(), 1, "{said:?}");
    said.remove(0)
}

fn http(info: TcpInfo) -> Socket {
    Socket { info: Some(info), ..socket(1, HTTP, 40_000) }
}

#[test]
fn in_order() {
    let quiet = http(answered());
    let rows: &[(&str, Socket, &str)] = &[
        ("unread data", Socket { receive_queue: 1, ..quiet.clone() }, "!*in flight (data queued), inferred"),
        (
            "unread data of a connection that nobody has accepted",
            Socket { receive_queue: 90, inode: 0, ..http(ages(60_000, 60_000, 60_000)) },
            "!*in flight (data queued), inferred",
        ),
        (
            "unacknowledged",
            Socket { send_queue: 90, ..quiet.clone() },
            "!*in flight (data not acknowledged), inferred",
        ),
        (
            "a slow reader",
            Socket { send_queue: 90, ..http(TcpInfo { not_sent: 90, ..answered() }) },
            "!*in flight (data queued), inferred",
        ),
        (
            "never received anything",
            http(TcpInfo { bytes_received: 0, bytes_acked: 0, ..ages(500, 500, 500) }),
            "idle (never asked anything), inferred",
        ),
        (
            "asked and never answered, whatever the ages say",
            http(TcpInfo { bytes_acked: 0, ..ages(20_000, 20_000, 15_000) }),
            "!*in flight (request unanswered), inferred",
        ),
        ("sent later than received", http(ages(5000, 4000, 3900)), "idle (answered), inferred"),
        (
            "the same, within idle-after",
            http(ages(600, 500, 400)),
            "!in flight (bytes moved just now), inferred",
        ),
        ("a tie, and a delayed ACK", http(ages(5000, 5000, 4960)), "idle (answered), inferred"),
        ("a tick is a tie", http(ages(5010, 5000, 4960)), "idle (answered), inferred"),
        (
            "a tie, and an ACK with it",
            http(ages(5000, 5000, 5000)),
            "!in flight (older than the attach, not known whether answered), doubt",
        ),
        (
            "a tie, and the ACK of a keep-alive probe",
            http(ages(9000, 9000, 1000)),
            "!in flight (older than the attach, not known whether answered), doubt",
        ),
        (
            "received later than sent",
            http(ages(4000, 5000, 4000)),
            "!in flight (older than the attach, not known whether answered), doubt",
        ),
        (
            "received later than sent, long ago",
            http(ages(11_000, 12_000, 11_000)),
            "idle (silent for doubt-after), inferred",
        ),
        ("an unknown protocol", socket(1, SQL, 40_000), "!in flight (open, protocol unknown), inferred"),
        (
            "nobody acknowledges",
            Socket { send_queue: 9, retransmits: 6, ..quiet.clone() },
            "vanished (client vanished), inferred",
        ),
        (
            "nobody acknowledges yet",
            Socket { send_queue: 9, retransmits: 5, ..quiet.clone() },
            "!*in flight (data not acknowledged), inferred",
        ),
        (
            "no TCP_INFO",
            Socket { info: None, ..quiet },
            "!in flight (older than the attach, not known whether answered), doubt",
        ),
    ];
    for (name, socket, expected) in rows {
        assert_eq!(judged(socket.clone()), *expected, "{name}");
    }
}

#[test]
fn doubt_ends_by_time_and_says_when() {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[http(ages(4000, 5000, 4000))]);
    ledger.reads(1001.1, &[]);
    let view = ledger.auto(1001.1);
    assert_eq!((view.doubt, view.in_flight, view.next_change), (1, 1, Some(at(1007.0))));
    let contract = Contract { doubt_after: ms(60_000), ..Contract::default() };
    assert_eq!(ledger.view(at(1001.1), &contract).next_change, Some(at(1057.0)));
    assert_eq!(ledger.auto(1007.0).in_flight, 0);
}

#[test]
fn bytes_that_move_between_two_dumps_are_in_flight() {
    let mut ledger = ledger();
    // A tie that looks answered, and stays so; but more was acknowledged.
    ledger.dumps(1001.0, &[http(ages(5000, 5000, 4960))]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.auto(1001.1).in_flight, 0);
    let more = TcpInfo { bytes_acked: 1000, ..ages(6000, 5500, 300) };
    ledger.dumps(1002.0, &[http(more)]);
    ledger.reads(1002.1, &[]);
    let view = ledger.auto(1002.1);
    assert_eq!((view.in_flight, view.at_work, view.next_change), (1, 0, Some(at(1002.71))), "a tick late");
    assert_eq!(ledger.auto(1002.71).in_flight, 0);
}

#[test]
fn a_request_whose_bytes_were_seen_to_come_is_no_doubt_and_does_not_end_by_time() {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[http(ages(5000, 4000, 3900))]);
    let asked = TcpInfo { bytes_received: 600, ..ages(20, 5000, 20) };
    ledger.dumps(1002.0, &[http(asked)]);
    let later = TcpInfo { bytes_received: 600, ..ages(60_020, 65_000, 60_020) };
    ledger.dumps(1062.0, &[http(later)]);
    ledger.reads(1062.1, &[]);
    assert_eq!(ledger.says(1062.1, &Contract::default()), ["!*in flight (request unanswered), inferred"]);
}

#[test]
fn the_first_payload_seen_replaces_the_guess() {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[http(ages(4000, 5000, 4000))]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.auto(1001.1).doubt, 1);
    let c = older(1001.5).cookie(1).on(HTTP).asks(1001.5).answers(1001.6).acks(1001.7);
    ledger.reads(1003.0, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1003.0, &Contract::default()), ["idle (answered), seen"]);
}

#[test]
fn a_packet_without_payload_after_the_dump_is_doubt_until_the_next_dump() {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[http(answered())]);
    let ack = older(1001.5).cookie(1).on(HTTP);
    ledger.reads(1003.0, &[(key(HTTP, 40_000), ack)]);
    let view = ledger.auto(1003.0);
    assert_eq!((view.doubt, view.awaited, view.awaited_by_dump), (1, 1, 1));
    ledger.dumps(1003.1, &[http(ages(62_000, 61_900, 61_860))]);
    assert_eq!(ledger.auto(1003.1).in_flight, 0);
    let asked = TcpInfo { bytes_received: 600, ..ages(1600, 61_900, 1600) };
    ledger.dumps(1003.2, &[http(asked)]);
    assert_eq!(ledger.says(1003.2, &Contract::default()), ["!*in flight (request unanswered), inferred"]);
}

#[test]
fn bytes_that_the_packets_do_not_know_of_are_believed() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(1).on(HTTP).asks(1002.0).answers(1002.1).acks(1002.2);
    ledger.reads(1010.0, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.auto(1010.0).in_flight, 0);
    // A request over a link that nobody watches.
    ledger.dumps(1010.1, &[http(ages(500, 8000, 500))]);
    ledger.reads(1010.2, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1010.2, &Contract::default()), ["!*in flight (request unanswered), inferred"]);
}

#[test]
fn a_slow_reader_with_a_full_window_is_in_flight_though_all_that_was_sent_is_acknowledged() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(1).on(HTTP).asks(1002.0).answers(1002.1).acks(1002.2);
    let full = Socket { send_queue: 5000, ..http(TcpInfo { not_sent: 5000, ..ages(5000, 4900, 20) }) };
    ledger.dumps(1007.0, &[full]);
    ledger.reads(1007.1, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1007.1, &Contract::default()), ["!*in flight (data queued), inferred"]);
}

#[test]
fn idle_takes_the_ages_at_their_word() {
    let mut ledger = ledger();
    let sql = |info| Socket { info: Some(info), ..socket(1, SQL, 40_000) };
    let contract = until(Until::Idle);
    ledger.dumps(1001.0, &[sql(ages(4000, 5000, 20))]);
    ledger.reads(1001.1, &[]);
    assert_eq!(ledger.says(1001.1, &contract), ["idle (silent), inferred"]);
    ledger.dumps(1002.0, &[sql(ages(400, 5000, 20))]);
    assert_eq!(ledger.says(1002.1, &contract), ["!in flight (bytes moved just now), inferred"]);
}

#[test]
fn after_a_gap_the_packets_seen_before_it_are_not_believed() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(1).on(HTTP).asks(1002.0);
    ledger.dumps(1000.5, &[]);
    ledger.reads(1002.5, &[(key(HTTP, 40_000), c)]);
    ledger.attached_again(at(1003.0));
    assert!(!ledger.auto(1003.0).complete());
    // It was answered while the link was gone.
    ledger.dumps(1003.1, &[http(ages(1100, 300, 260))]);
    ledger.reads(1004.5, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1004.5, &Contract::default()), ["idle (answered), inferred"]);
    assert!(ledger.auto(1004.5).complete());
    // It was not.
    ledger.dumps(1004.6, &[http(ages(2600, 9000, 2600))]);
    assert_eq!(ledger.says(1004.6, &Contract::default()), ["!*in flight (request unanswered), inferred"]);
}

#[test]
fn a_connection_without_a_byte_is_nothing_that_changed_in_the_dump_that_shows_it() {
    let mut ledger = ledger();
    let never = TcpInfo { bytes_received: 0, bytes_acked: 0, ..ages(500, 500, 500) };
    let started = at(1002.0);
    let dump = Dump { finished: at(1002.01), ..dump(1002.0, &[http(never)]) };
    ledger.dump(&dump);
    ledger.reads(1002.02, &[]);
    let view = ledger.view(at(1002.02), &until(Until::Idle));
    assert_eq!((view.awaited, view.idle), (0, 1));
    assert!(view.changed_at <= started, "no dump could ever be later than the change: {view:?}");
}
