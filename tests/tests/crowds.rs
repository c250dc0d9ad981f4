//! Many clients at once: most of them idle, or none of them ever.

use std::time::Duration;

use anyhow::ensure;
use lastcall_tests::load::Kind;
use lastcall_tests::{Hook, scenarios};

/// Settled and idle, and a margin for two thousand connections on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The connections of a busy load.
const LOAD: usize = 50;

scenarios! {
    /// Two thousand connections that nobody uses, and one that somebody does: it is found among them.
    fn one_slow_request_among_two_thousand_idle_connections(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain?settle=1s")).start()?;
        let client = node.client()?;
        let crowd = client.connect_many(&pod, 8080, 2000)?;
        let mut slow = client.connect(&pod, 8080)?;
        slow.get("/slow?ms=12000")?;

        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a request in flight");
        agent.sees(&pod, |drain| drain["counts"]["open"] == 2001 && drain["counts"]["in_flight"] == 1)?;
        slow.response()?;
        let last = slow.heard_at()?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        ensure!(answer.body["remained"]["open"] == 2001, "{answer:?}");
        drop(crowd);
        Ok(())
    }

    /// Fifty clients in a closed loop, each with its next request before it has heard the last. No waiting
    /// ends that, so it does not last until the deadline: patience to see that nobody leaves, and no more
    /// than as much again for an instant with nothing in flight.
    fn a_closed_loop_of_busy_clients(node) {
        node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s&patience=3s");
        let pod = node.pod("web").http(8080).hook(hook).grace(60).start()?;
        let client = node.client()?;
        let load = client.load(Kind::Busy, pod.addr(8080))?;
        pod.has_sockets(8080, "established", LOAD)?;

        let stop = node.kubelet().delete(&pod)?;
        let answer = stop.answered_within(SOON)?;
        load.finish()?;
        ensure!((answer.outcome(), answer.status) == ("busy", 503), "{answer:?}");
        ensure!(answer.body["why"].as_str().is_some_and(|why| why.contains("last call")), "{answer:?}");
        // Settled, then once or twice the patience.
        ensure!(answer.since_order >= Duration::from_secs(4), "given up too soon: {answer:?}");
        ensure!(answer.took_less_than(Duration::from_millis(8500)), "given up too late: {answer:?}");
        Ok(())
    }

    /// A closed loop that ends is none: the clients leave, and the pod has drained.
    fn a_closed_loop_that_ends_in_time(node) {
        node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s&patience=20s");
        let pod = node.pod("web").http(8080).hook(hook).grace(60).start()?;
        let client = node.client()?;
        let load = client.load(Kind::Busy, pod.addr(8080))?;
        pod.has_sockets(8080, "established", LOAD)?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_millis(2600)), "answered with 50 clients at work");
        let report = load.finish()?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(report.failed == 0 && report.requests >= 50, "{report:?}");
        Ok(())
    }

    /// One long request among them is no loop: it may end, and it is waited for.
    fn a_long_request_in_a_crowd_that_never_rests(node) {
        node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s&patience=2s");
        let pod = node.pod("web").http(8080).hook(hook).grace(60).start()?;
        let client = node.client()?;
        let mut long = client.connect(&pod, 8080)?;
        long.get("/slow?ms=9000")?;
        let load = client.load(Kind::Busy, pod.addr(8080))?;
        pod.has_sockets(8080, "established", 1 + LOAD)?;

        let stop = node.kubelet().delete(&pod)?;
        long.response()?;
        let done = long.heard_at()?;
        long.close();
        let answer = stop.answered_within(SOON)?;
        load.finish()?;
        ensure!(answer.outcome() == "busy" && answer.at > done, "{answer:?}");
        Ok(())
    }
}
