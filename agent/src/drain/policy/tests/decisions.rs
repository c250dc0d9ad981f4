//! One decision at a time.

use std::time::Duration;

use crate::{
    cluster::Exposure,
    contract::{Contract, Until},
    drain::policy::{Circumstances, Decision, Dumps, Outcome, Verdict, Waiting, decide},
    ledger::{Completeness, View},
    moment::Moment,
};

const BEGAN: f64 = 1000.0;

fn at(seconds: f64) -> Moment {
    Moment((seconds * 1e6).round() as u64 * 1000)
}

/// A ClusterIP Service's pod at 1000 s, 25 s to the deadline, five connections a second before.
fn circumstances() -> Circumstances {
    Circumstances {
        began: at(BEGAN),
        hook_waiting: true,
        deadline: at(1025.0),
        exposure: Exposure::Cluster,
        openings_per_second: Some(5.0),
        probes_per_second: 0.0,
        noise_per_second: 0.0,
        min_settle: Duration::ZERO,
        others_ready: None,
        pod_gone: false,
        namespace_gone: false,
        restart: false,
        observed_by_kernel: true,
        dumps: Dumps::Possible,
    }
}

/// Nothing open, both witnesses heard at `when`.
fn quiet(when: f64) -> View {
    View {
        completeness: Completeness::Complete,
        read_before: Some(at(when - 0.1)),
        dump_started: Some(at(when - 0.01)),
        read_at: Some(at(when)),
        changed_at: at(BEGAN),
        ..View::default()
    }
}

/// So many connections in flight, of them so many at work.
fn busy(when: f64, in_flight: usize, at_work: usize) -> View {
    View { open: in_flight, in_flight, at_work, awaited: in_flight, ..quiet(when) }
}

fn ask(c: &Contract, a: &Circumstances, view: &View, now: f64) -> String {
    match decide(c, a, view, at(now)) {
        Decision::Wait { until, why } => {
            format!("wait {}: {why}", (until.0 as f64 / 1e9 * 1e6).round() / 1e6)
        }
        Decision::Confirm => "confirm".into(),
        Decision::Answer(v) => format!("{} {}/{}", v.outcome, v.awaited, v.open),
    }
}

fn auto(view: &View, now: f64) -> String {
    ask(&Contract::default(), &circumstances(), view, now)
}

#[test]
fn settle_first_to_the_exact_moment() {
    let said = "wait 1002: settling, 2 s of silence: 5.0 connections/s prove it";
    assert_eq!(auto(&quiet(1000.5), 1000.5), said);
    let view = View { last_new: Some(at(1001.7)), ..quiet(1001.8) };
    assert!(auto(&view, 1001.8).starts_with("wait 1003.7: settling"), "a new connection extends it");
    let view = View { last_new: Some(at(1024.0)), ..quiet(1024.1) };
    assert!(auto(&view, 1024.1).starts_with("wait 1025: settling"), "to the deadline at most");
    let view = View { udp_settled: Some(at(1004.5)), ..quiet(1002.5) };
    assert!(auto(&view, 1002.5).starts_with("wait 1004.5: settling"), "datagrams still come in");
}

#[test]
fn drained_is_confirmed_by_a_dump_after_the_last_change_and_a_read_after_the_dump() {
    assert_eq!(auto(&quiet(1002.1), 1002.1), "drained 0/0");
    let unconfirmed = |f: &dyn Fn(&mut View)| {
        let mut view = quiet(1002.1);
        f(&mut view);
        auto(&view, 1002.2)
    };
    assert_eq!(unconfirmed(&|v| v.dump_started = Some(at(1001.9))), "confirm", "older than settled");
    assert_eq!(unconfirmed(&|v| v.read_at = Some(at(1002.0))), "confirm", "read before the dump");
    assert_eq!(unconfirmed(&|v| v.changed_at = at(1002.095)), "confirm", "older than a change");
    assert_eq!(unconfirmed(&|v| v.read_before = Some(at(1002.095))), "confirm", "a dump of another time");
    assert_eq!(unconfirmed(&|v| v.completeness = Completeness::NeverDumped), "confirm");
    assert_eq!(unconfirmed(&|v| v.completeness = Completeness::DumpedBeforeAttach), "confirm");
    assert_eq!(
        unconfirmed(&|v| (v.dump_started, v.interrupted) = (Some(at(1001.9)), Some(at(1002.19)))),
        "wait 1002.25: the sockets could not be dumped",
        "not again at once"
    );
    let open = View { open: 7, idle: 7, ..quiet(1002.1) };
    assert_eq!(auto(&open, 1002.1), "drained 0/7", "idle ones may stay");
}

