//! What people see, letter by letter. Compared line by line, so that a failure shows which differs.

use super::*;
use crate::report::labels::Outcome;

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn drain(name: &str) -> DrainStatus {
    DrainStatus {
        namespace: "shop".into(),
        name: name.into(),
        uid: "b2f7".into(),
        addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        began_seconds_ago: 1.2,
        deadline_in_seconds: 23.8,
        hooks_waiting: 2,
        until: "auto".into(),
        waiting_for: "settle: waited 1.2 s of 5 s: 0.3 connections/s, silence proves nothing".into(),
        settle: String::new(),
        last_call: None,
        counts: Counts { open: 14, in_flight: 3, idle: 10, doubt: 1, flows: 2, ..Counts::default() },
        known: KnownCounts { seen: 12, inferred: 1, doubt: 1 },
        outcome: None,
        connections: vec![],
        connections_left_out: 0,
    }
}

fn ended(name: &str, outcome: Outcome, waiting_for: &str) -> DrainStatus {
    DrainStatus {
        outcome: Some(outcome),
        waiting_for: waiting_for.into(),
        began_seconds_ago: 12.4,
        deadline_in_seconds: -0.4,
        hooks_waiting: 0,
        counts: Counts::default(),
        known: KnownCounts::default(),
        ..drain(name)
    }
}

fn node(drains: Vec<DrainStatus>) -> NodeStatus {
    NodeStatus {
        version: "0.1.0".into(),
        uptime_seconds: 192.0,
        ebpf: EbpfStatus { available: true, how: "tcx".into(), table_entries: 14, table_capacity: 65_536 },
        problems: vec![],
        drains,
    }
}

fn connection(peer: &str, state: ConnectionState) -> ConnectionStatus {
    ConnectionStatus {
        peer: peer.parse().unwrap(),
        local: "10.0.0.5:8080".parse().unwrap(),
        protocol: "http/1".into(),
        state,
        since_seconds: Some(61.0),
        last_in_seconds: Some(0.31),
        last_out_seconds: None,
        known: Known::Seen,
        told_seconds: None,
        last_call: None,
        why: "request without an answer".into(),
    }
}

#[test]
fn nothing_to_do() {
    assert_eq!(
        lines(&status(&node(vec![]))),
        [
            "lastcall 0.1.0, up 3m12s; eBPF by tcx, 14 of 65536 connections in the table",
            "No pod of this node is Terminating.",
        ]
    );
}

#[test]
fn drains_in_every_phase() {
    let mut overdue = drain("api-0");
    overdue.namespace = "bank".into();
    overdue.deadline_in_seconds = 0.0;
    overdue.waiting_for = "3 in flight".into();
    let drains = vec![
        drain("web-1"),
        overdue,
        ended("web-5c8d-old", Outcome::Drained, ""),
        ended("web-7", Outcome::Busy, "50 in flight; turn on the last call"),
    ];
    assert_eq!(
        lines(&status(&node(drains))),
        [
            "lastcall 0.1.0, up 3m12s; eBPF by tcx, 14 of 65536 connections in the table",
            "4 pods Terminating, 2 draining, 4 hooks waiting",
            "",
            "NAMESPACE  POD           SINCE  DEADLINE  HOOKS  OPEN  IN FLIGHT  FLOWS  KNOWN                         WAITING FOR",
            "shop       web-1          1.2s       24s      2    14          3      2  12 seen, 1 inferred, 1 doubt  settle: waited 1.2 s of 5 s: 0.3 connections/s, silence proves nothing",
            "bank       api-0          1.2s      over      2    14          3      2  12 seen, 1 inferred, 1 doubt  3 in flight",
            "shop       web-5c8d-old    12s         -      0     0          0      0  -                             drained",
            "shop       web-7           12s         -      0     0          0      0  -                             busy: 50 in flight; turn on the last call",
        ]
    );
}

#[test]
fn what_is_wrong_comes_first() {
    let mut node = node(vec![]);
    node.ebpf = EbpfStatus { how: "operation not permitted".into(), ..EbpfStatus::default() };
    node.problems = vec!["pods.yaml:7: no such field: adress\u{1b}[2J".into()];
    assert_eq!(
        lines(&status(&node)),
        [
            "lastcall 0.1.0, up 3m12s; no eBPF (operation not permitted): sockets are polled",
            "problem: pods.yaml:7: no such field: adress\u{fffd}[2J",
            "No pod of this node is Terminating.",
        ]
    );
}

