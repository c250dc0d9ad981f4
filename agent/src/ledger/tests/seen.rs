//! What packets show.

use lastcall_ebpf::abi::{Connection, flag, follow, protocol};

use super::fixtures::*;
use crate::contract::{Contract, Until};

/// One entry, read at 1100 s, judged then.
fn judged(port: u16, entry: Connection, contract: &Contract) -> String {
    let mut ledger = ledger();
    ledger.dumps(1000.001, &[]);
    ledger.reads(1100.0, &[(key(port, 40_000), entry)]);
    let mut said = ledger.says(1100.0, contract);
    assert_eq!(said.len(), 1, "{said:?}");
    said.remove(0)
}

fn table(contract: &Contract, rows: &[(&str, u16, Connection, &str)]) {
    for (name, port, entry, expected) in rows {
        assert_eq!(judged(*port, *entry, contract), *expected, "{name}");
    }
}

#[test]
fn auto() {
    let c = new(1001.0);
    let done = c.asks(1090.0).answers(1090.2).acks(1090.3);
    let just_done = c.asks(1099.0).answers(1099.5).acks(1099.6);
    let h2 = Connection { streams: 2, ..done.flags(flag::H2_FOLLOWED).speaks(protocol::HTTP2) };
    let long = |end| Connection { response_end: end, ..done.flags(flag::RESPONSE_LENGTH) };
    table(
        &until(Until::Auto),
        &[
            ("request unanswered", HTTP, c.asks(1090.0), "!*in flight (request unanswered), seen"),
            (
                "response not acked",
                HTTP,
                c.asks(1090.0).answers(1090.2),
                "!*in flight (data not acknowledged), seen",
            ),
            ("length not reached, a pause", HTTP, long(500), "!*in flight (response unfinished), seen"),
            ("length reached", HTTP, long(100), "idle (answered), seen"),
            ("chunked", HTTP, done.flags(flag::RESPONSE_CHUNKED), "!*in flight (response unfinished), seen"),
            (
                "until close",
                HTTP,
                done.flags(flag::RESPONSE_UNTIL_CLOSE),
                "!*in flight (response unfinished), seen",
            ),
            ("within idle-after", HTTP, just_done, "!in flight (bytes moved just now), seen"),
            ("answered and silent", HTTP, done, "idle (answered), seen"),
            ("never asked", HTTP, c, "idle (never asked anything), seen"),
            ("just opened", HTTP, new(1099.5), "!in flight (just opened), seen"),
            ("two streams", HTTP, h2, "!*in flight (2 streams open), seen"),
            ("no stream", HTTP, Connection { streams: 0, ..h2 }, "idle (answered), seen"),
            (
                "unknown protocol, silent",
                SQL,
                done.speaks(protocol::UNKNOWN),
                "!in flight (open, protocol unknown), seen",
            ),
            (
                "unknown protocol, never spoke",
                SQL,
                c.speaks(protocol::UNKNOWN),
                "!in flight (open, protocol unknown), seen",
            ),
            ("HTTP seen on an unknown port", SQL, done.speaks(protocol::HTTP1), "idle (answered), seen"),
            ("a port that is called http", HTTP, done.speaks(protocol::UNKNOWN), "idle (answered), seen"),
            (
                "upgraded",
                HTTP,
                done.flags(flag::UPGRADED).speaks(protocol::UNKNOWN),
                "!in flight (open, upgraded), seen",
            ),
            (
                "a health check, silent",
                HTTP,
                just_done.flags(flag::HEALTH_ONLY),
                "idle (health checks or an ignored source), seen",
            ),
            (
                "a health check, served",
                HTTP,
                c.asks(1099.9).flags(flag::HEALTH_ONLY),
                "!*in flight (request unanswered), seen",
            ),
            (
                "a reset that came in proves nothing",
                HTTP,
                c.asks(1090.0).flags(flag::RESET_IN),
                "!*in flight (request unanswered), seen",
            ),
        ],
    );
}

#[test]
fn closed_waits_for_whatever_is_open() {
    let done = new(1001.0).asks(1090.0).answers(1090.2).acks(1090.3);
    table(
        &until(Until::Closed),
        &[
            ("idle", HTTP, done, "!idle (answered), seen"),
            ("never asked", HTTP, new(1001.0), "!idle (never asked anything), seen"),
            (
                "closed by the pod",
                HTTP,
                done.flags(flag::FIN_OUT),
                "!closing (closed, last acknowledgement outstanding), seen",
            ),
            ("health check", HTTP, done.flags(flag::HEALTH_ONLY), "idle (answered), seen"),
        ],
    );
}