#[test]
fn dumps_that_fail_are_tried_again_and_never_drained_without() {
    let a = Circumstances { dumps: Dumps::Failing, ..circumstances() };
    let view = View { dump_started: Some(at(1001.0)), ..quiet(1002.1) };
    assert_eq!(ask(&Contract::default(), &a, &view, 1002.1), "wait 1003.1: the sockets could not be dumped");
    assert_eq!(ask(&Contract::default(), &a, &view, 1024.7), "wait 1025: the sockets could not be dumped");
}

#[test]
fn a_sandboxed_pod_is_judged_by_its_packets() {
    let a = Circumstances { dumps: Dumps::Impossible, ..circumstances() };
    let view = View { completeness: Completeness::NeverDumped, dump_started: None, ..quiet(1002.1) };
    assert_eq!(ask(&Contract::default(), &a, &view, 1002.1), "drained 0/0");
    let older = View { read_at: Some(at(1001.0)), ..view };
    assert_eq!(ask(&Contract::default(), &a, &older, 1002.1), "confirm");
    let blind = Circumstances { observed_by_kernel: false, ..a };
    let said = ask(&Contract::default(), &blind, &view, 1006.0);
    assert!(said.starts_with("wait 1025: incomplete view"), "{said}");
}

#[test]
fn without_the_table_two_dumps_apart_must_show_stillness() {
    for (name, observed, completeness) in
        [("no program", false, Completeness::NeverRead), ("table full", true, Completeness::Refused(3))]
    {
        let a = Circumstances { observed_by_kernel: observed, ..circumstances() };
        let say = |still: Option<f64>, dumped: f64, now: f64| {
            let view = View {
                completeness,
                still_since: still.map(at),
                dump_started: Some(at(dumped)),
                ..quiet(now)
            };
            ask(&Contract::default(), &a, &view, now)
        };
        assert!(say(Some(1000.1), 1004.9, 1004.95).starts_with("wait"), "{name}: settling to the floor");
        assert_eq!(say(None, 1005.1, 1005.2), "confirm", "{name}: no dump to compare with");
        assert_eq!(say(Some(1001.0), 1005.1, 1005.2), "drained 0/0", "{name}");
        let said = say(Some(1004.5), 1005.1, 1005.2);
        assert!(said.starts_with("wait 1005.3: incomplete view"), "{name}: {said}");
        assert_eq!(say(Some(1004.5), 1005.1, 1005.6), "confirm", "{name}");
    }
}

#[test]
fn in_flight_is_waited_for_until_the_next_thing_that_can_change() {
    let view = View { next_change: Some(at(1003.3)), ..busy(1002.5, 1, 0) };
    assert_eq!(auto(&view, 1002.5), "wait 1003.3: 1 connection");
    let view = View { resample: Some(Duration::from_millis(500)), ..busy(1002.5, 2, 2) };
    assert_eq!(auto(&view, 1002.5), "wait 1003: 2 connections");
    assert_eq!(auto(&busy(1002.5, 2, 0), 1002.5), "wait 1025: 2 connections", "an edge will tell");
    let view = View { completeness: Completeness::Refused(1), ..busy(1006.0, 2, 0) };
    assert_eq!(auto(&view, 1006.0), "wait 1006.1: 2 connections", "polled");
}

#[test]
fn what_only_a_dump_can_end_is_dumped_when_packets_have_passed() {
    let view = View { awaited_by_dump: 2, stirred_at: at(1002.495), ..busy(1002.5, 2, 0) };
    assert_eq!(auto(&view, 1002.5), "wait 1002.54: 2 connections", "not too often");
    assert_eq!(auto(&view, 1002.6), "confirm");
    let view = View { awaited_by_dump: 1, ..view };
    assert_eq!(auto(&view, 1002.6), "wait 1025: 2 connections", "the other holds it anyway");
    let view = View { awaited_by_dump: 2, stirred_at: at(1002.0), ..view };
    assert_eq!(auto(&view, 1002.6), "wait 1025: 2 connections", "nothing has passed");
}

#[test]
fn a_closed_loop_shows_its_patience_then_is_answered_at_an_instant_without_work() {
    let looping = |when: f64, at_work| View { closed_loop: true, ..busy(when, 50, at_work) };
    assert_eq!(auto(&looping(1003.0, 9), 1003.0), "wait 1007: 50 connections");
    let said = "wait 1007.02: 50 clients that start again and again";
    assert_eq!(auto(&looping(1007.0, 9), 1007.0), said);
    assert_eq!(auto(&looping(1008.0, 0), 1008.0), "busy 50/50");
    assert!(auto(&looping(1007.9, 0), 1008.0).starts_with("wait 1008.02"), "that instant is past");
    assert!(auto(&looping(1011.99, 1), 1011.99).starts_with("wait 1012:"));
    assert_eq!(auto(&looping(1012.0, 9), 1012.0), "busy 50/50");
    let left = View { last_left: Some(at(1006.0)), ..looping(1008.0, 9) };
    assert_eq!(auto(&left, 1008.0), "wait 1011: 50 connections", "one has left: patience begins anew");
}

