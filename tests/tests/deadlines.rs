//! What ends a drain other than its connections: deadlines, deletions, namespaces.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use lastcall_tests::netns::Netns;
use lastcall_tests::{Agent, Conn, Hook, Node, Pod, clock, scenarios};

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// From an event to the answer, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

fn secs(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// A pod that holds its hook as long as the session is open.
fn database(node: &Node, grace: u32) -> Result<(Pod, Conn)> {
    let pod = node.pod("db").echo(5432).grace(grace).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    talk(&mut session)?;
    Ok((pod, session))
}

fn talk(session: &mut Conn) -> Result<()> {
    session.send("SELECT 1")?;
    session.expect("SELECT 1")
}

/// The agent's wall clock, by the time of a line of its log that a broken manifest makes it write.
fn wall_clock(node: &Node, agent: &Agent, step: &str) -> Result<Timestamp> {
    let file = format!("broken{step}.yaml");
    node.cluster().write(&file, "{unfinished: ")?;
    let line: serde_json::Value = serde_json::from_str(&agent.logs(&file, SOON)?)?;
    Ok(line["timestamp"].as_str().context("a line without a time")?.parse()?)
}

scenarios! {
    /// The grace ends first: an answer while the reserve is left, which says what remained.
    fn a_deadline_with_connections_left(node) {
        let _agent = node.agent().start()?;
        let (pod, _session) = database(node, 12)?;
        let stop = node.kubelet().delete(&pod)?;
        let answer = stop.answered_within(SOON)?;
        // 12 s less 3 s of reserve.
        ensure!(answer.since_order >= secs(8.99), "answered before the deadline: {answer:?}");
        ensure!(answer.took_less_than(secs(9.6)), "answered behind the deadline: {answer:?}");
        ensure!((answer.status, answer.outcome()) == (503, "deadline"), "{answer:?}");
        ensure!(answer.body["remained"]["open"] == 1 && answer.body["remained"]["in_flight"] == 1, "{answer:?}");
        ensure!(answer.body["why"].to_string().contains("1 connection in flight"), "{answer:?}");
        Ok(())
    }

    /// A second delete with a shorter grace, which the kubelet does not notice while a hook runs.
    fn a_grace_shortened_mid_drain(node) {
        let _agent = node.agent().start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        // As the API server does it: from the first request on.
        pod.update(|object| object.deleted = object.deleted.map(|(at, _)| (at, 8)))?;
        let answer = stop.answered_within(SOON)?;
        // 8 s less 2 s of reserve.
        ensure!(answer.since_order >= secs(5.99), "answered before the new deadline: {answer:?}");
        ensure!(answer.outcome() == "deadline" && answer.took_less_than(secs(6.6)), "{answer:?}");
        Ok(())
    }

    /// `--force --grace-period=0` takes the object away; the hook is all that keeps the pod.
    fn a_pod_object_gone_mid_drain(node) {
        let _agent = node.agent().start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        // As `kubectl get pods -o yaml` prints that there is none.
        node.cluster().write("pod-db.yaml", "apiVersion: v1\nkind: List\nitems: []\n")?;
        let answer = stop.answered_within(AT_ONCE)?;
        ensure!((answer.status, answer.outcome()) == (200, "forced"), "{answer:?}");
        ensure!(answer.body["remained"]["open"] == 1, "{answer:?}");
        Ok(())
    }

    /// A StatefulSet's next pod has the name of the last: another UID is another pod.
    fn a_pod_replaced_by_one_of_its_name(node) {
        let agent = node.agent().start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        pod.update(|object| {
            "11111111-0000-4000-8000-000000000000".clone_into(&mut object.uid);
            object.deleted = None;
        })?;
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "forced");
        // The kubelet is done with the first one, and does not clean up after the second.
        stop.gone_within(SOON)?;
        // The new one drains by itself.
        node.cluster().mark_deleted(pod.name(), None)?;
        agent.sees(&pod, |drain| drain["uid"] == "11111111-0000-4000-8000-000000000000").map(drop)
    }

    /// Nothing is left to wait for where nothing is left.
    fn a_namespace_removed_mid_drain(node) {
        let _agent = node.agent().start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        pod.tear_down()?;
        let answer = stop.answered_within(AT_ONCE)?;
        ensure!((answer.status, answer.outcome()) == (200, "gone"), "{answer:?}");
        Ok(())
    }

    /// The app has served, and is dead before its pod is deleted: nothing of it listens any more. (Of a pod
    /// that has never accepted a connection no socket is no proof: its sockets may be elsewhere.)
    fn an_app_already_gone(node) {
        let pod = node.pod("web").http(8080).start()?;
        let _agent = node.agent().start()?;
        let mut served = node.client()?.connect(&pod, 8080)?;
        served.get("/")?;
        served.response()?;
        served.close();
        pod.kill_app();
        node.cluster().mark_deleted(pod.name(), None)?;
        let answer = node.kubelet().call_hook(&pod)?.answered_within(AT_ONCE)?;
        ensure!(answer.outcome() == "gone", "{answer:?}");
        Ok(())
    }

    /// A link made anew is watched as the old one was: connections over it count.
    fn a_link_recreated_mid_drain(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("db").echo(5432).hook(Hook::http("/drain?settle=8s")).grace(60).start()?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(1.0)), "answered before it settled");
        pod.recreate_link()?;
        let mut session = node.client()?.connect(&pod, 5432)?;
        // The link is watched a moment after it is there.
        let until = Instant::now() + SOON;
        loop {
            talk(&mut session)?;
            let connections = agent.get(9902, "/connections/default/db")?.1;
            if connections.contains(r#""known":"seen""#) {
                break;
            }
            ensure!(Instant::now() < until, "no packet of it was seen: {connections}");
            std::thread::sleep(secs(0.1));
        }
        ensure!(stop.still_held_after(secs(11.0)), "answered with a session over the new link");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// An agent that comes when the pod is already on its way out learns what is in flight from the sockets.
    fn an_agent_that_starts_mid_drain(node) {
        let pod = node.pod("web").port("http", 8080).start()?;
        let server = pod.listen(8080)?;
        let mut client = node.client()?.connect(&pod, 8080)?;
        let mut served = server.accept()?;
        client.get("/report")?;
        served.request()?;
        node.cluster().mark_deleted(pod.name(), None)?;
        let _agent = node.agent().start()?;
        let stop = node.kubelet().stop(&pod)?;
        ensure!(stop.still_held_after(secs(5.0)), "answered with a request in flight");
        served.respond("here it is")?;
        client.response()?;
        client.close();
        served.close();
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// The wall clock jumps by an hour, both ways: no deadline is anywhere near it.
    fn a_wall_clock_that_jumps(node) {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
        if !Path::new(library).exists() {
            eprintln!("SKIPPED: the wall clock has no namespace, and {library} (Debian: faketime) is missing");
            return Ok(());
        }
        let clock = node.host().outside("/run/lastcall/clock");
        fs::write(&clock, "+0")?;
        let agent = node.agent().variable("LD_PRELOAD", library).variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let agent = agent.variable("FAKETIME_NO_CACHE", "1");
        let agent = agent.variable("FAKETIME_TIMESTAMP_FILE", "/run/lastcall/clock");
        let agent = agent.start()?;
        let (pod, session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(1.0)), "answered with a session open");
        // The earliest and the latest that the deadline can be, by a clock that does not jump.
        let deadline = || -> Result<(f64, f64)> {
            let earliest = clock::now();
            let left = agent.status()?["drains"][0]["deadline_in_seconds"].as_f64().context("no deadline")?;
            Ok((earliest + left, clock::now() + left))
        };
        let (earliest, latest) = deadline()?;
        for (step, seconds) in [("+1h", 3600.0), ("-1h", -3600.0), ("+0", 0.0)] {
            fs::write(&clock, step)?;
            ensure!(stop.still_held_after(secs(2.0)), "a step to {step} ended the drain");
            let now = deadline()?;
            let moved = (now.0 - latest).max(earliest - now.1);
            ensure!(moved < 0.5, "a step to {step} moved the deadline by {moved} s at least");
            // So that the test can fail: the agent's own clock did step.
            let said = wall_clock(node, &agent, step)?.duration_since(Timestamp::now()).as_secs_f64();
            ensure!((said - seconds).abs() < 60.0, "after a step to {step} its clock is off by {said} s");
        }
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// The remains of an earlier pod have the address too. To pick one of the two could end the other's
    /// drain, to answer at once would be SIGTERM at once: the hook sleeps, as it would without an agent.
    fn two_namespaces_with_the_pods_addresses(node) {
        let _agent = node.agent().flag("--nobody-home-wait", "4s").start()?;
        let pod = node.pod("web").http(8080).start()?;
        let remains = Netns::new()?;
        let [first, second] = pod.ips();
        remains.ip(&format!(
            "link add eth0 type veth peer name peer0\naddr add {first} dev eth0\naddr add {second} dev eth0\n"
        ))?;
        node.host().publish(&remains, "remains")?;
        let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
        ensure!(answer.waited > secs(3.8) && answer.took_less_than(secs(5.0)), "{answer:?}");
        ensure!(answer.outcome() == "deadline", "{answer:?}");
        ensure!(answer.body["why"].to_string().contains("several network namespaces"), "{answer:?}");
        Ok(())
    }
}