#[test]
fn idle_asks_for_bytes_alone() {
    let c = new(1001.0).speaks(protocol::UNKNOWN);
    table(
        &until(Until::Idle),
        &[
            ("thinking", SQL, c.asks(1090.0), "idle (silent), seen"),
            ("just now", SQL, c.asks(1099.5), "!in flight (bytes moved just now), seen"),
            ("not acknowledged", SQL, c.sends(1090.0), "!*in flight (data not acknowledged), seen"),
            (
                "an HTTP response that pauses",
                HTTP,
                c.asks(1090.0).answers(1090.1).acks(1090.2).flags(flag::RESPONSE_CHUNKED),
                "idle (silent), seen",
            ),
        ],
    );
}

#[test]
fn settled_waits_for_nothing() {
    let said = judged(HTTP, new(1001.0).asks(1099.0), &until(Until::Settled));
    assert_eq!(said, "*in flight (request unanswered), seen");
}

#[test]
fn the_middle_of_a_response_is_in_doubt_until_doubt_after() {
    let mut ledger = ledger();
    let half = older(1001.0).sends(1001.0).acks(1001.1).flags(flag::MIDWAY);
    ledger.reads(1002.5, &[(key(HTTP, 40_000), half)]);
    let said = ledger.says(1004.0, &Contract::default());
    assert_eq!(said, ["!in flight (middle of a response whose start was not seen), doubt"]);
    assert_eq!(ledger.auto(1004.0).next_change, Some(at(1011.0)));
    assert_eq!(ledger.says(1011.0, &Contract::default()), ["idle (silent for doubt-after), seen"]);
}

#[test]
fn a_response_seen_from_its_start_is_answered_even_where_its_request_was_not_seen() {
    let mut ledger = ledger();
    let c = older(1001.0).sends(1001.0).acks(1001.1).flags(flag::BOUNDARY).speaks(protocol::HTTP1);
    ledger.reads(1002.5, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1002.5, &Contract::default()), ["idle (answered), seen"]);
    ledger.reads(1002.6, &[(key(HTTP, 40_000), c.flags(flag::WAITING))]);
    let interim = ["!*in flight (request unanswered), seen"];
    assert_eq!(ledger.says(1002.6, &Contract::default()), interim, "status 103, the final one is to come");
}

#[test]
fn a_request_behind_another_is_in_doubt_until_doubt_after() {
    let mut ledger = ledger();
    let one = new(1001.0).asks(1002.0).answers(1002.1).acks(1002.2).speaks(protocol::HTTP1);
    ledger.reads(1003.0, &[(key(HTTP, 40_000), one.flags(flag::WAITING | flag::PIPELINED))]);
    let said = ledger.says(1012.0, &Contract::default());
    assert_eq!(said, ["!in flight (several requests at once, not known whether all were answered), doubt"]);
    assert_eq!(ledger.says(1012.1, &Contract::default()), ["idle (silent for doubt-after), seen"]);
    assert_eq!(ledger.says(1004.0, &until(Until::Idle)), ["idle (silent), seen"]);
}

#[test]
fn a_whole_response_answers_a_request_older_than_the_attach() {
    let mut ledger = ledger();
    let whole = older(1001.0).sends(1001.0).acks(1001.1).speaks(protocol::HTTP1).flags(flag::BOUNDARY);
    let length = Connection { response_end: whole.out_end, ..whole.flags(flag::RESPONSE_LENGTH) };
    let half = Connection { response_end: whole.out_end + 1, ..length };
    let streams = whole.speaks(protocol::HTTP2);
    ledger.reads(
        1002.5,
        &[(key(HTTP, 1), whole), (key(HTTP, 2), length), (key(HTTP, 3), half), (key(HTTP, 4), streams)],
    );
    assert_eq!(
        ledger.says(1004.0, &Contract::default()),
        [
            "idle (answered), seen",
            "idle (answered), seen",
            "!*in flight (response unfinished), seen",
            "!in flight (middle of a response whose start was not seen), doubt",
        ]
    );
}

