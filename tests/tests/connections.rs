//! Which connections hold a hook, and which do not. Each scenario runs against the agent's own binary.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Client, Hook, Pod, scenarios};

/// The pods stand behind a ClusterIP Service to which hardly anybody comes: its settle floor is 5 s.
const SOON: Duration = Duration::from_secs(8);
/// Long enough for an agent that errs to have answered, and shorter than any deadline here.
const A_WHILE: Duration = Duration::from_secs(7);
/// From the last close to the answer, with the confirming dump: events, no polling.
const AT_ONCE: Duration = Duration::from_secs(1);

scenarios! {
    /// A request that was on its way before anybody looked holds the hook until its answer is out.
    fn opened_before_the_attach(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").port("http", 8080).start()?;
        let server = pod.listen(8080)?;
        let mut client = node.client()?.connect(&pod, 8080)?;
        let mut served = server.accept()?;
        client.get("/report")?;
        served.request()?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        served.respond("here it is")?;
        client.response()?;
        client.close();
        served.close();
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        Ok(())
    }

    /// Headers that trickle in are a request, long before its last line.
    fn a_request_in_flight_while_its_headers_trickle(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").port("http", 8080).start()?;
        let server = pod.listen(8080)?;
        let mut client = node.client()?.connect(&pod, 8080)?;
        let mut served = server.accept()?;
        client.send("GET /slow-typist HTTP/1.1\r\n")?;

        let stop = node.kubelet().delete(&pod)?;
        for n in 0..4 {
            ensure!(stop.still_held_after(Duration::from_secs(2)), "answered after {n} headers");
            client.send(format!("X-Header-{n}: value\r\n"))?;
        }
        client.send("\r\n")?;
        served.request()?;
        served.respond("at last")?;
        client.response()?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// `auto` does not wait for a keep-alive connection on which nothing is in flight.
    fn idle_keep_alive_is_ignored_by_auto(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).start()?;
        let mut idle = node.client()?.connect(&pod, 8080)?;
        // The answer leaves some ticks after the request came: the kernel's clock can tell them apart.
        idle.get("/slow?ms=50")?;
        idle.response()?;

        let stop = node.kubelet().delete(&pod)?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(idle.closed_within(Duration::from_secs(30))?, "the app ended, its connection did not");
        Ok(())
    }

    /// `closed` waits for the same connection, and answers when it closes.
    fn idle_keep_alive_is_waited_for_by_closed(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain?until=closed")).start()?;
        let idle = exchanged(&node.client()?, &pod)?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a connection open");
        idle.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Silence says nothing on a connection whose protocol nobody knows: a transaction may be open.
    fn an_unknown_protocol_is_waited_for(node) {
        let _agent = node.agent().start()?;
        node.service("db").port("db", 5432, 5432).start()?;
        let pod = node.pod("db").echo(5432).start()?;
        let mut session = node.client()?.connect(&pod, 5432)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
        session.send("COMMIT")?;
        session.expect("COMMIT")?;
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Clients that still come say that routing has not converged; the hook waits for their silence, and
    /// for the deadline at most.
    fn new_connections_extend_settle(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).start()?;
        let client = node.client()?;

        let stop = node.kubelet().delete(&pod)?;
        for n in 0..8 {
            exchanged(&client, &pod).context("the pod still serves")?.close();
            ensure!(stop.still_held_after(Duration::from_secs(1)), "answered a second after client {n} came");
        }
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }
}

/// A connection with whole exchanges behind it. A single fast one of a connection older than the attach
/// is doubt for `doubt-after`: its client still acknowledges at once, so its ages tell nothing.
fn exchanged(client: &Client, pod: &Pod) -> Result<lastcall_tests::Conn> {
    let mut conn = client.connect(pod, 8080)?;
    for _ in 0..4 {
        conn.get("/")?;
        conn.response()?;
    }
    Ok(conn)
}