#[test]
fn not_stalled() {
    let looping = View { closed_loop: true, ..busy(1015.0, 50, 0) };
    assert_eq!(auto(&looping, 1015.0), "busy 50/50");
    let one_long = View { closed_loop: false, ..looping };
    assert_eq!(auto(&one_long, 1015.0), "wait 1025: 50 connections");
    let closed = Contract { until: Until::Closed, ..Contract::default() };
    assert_eq!(ask(&closed, &circumstances(), &looping, 1015.0), "wait 1025: 50 connections");
    assert_eq!(auto(&View { being_told: 1, ..looping }, 1015.0), "wait 1025: 50 connections");
    let patient = Contract { patience: Duration::from_secs(60), ..Contract::default() };
    assert_eq!(ask(&patient, &circumstances(), &looping, 1015.0), "wait 1025: 50 connections");
}

#[test]
fn a_last_call_under_way_is_waited_for_and_not_for_ever() {
    let looping = View { closed_loop: true, ..busy(1015.0, 50, 0) };
    let told = View { being_told: 2, being_told_until: Some(at(1018.5)), ..looping };
    assert_eq!(auto(&told, 1015.0), "wait 1018.5: 50 connections", "then look again");
    // The ledger does not count them any more: it is as if nobody had been told.
    assert_eq!(auto(&View { being_told: 0, ..told }, 1015.0), "busy 50/50");
}

#[test]
fn clients_that_stay_away_end_the_settling() {
    let few = Circumstances { openings_per_second: Some(0.0), others_ready: Some(1), ..circumstances() };
    let say = |missed, next: Option<f64>, now| {
        let view = View { missed, missed_next: next.map(at), ..quiet(now) };
        ask(&Contract::default(), &few, &view, now)
    };
    let said = "5 s: 0.0 connections/s, silence proves nothing";
    assert_eq!(say(6, Some(1002.75), 1002.5), format!("wait 1002.75: settling, {said}"));
    assert_eq!(say(6, Some(1009.0), 1002.5), format!("wait 1005: settling, {said}"));
    assert_eq!(say(6, Some(1002.0), 1002.5), format!("wait 1005: settling, {said}"), "never into the past");
    assert_eq!(say(7, None, 1002.75), "drained 0/0", "1/2^7 is less than 1 %");
}

#[test]
fn settled_waits_for_no_connection() {
    let contract = Contract { until: Until::Settled, ..Contract::default() };
    // The ledger awaits nothing under this contract.
    let open = View { awaited: 0, ..busy(1002.0, 9, 9) };
    assert_eq!(ask(&contract, &circumstances(), &open, 1001.0).split(':').next(), Some("wait 1002"));
    let at_1002 = View { dump_started: Some(at(1000.1)), ..open };
    assert_eq!(ask(&contract, &circumstances(), &at_1002, 1002.0), "drained 0/9", "no dump is needed");
    let old = View { read_at: Some(at(1001.9)), ..at_1002 };
    assert_eq!(ask(&contract, &circumstances(), &old, 1002.0), "confirm", "who knows who came since");
}

#[test]
fn ends_that_no_settling_changes() {
    let view = busy(1000.1, 3, 3);
    let with = |f: &dyn Fn(&mut Circumstances), now| {
        let mut a = circumstances();
        f(&mut a);
        ask(&Contract::default(), &a, &view, now)
    };
    assert_eq!(with(&|a| a.pod_gone = true, 1000.1), "forced 3/3");
    assert_eq!(with(&|a| a.namespace_gone = true, 1000.1), "gone 3/3");
    assert_eq!(with(&|a| a.restart = true, 1000.1), "restart 3/3");
    assert_eq!(with(&|_| {}, 1025.0), "deadline 3/3");
    assert_eq!(with(&|a| a.deadline = at(999.0), 1000.1), "deadline 3/3", "the grace was shortened");
    assert_eq!(with(&|a| (a.restart, a.deadline) = (true, at(1000.0)), 1000.1), "deadline 3/3");
    assert_eq!(with(&|a| (a.pod_gone, a.deadline) = (true, at(1000.0)), 1000.1), "forced 3/3");
}

#[test]
fn outcomes_are_lower_case_words() {
    let words: Vec<String> = Outcome::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["drained", "busy", "deadline", "forced", "restart", "gone"]);
    let verdict = Verdict { outcome: Outcome::Busy, awaited: 1, open: 2 };
    assert_eq!(Decision::Answer(verdict), Decision::Answer(verdict));
    assert_eq!(Waiting::Connections(1).to_string(), "1 connection");
}