#[test]
fn a_stream_that_was_opened_unseen_is_in_doubt_until_doubt_after() {
    let doubt = "!in flight (streams may be open that were opened unseen), doubt";
    let answered = "idle (answered), seen";
    let says = |c: Connection, when: f64| {
        let mut ledger = ledger();
        ledger.reads(when, &[(key(HTTP, 40_000), c)]);
        ledger.says(when, &Contract::default()).remove(0)
    };
    let done = |c: Connection| c.speaks(protocol::HTTP2).asks(1003.0).answers(1003.1).acks(1003.2);
    // Another stream was answered: it says nothing of one from before the attach.
    assert_eq!([says(done(older(1001.0)), 1010.9), says(done(older(1001.0)), 1011.0)], [doubt, answered]);
    // Whose preface was seen is known, whether its handshake was or not.
    assert_eq!(says(done(new(1001.0)), 1004.2), answered);
    let mut wholly = done(older(1001.0));
    wholly.h2_in.state = follow::WHOLLY;
    assert_eq!(says(wholly, 1004.2), answered);
    // Until its frames were out of sight.
    let lost = Connection { h2_unseen: at(1002.5).0, ..done(new(1001.0)) };
    assert_eq!([says(lost, 1012.4), says(lost, 1012.5)], [doubt, answered]);
    // Of HTTP/1 an answer is one.
    assert_eq!(says(done(older(1001.0)).speaks(protocol::HTTP1), 1004.2), answered);
}

#[test]
fn idle_is_a_clocks_doing_and_said_in_advance() {
    let mut ledger = ledger();
    let c = new(1001.0).asks(1002.0).answers(1002.5).acks(1002.6);
    ledger.reads(1002.7, &[(key(HTTP, 40_000), c)]);
    let view = ledger.auto(1002.7);
    assert_eq!((view.in_flight, view.at_work, view.next_change), (1, 0, Some(at(1003.5))));
    assert_eq!(ledger.auto(1003.499).in_flight, 1);
    let view = ledger.auto(1003.5);
    assert_eq!((view.in_flight, view.idle, view.next_change), (0, 1, None));
    assert_eq!(view.changed_at, at(1003.5));
}

#[test]
fn what_waits_for_an_answer_is_looked_at_again_without_a_timer() {
    let mut ledger = ledger();
    ledger.reads(1002.7, &[(key(HTTP, 40_000), new(1001.0).asks(1002.0))]);
    let view = ledger.auto(1002.7);
    assert_eq!((view.next_change, view.resample), (None, Some(ms(500))));
    ledger.reads(1002.8, &[(key(SQL, 40_000), new(1001.0).speaks(protocol::UNKNOWN))]);
    let view = ledger.auto(1002.8);
    assert_eq!((view.next_change, view.resample), (None, None), "its close is an edge");
}

#[test]
fn udp_flows_end_by_silence() {
    let mut ledger = ledger();
    let flow = |when: f64| Connection { last_in: at(when).0, flags: flag::IN, protocol: 0, ..older(when) };
    ledger.reads(1010.0, &[(key(SYSLOG, 4000), flow(1004.5)), (key(QUIC, 4000), flow(1004.5))]);
    let contract = Contract::default();
    let view = ledger.view(at(1009.4), &contract);
    assert_eq!((view.flows, view.awaited, view.open), (2, 2, 0));
    assert_eq!(view.udp_settled, Some(at(1034.5)), "QUIC is silent for longer");
    assert_eq!(ledger.view(at(1009.5), &contract).flows, 1);
    let expired = ledger.expired(at(1009.5), &contract);
    assert_eq!(expired.iter().map(|s| s.key).collect::<Vec<_>>(), [key(SYSLOG, 4000)]);
    assert_eq!(ledger.view(at(1034.5), &contract).flows, 0);
    let asked = Contract { udp_idle: ms(2000), ..contract };
    assert_eq!(ledger.view(at(1006.5), &asked).flows, 0, "what the hook asks for holds for QUIC too");
}

#[test]
fn a_request_whose_flag_was_lost_is_in_doubt() {
    let mut ledger = ledger();
    let c = new(1001.0).asks(1002.0).answers(1002.1).acks(1002.2).speaks(protocol::HTTP1);
    let lost = Connection { last_in: crate::moment::Moment::from_secs_f64(1003.0).0, ..c };
    ledger.reads(1003.5, &[(key(HTTP, 40_000), lost)]);
    assert_eq!(ledger.says(1012.9, &Contract::default()), ["!in flight (request unanswered), doubt"]);
    assert_eq!(ledger.says(1013.0, &Contract::default()), ["idle (silent for doubt-after), seen"]);
}