#[test]
fn connections_of_a_pod_the_pressing_ones_first() {
    let mut pod = drain("web-1");
    let mut old = connection("[2001:db8::9]:443", ConnectionState::Doubt);
    old.since_seconds = None;
    old.last_in_seconds = None;
    old.known = Known::Doubt;
    old.protocol = "tcp".into();
    old.why = "older than the drain, ages tie".into();
    let mut idle = connection("10.0.9.1:40000", ConnectionState::Idle);
    idle.last_out_seconds = Some(4.0);
    idle.known = Known::Inferred;
    idle.why = "answered".into();
    pod.connections = vec![
        idle,
        old,
        connection("10.0.9.2:5000", ConnectionState::InFlight),
        connection("10.0.9.1:5000", ConnectionState::InFlight),
    ];
    pod.connections_left_out = 10;
    assert_eq!(
        lines(&connections(&pod)),
        [
            "shop/web-1  10.0.0.5, fd00::5",
            "Terminating for 1.2s, 24s to the deadline; 2 hooks waiting, until=auto",
            "waiting for: settle: waited 1.2 s of 5 s: 0.3 connections/s, silence proves nothing",
            "14 open (3 in flight, 1 doubt, 10 idle), 2 UDP flows; 12 seen, 1 inferred, 1 doubt",
            "",
            "PEER               LOCAL          PROTOCOL  STATE      SINCE  LAST IN  LAST OUT  KNOWN     WHY",
            "10.0.9.1:5000      10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen      request without an answer",
            "10.0.9.2:5000      10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen      request without an answer",
            "[2001:db8::9]:443  10.0.0.5:8080  tcp       doubt          -        -         -  doubt     older than the drain, ages tie",
            "10.0.9.1:40000     10.0.0.5:8080  http/1    idle       1m01s     0.3s      4.0s  inferred  answered",
            "and 10 more",
        ]
    );
}

#[test]
fn who_was_told_to_leave_and_who_was_not() {
    let mut pod = drain("web-1");
    pod.waiting_for = "4 connections".into();
    pod.settle = "5 s: 0.3 connections/s, silence proves nothing".into();
    let call = LastCallStatus { ports: "http".into(), told: 9, left: 7, stayed: 1, unable: None };
    pod.last_call = Some(call.clone());
    let one = |peer: &str, told: Option<f64>, words: Option<&str>| ConnectionStatus {
        told_seconds: told,
        last_call: words.map(Into::into),
        ..connection(peer, ConnectionState::InFlight)
    };
    pod.connections = vec![
        one("10.0.9.1:1", Some(0.3), Some("told")),
        one("10.0.9.1:2", Some(7.1), Some("told, and stays")),
        one("10.0.9.1:3", None, Some("no: upgraded")),
        one("10.0.9.1:4", None, None),
    ];
    assert_eq!(
        lines(&connections(&pod))[2..],
        [
            "waiting for: 4 connections",
            "to settle took 5 s: 0.3 connections/s, silence proves nothing",
            "last call: 9 clients told to leave, 7 left, 1 went on all the same",
            "14 open (3 in flight, 1 doubt, 10 idle), 2 UDP flows; 12 seen, 1 inferred, 1 doubt",
            "",
            "PEER        LOCAL          PROTOCOL  STATE      SINCE  LAST IN  LAST OUT  KNOWN  WHY                        TOLD TO LEAVE",
            "10.0.9.1:1  10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen   request without an answer  0.3s ago",
            "10.0.9.1:2  10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen   request without an answer  7.1s ago: told, and stays",
            "10.0.9.1:3  10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen   request without an answer  no: upgraded",
            "10.0.9.1:4  10.0.0.5:8080  http/1    in flight  1m01s     0.3s         -  seen   request without an answer  -",
        ]
    );
    assert_eq!(
        lines(&status(&node(vec![pod, drain("web-2")])))[3..],
        [
            "NAMESPACE  POD    SINCE  DEADLINE  HOOKS  OPEN  IN FLIGHT  FLOWS  TOLD  KNOWN                         WAITING FOR",
            "shop       web-1   1.2s       24s      2    14          3      2     9  12 seen, 1 inferred, 1 doubt  4 connections",
            "shop       web-2   1.2s       24s      2    14          3      2     -  12 seen, 1 inferred, 1 doubt  settle: waited 1.2 s of 5 s: 0.3 connections/s, silence proves nothing",
        ]
    );
    let unable = LastCallStatus { told: 0, left: 0, stayed: 0, unable: Some("polled".into()), ..call };
    assert_eq!(last_call(&unable), "0 clients told to leave, 0 left; none can be told: polled");
}

#[test]
fn a_pod_that_has_drained() {
    assert_eq!(
        lines(&connections(&ended("web-1", Outcome::Drained, ""))),
        [
            "shop/web-1  10.0.0.5, fd00::5",
            "Terminating for 12s; 0 hooks waiting, until=auto",
            "ended: drained",
            "0 open",
        ]
    );
}

/// What the agent writes is what the command line reads.
#[test]
fn json_there_and_back() {
    let mut pod = ended("web-1", Outcome::Deadline, "3 in flight");
    pod.connections = vec![connection("10.0.9.1:5000", ConnectionState::InFlight)];
    let before = node(vec![pod, drain("web-2")]);
    let text = serde_json::to_string(&before).unwrap();
    assert!(text.contains(r#""outcome":"deadline""#) && text.contains(r#""state":"in_flight""#), "{text}");
    assert!(text.contains(r#""known":"seen""#) && text.contains(r#""peer":"10.0.9.1:5000""#), "{text}");
    assert_eq!(text.matches("\"connections\":").count(), 1, "left out where there are none: {text}");
    assert_eq!(serde_json::from_str::<NodeStatus>(&text).unwrap(), before);
}
