//! Requests on their way when the pod is deleted, or coming after: none is cut, however slow it is and
//! whoever is slow.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lastcall_tests::{Agent, Client, Conn, Held, Hook, Node, Pod, Server, Stop, scenarios};

/// Settled, and `idle-after` over: an agent that errs would have answered.
const A_WHILE: Duration = Duration::from_millis(2600);
/// The last response has been sent, its connection is idle a second later.
const SOON: Duration = Duration::from_secs(8);

scenarios! {
    /// Clients that come while the programs are being attached, each with a request that outlives the
    /// settling: some are in the first dump, some in the packets, none in neither.
    fn opened_during_the_attach(node) {
        let stage = Stage::with_app(node)?;
        let stop = thread::scope(|scope| {
            let opened = |_| {
                thread::sleep(Duration::from_millis(10));
                let conn = stage.client.connect(&stage.pod, 8080);
                scope.spawn(move || {
                    let mut conn = conn?;
                    conn.exchange("/slow?ms=5000")?;
                    conn.heard_at()
                })
            };
            let before: Vec<_> = (0..30).map(opened).collect();
            let stop = node.kubelet().delete(&stage.pod)?;
            let all: Vec<_> = before.into_iter().chain((0..70).map(opened)).collect();
            let mut last = 0.0_f64;
            for (n, one) in all.into_iter().enumerate() {
                match one.join() {
                    Ok(Ok(at)) => last = last.max(at),
                    Ok(Err(error)) => bail!("connection {n} of 100, 30 before the deletion: {error:#}"),
                    Err(_) => bail!("a client panicked"),
                }
            }
            ensure!(stop.answered_within(SOON)?.at > last, "answered before the last response");
            anyhow::Ok(stop)
        })?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// A client that comes while the hook is held, with a request that outlives the settling.
    fn opened_after_the_attach(node) {
        let stage = Stage::with_app(node)?;
        let mut older = stage.client.connect(&stage.pod, 8080)?;
        older.get("/slow?ms=5000")?;
        let stop = stage.delete(node)?;
        let mut newer = stage.client.connect(&stage.pod, 8080)?;
        newer.get("/slow?ms=5000")?;
        older.response()?;
        newer.response()?;
        let last = newer.heard_at()?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        Ok(())
    }

    /// Ten seconds without a byte either way: on a new connection, on an older one at its first request,
    /// and on an older one that was asked after the attach.
    fn a_server_that_thinks_for_ten_seconds(node) {
        let stage = Stage::with_app(node)?;
        let mut used = stage.client.connect(&stage.pod, 8080)?;
        used.exchange("/")?;
        let mut older = stage.client.connect(&stage.pod, 8080)?;
        older.get("/slow?ms=10000")?;
        let stop = stage.delete(node)?;
        let mut newer = stage.client.connect(&stage.pod, 8080)?;
        newer.get("/slow?ms=10000")?;
        used.get("/slow?ms=10000")?;
        let mut last = 0.0_f64;
        for conn in [&mut older, &mut newer, &mut used] {
            conn.response()?;
            last = last.max(conn.heard_at()?);
        }
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        Ok(())
    }

    /// Responses that take ten seconds to send, with a length and chunked, begun before the attach and
    /// after it.
    fn responses_that_stream_for_ten_seconds(node) {
        let stage = Stage::with_app(node)?;
        let mut conns = Vec::new();
        let mut open = |path| {
            let mut conn = stage.client.connect(&stage.pod, 8080)?;
            conn.get(path)?;
            conns.push(conn);
            anyhow::Ok(())
        };
        let paths = ["/stream?ms=500&chunks=20", "/stream?ms=500&chunks=20&chunked=1"];
        paths.into_iter().try_for_each(&mut open)?;
        let stop = stage.delete(node)?;
        paths.into_iter().try_for_each(&mut open)?;
        let mut last = 0.0_f64;
        for mut conn in conns {
            conn.response()?;
            last = last.max(conn.heard_at()?);
            // Of the older ones nobody has seen where they end: open, they would be in doubt.
            conn.close();
        }
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        Ok(())
    }

    /// The app has written its response and is done with it; the client takes it in sips, with pauses of
    /// three seconds. What is in the send queue would be lost with the pod.
    fn slow_readers_with_full_send_queues(node) {
        let (stage, server) = Stage::served(node)?;
        // From the handshake on: a window that shrinks later costs retransmissions.
        stage.client.netns().sysctl(&[("ipv4/tcp_rmem", "4096 32768 32768")])?;
        let begun = || {
            let (mut conn, mut served) = stage.accepted(&server)?;
            served.send_buffer(1 << 20)?;
            conn.get("/big")?;
            served.request()?;
            served.respond(&"x".repeat(150_000))?;
            anyhow::Ok((conn, served))
        };
        let older = begun()?;
        let stop = stage.delete(node)?;
        let newer = begun()?;
        for (mut conn, _served) in [newer, older] {
            ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered with a full send queue");
            conn.expect("HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n")?;
            conn.expect("x".repeat(60_000))?;
            ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered with half of it unsent");
            conn.expect("x".repeat(90_000))?;
        }
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        Ok(())
    }

    /// Three seconds of silence in the middle of a response are no end of it: the length that was
    /// announced has not been sent, the last chunk neither.
    fn a_pause_in_the_middle_of_a_response(node) {
        let (stage, server) = Stage::served(node)?;
        // Waited for, so that the drain is not over before the test has begun.
        let older = stage.held(&server)?;
        let stop = stage.delete(node)?;
        let (mut sized, mut by_length) = stage.asked(&server)?;
        let (mut chunked, mut by_chunks) = stage.asked(&server)?;
        older.leaves()?;
        by_length.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
        ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered with five bytes to come");
        by_length.send("world")?;
        sized.response()?;
        by_chunks.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered without the last chunk");
        by_chunks.send("5\r\nworld\r\n0\r\n\r\n")?;
        chunked.response()?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// The same of responses whose beginning nobody saw: it was sent before the attach.
    fn a_pause_in_the_middle_of_an_older_response(node) {
        let (stage, server) = Stage::served(node)?;
        let (mut sized, mut by_length) = stage.asked(&server)?;
        let (mut chunked, mut by_chunks) = stage.asked(&server)?;
        by_length.send("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nhello")?;
        by_chunks.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        let stop = stage.delete(node)?;
        by_length.send("world")?;
        by_chunks.send("5\r\nworld\r\n")?;
        ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered in the middle of a response");
        by_length.send("again")?;
        by_chunks.send("5\r\nagain\r\n0\r\n\r\n")?;
        sized.response()?;
        chunked.response()?;
        // Nobody can know that these were the ends: doubt-after.
        ensure!(stop.answered_within(Duration::from_secs(12))?.outcome() == "drained");
        Ok(())
    }

    /// A keep-alive connection with exchanges behind it and a request before it.
    fn in_flight_at_the_attach_and_answered_after(node) {
        let stage = Stage::with_app(node)?;
        let mut conn = stage.client.connect(&stage.pod, 8080)?;
        for _ in 0..4 {
            conn.exchange("/")?;
        }
        thread::sleep(Duration::from_millis(300));
        conn.get("/slow?ms=6000")?;
        let stop = stage.delete(node)?;
        conn.response()?;
        let last = conn.heard_at()?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        Ok(())
    }

    /// A client back to back: its last request came in the same jiffy in which the response before it
    /// left, so that the socket's ages tell nothing. It is in doubt, and doubt waits.
    fn a_request_that_shares_the_jiffy_of_the_last_response(node) {
        let stage = Stage::with_app(node)?;
        let mut conns: Vec<Conn> = Vec::new();
        for _ in 0..8 {
            let mut conn = stage.client.connect(&stage.pod, 8080)?;
            for _ in 0..50 {
                conn.exchange("/")?;
            }
            conn.get("/slow?ms=6000")?;
            conns.push(conn);
        }
        let stop = stage.delete(node)?;
        let mut last = 0.0_f64;
        for conn in &mut conns {
            conn.response()?;
            last = last.max(conn.heard_at()?);
        }
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.at > last, "{answer:?}");
        Ok(())
    }

    /// Two requests at once, in one segment and in two. The first answer is not the second's.
    fn pipelined_requests(node) {
        let (stage, server) = Stage::served(node)?;
        // Waited for, so that the drain is not over before the test has begun.
        let older = stage.held(&server)?;
        let stop = stage.delete(node)?;
        let get = "GET /report HTTP/1.1\r\nHost: test\r\n\r\n";
        let pipelines = [vec![get.repeat(2)], vec![get.to_owned(); 2]];
        let mut both = Vec::new();
        for requests in pipelines {
            let (mut conn, mut served) = stage.accepted(&server)?;
            requests.iter().try_for_each(|request| conn.send(request))?;
            for _ in 0..2 {
                served.request()?;
            }
            both.push((conn, served));
        }
        older.leaves()?;
        both.iter_mut().try_for_each(|(_, served)| served.respond("the first"))?;
        for (conn, served) in &mut both {
            conn.response()?;
            ensure!(stop.still_held_after(Duration::from_millis(3300)), "answered with a request unanswered");
            served.respond("the second")?;
            conn.response()?;
        }
        // Nobody counts the answers to requests that came at once: the last may be owed until doubt-after.
        ensure!(stop.answered_within(Duration::from_secs(14))?.outcome() == "drained");
        Ok(())
    }

    /// A request in the accept queue, before the attach and after: the app has not even seen it.
    fn a_request_that_nobody_has_accepted(node) {
        let (stage, server) = Stage::served(node)?;
        let mut older = stage.client.connect(&stage.pod, 8080)?;
        older.get("/report")?;
        let stop = stage.delete(node)?;
        let mut newer = stage.client.connect(&stage.pod, 8080)?;
        newer.get("/report")?;
        for conn in [&mut older, &mut newer] {
            ensure!(stop.still_held_after(A_WHILE), "answered with a request in the accept queue");
            let mut served = server.accept()?;
            served.request()?;
            served.respond("here it is")?;
            conn.response()?;
        }
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }
}

/// A pod that speaks HTTP, with an agent on its node and a client outside.
struct Stage {
    agent: Arc<Agent>,
    pod: Pod,
    client: Client,
}

impl Stage {
    /// The app serves.
    fn with_app(node: &Node) -> Result<Self> {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain?settle=1s")).start()?;
        Ok(Self { agent, pod, client: node.client()? })
    }

    /// The test serves.
    fn served(node: &Node) -> Result<(Self, Server)> {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).hook(Hook::http("/drain?settle=1s")).start()?;
        let server = pod.listen(8080)?;
        Ok((Self { agent, pod, client: node.client()? }, server))
    }

    /// Deletes the pod, and waits until its packets are watched.
    fn delete(&self, node: &Node) -> Result<Stop> {
        let stop = node.kubelet().delete(&self.pod)?;
        self.agent.watches(&self.pod)?;
        Ok(stop)
    }

    /// A new connection, both ends of it.
    fn accepted(&self, server: &Server) -> Result<(Conn, Conn)> {
        let conn = self.client.connect(&self.pod, 8080)?;
        Ok((conn, server.accept()?))
    }

    /// Somebody in flight.
    fn held(&self, server: &Server) -> Result<Held> {
        let (conn, served) = self.accepted(server)?;
        Held::ask(conn, served)
    }

    /// A new connection with a request that the app has read.
    fn asked(&self, server: &Server) -> Result<(Conn, Conn)> {
        let (mut conn, mut served) = self.accepted(server)?;
        conn.get("/report")?;
        served.request()?;
        Ok((conn, served))
    }
}
