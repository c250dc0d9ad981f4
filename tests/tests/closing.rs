//! How connections end: by FIN from either side, by RST, by halves, without a word, and by the thousand.

use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Client, Conn, Hook, Node, Server, Stop, clock, scenarios};

/// The pod has settled, and an agent that errs would have answered. No whole number of seconds: what only
/// the reconcile finds, it does not find at that moment.
const A_WHILE: Duration = Duration::from_millis(2600);
/// From the last close to the answer: events, no polling.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The same as the agent measures it, and as the clock does where a dump was faster than the event. A poll would
/// come 400 ms after that moment.
const OWN: Duration = Duration::from_millis(500);
const FASTER: Duration = Duration::from_millis(200);
/// What has not come by then never will.
const AGES: Duration = Duration::from_secs(30);

scenarios! {
    /// A client's FIN is half of the end: the app may still answer. The second FIN is the other half.
    fn a_fin_from_the_client(node) {
        let session = Session::start(node)?;
        session.client.close();
        ensure!(session.stop.still_held_after(A_WHILE), "answered while the app could still send");
        session.server.close();
        ended(&session.stop)
    }

    /// The same the other way round.
    fn a_fin_from_the_app(node) {
        let mut session = Session::start(node)?;
        session.server.close();
        ensure!(session.client.closed_within(AGES)?, "no FIN came");
        session.client.close();
        ended(&session.stop)
    }

    /// A reset that comes in is anybody's word: the socket is asked, and has gone.
    fn a_reset_from_the_client(node) {
        let session = Session::start(node)?;
        session.client.reset()?;
        ended(&session.stop)
    }

    /// The same of a connection that packets have shown, with a request on it.
    fn a_reset_from_a_new_client(node) {
        let mut session = Session::start(node)?;
        session.client.send("COMMIT")?;
        session.server.expect("COMMIT")?;
        ensure!(session.stop.still_held_after(A_WHILE), "answered with a request in flight");
        session.client.reset()?;
        ended(&session.stop)
    }

    /// A reset that goes out is the pod's own.
    fn a_reset_from_the_app(node) {
        let session = Session::start(node)?;
        session.server.reset()?;
        ended(&session.stop)
    }

    /// The client has asked and shut its sending side; the answer comes six seconds later. Once on a
    /// connection older than the attach, once on a newer one.
    fn a_half_close_with_the_answer_still_coming(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).hook(Hook::http("/drain?settle=1s")).start()?;
        let (server, client) = (pod.listen(8080)?, node.client()?);
        let half_closed = || {
            let mut conn = client.connect(&pod, 8080)?;
            conn.get("/report")?;
            conn.finish_sending()?;
            let mut served = server.accept()?;
            served.request()?;
            anyhow::Ok((conn, served))
        };
        let older = half_closed()?;
        let stop = node.kubelet().delete(&pod)?;
        let newer = half_closed()?;
        ensure!(stop.still_held_after(Duration::from_millis(6300)), "answered before the app");
        let (mut conn, mut served) = newer;
        served.respond("here it is")?;
        served.close();
        conn.response()?;
        ensure!(stop.still_held_after(Duration::from_millis(2300)), "answered while the older one waited");
        let (mut conn, mut served) = older;
        served.respond("here it is")?;
        served.close();
        conn.response()?;
        ended(&stop)
    }

    /// A client that vanishes with an answer on its way to it holds nobody up until the deadline: six
    /// retransmissions, some 13 seconds, and it is given up.
    fn a_client_that_vanishes_without_a_packet(node) {
        let _agent = node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s");
        let pod = node.pod("web").port("http", 8080).hook(hook).grace(120).start()?;
        let (server, client) = (pod.listen(8080)?, node.client()?);
        let mut conn = client.connect(&pod, 8080)?;
        conn.get("/report")?;
        let mut served = server.accept()?;
        served.request()?;
        client.unplug()?;
        served.respond("to nobody")?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(5)), "given up too soon");
        let answer = stop.answered_within(Duration::from_secs(60))?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(answer.body["remained"]["vanished"] == 1, "{answer:?}");
        Ok(())
    }

    /// The same with a request that comes after the attach, so that packets alone tell of it.
    fn a_new_client_that_vanishes_without_a_packet(node) {
        let agent = node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s");
        let pod = node.pod("web").port("http", 8080).hook(hook).grace(120).start()?;
        let (server, client) = (pod.listen(8080)?, node.client()?);
        let ask = |client: &Client| -> Result<(Conn, Conn)> {
            let mut conn = client.connect(&pod, 8080)?;
            conn.get("/report")?;
            let mut served = server.accept()?;
            served.request()?;
            Ok((conn, served))
        };
        // Somebody else is waited for until the new one is there.
        let (mut other, mut others) = ask(&node.client()?)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let (_conn, mut served) = ask(&client)?;
        others.respond("here it is")?;
        other.response()?;
        drop((other, others));
        client.unplug()?;
        served.respond("to nobody")?;
        ensure!(stop.still_held_after(Duration::from_secs(5)), "given up too soon");
        let answer = stop.answered_within(Duration::from_secs(60))?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(answer.body["remained"]["vanished"] == 1, "{answer:?}");
        Ok(())
    }

    /// Two thousand closes within milliseconds: one answer, at once, and nothing is left.
    fn two_thousand_close_at_once(node) {
        let _agent = node.agent().start()?;
        let hook = Hook::http("/drain?until=closed&settle=1s");
        let pod = node.pod("web").http(8080).hook(hook).start()?;
        let client = node.client()?;
        let crowd = client.connect_many(&pod, 8080, 2000)?;

        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with 2,000 connections open");
        let from = clock::now();
        drop(crowd);
        let closed = clock::now();
        let answer = stop.answered_within(AGES)?;
        eprintln!(
            "2,000 closed in {:.0} ms, answered {:.0} ms later; {}",
            (closed - from) * 1e3, (answer.at - closed) * 1e3, answer.body
        );
        ensure!(answer.outcome() == "drained", "{answer:?}");
        answer.follows_the_last_close(AT_ONCE, OWN)
    }

    /// Of four drains one or the other may be dumped at the very moment of its last close, and has no event to
    /// tell of; an agent that polls never has.
    fn the_last_close_is_an_event(node) {
        node.agent().start()?;
        let outside = node.client()?;
        let session = |n| -> Result<_> {
            let hook = Hook::http("/drain?settle=1s");
            let pod = node.pod(&format!("db-{n}")).port("db", 5432).hook(hook).grace(90).start()?;
            let listener = pod.listen(5432)?;
            let client = outside.connect(&pod, 5432)?;
            Ok((node.kubelet().delete(&pod)?, client, listener.accept()?, listener))
        };
        let sessions = (0..4).map(session).collect::<Result<Vec<_>>>()?;
        let mut measured = 0;
        for (stop, client, server, _listener) in sessions {
            ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
            client.close();
            server.close();
            let answer = stop.answered_within(AT_ONCE)?;
            ensure!(answer.outcome() == "drained", "{answer:?}");
            answer.follows_the_last_close(OWN, FASTER)?;
            measured += u32::from(answer.body["last_close_to_answer_ms"].is_number());
        }
        ensure!(measured > 0, "all four were polled");
        Ok(())
    }
}

/// A draining pod whose hook is held by one open connection of a protocol that nobody knows.
struct Session {
    stop: Stop,
    client: Conn,
    server: Conn,
    /// Without it nothing of the pod would be left when the connection has gone.
    _listener: Server,
    /// Its kernel takes part in the end of its connection.
    _outside: Client,
}

impl Session {
    fn start(node: &Node) -> Result<Self> {
        node.agent().start()?;
        let pod = node.pod("db").port("db", 5432).hook(Hook::http("/drain?settle=1s")).start()?;
        let (listener, outside) = (pod.listen(5432)?, node.client()?);
        let mut client = outside.connect(&pod, 5432)?;
        let mut server = listener.accept()?;
        client.send("BEGIN")?;
        server.expect("BEGIN")?;
        server.send("OK")?;
        client.expect("OK")?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
        Ok(Self { stop, client, server, _listener: listener, _outside: outside })
    }
}

/// The end of the last connection is an event, and the answer follows it.
fn ended(stop: &Stop) -> Result<()> {
    let answer = stop.answered_within(AT_ONCE)?;
    ensure!(answer.outcome() == "drained", "{answer:?}");
    answer.follows_the_last_close(OWN, FASTER)
}
