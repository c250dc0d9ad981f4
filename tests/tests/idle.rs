//! What is idle, what only looks idle, and what each `until` makes of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Conn, Stage, clock, scenarios};

/// Settled, and `idle-after` over: an agent that errs would have answered.
const A_WHILE: Duration = Duration::from_millis(2600);
/// Longer than `idle-after`, as the pauses of people are.
const PAUSE: Duration = Duration::from_millis(3300);
/// Settled and idle, and a margin.
const SOON: Duration = Duration::from_secs(15);
/// From the last close to the answer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A request, and a complete answer to it: every way in which an exchange can end.
const EXCHANGES: [(&str, &str); 6] = [
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
    ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n"),
    (
        "PUT",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    ),
];

scenarios! {
    /// However an exchange ends, its connection is idle after it: seen from its first byte, or older than
    /// the attach with its last exchange before it or after it.
    fn keep_alive_connections_of_every_kind(node) {
        // Who is in doubt is not idle before the test is over.
        let stage = Stage::start(node, "http", "/drain?settle=1s&doubt-after=60s")?;
        let mut older = Vec::new();
        let mut used = Vec::new();
        for exchange in EXCHANGES {
            older.push(steady(&stage, exchange)?);
            used.push((exchange, steady(&stage, exchange)?));
        }
        let (stop, held) = stage.delete_held(node)?;
        let mut newer = Vec::new();
        for exchange in EXCHANGES {
            newer.push(steady(&stage, exchange)?);
        }
        for (exchange, (conn, served)) in &mut used {
            exchanged(conn, served, *exchange)?;
        }
        held.leaves()?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(answer.body["remained"]["open"] == 18, "some were not counted: {answer:?}");
        Ok(())
    }

    /// A connection that was upgraded is in use as long as it is open, with pauses or without.
    fn a_websocket_whose_upgrade_was_seen(node) {
        let stage = Stage::start(node, "http", "/drain?settle=1s")?;
        let (stop, held) = stage.delete_held(node)?;
        let mut socket = WebSocket::upgrade(&stage)?;
        held.leaves()?;
        ensure!(stop.still_held_after(PAUSE), "answered with a socket open");
        socket.client_speaks()?;
        ensure!(stop.still_held_after(PAUSE), "answered in a pause");
        socket.server_speaks()?;
        ensure!(stop.still_held_after(PAUSE), "answered in a pause");
        socket.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// The same where nobody saw the upgrade: it was before the attach. The client's frames say it.
    fn a_websocket_whose_upgrade_was_not_seen(node) {
        let stage = Stage::start(node, "http", "/drain?settle=1s")?;
        let mut socket = WebSocket::upgrade(&stage)?;
        socket.client_speaks()?;
        let stop = stage.delete(node)?;
        for _ in 0..2 {
            socket.server_speaks()?;
            ensure!(stop.still_held_after(PAUSE), "answered in a pause");
            socket.client_speaks()?;
            ensure!(stop.still_held_after(PAUSE), "answered in a pause");
        }
        socket.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// The silence of a protocol that nobody knows says nothing. Here the server speaks first, before the
    /// attach and after it, and then nobody.
    fn a_server_that_speaks_first(node) {
        let stage = Stage::start(node, "smtp", "/drain?settle=1s")?;
        let greeted = || {
            let (mut conn, mut served) = stage.accepted()?;
            served.send("220 mail ESMTP\r\n")?;
            conn.expect("220 mail ESMTP\r\n")?;
            anyhow::Ok((conn, served))
        };
        let older = greeted()?;
        let stop = stage.delete(node)?;
        let newer = greeted()?;
        for (conn, served) in [older, newer] {
            ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
            conn.close();
            served.close();
        }
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Nobody says a word, on either side, ever: open is open.
    fn an_unknown_protocol_that_is_silent(node) {
        let stage = Stage::start(node, "db", "/drain?settle=1s")?;
        let older = stage.accepted()?;
        let stop = stage.delete(node)?;
        let newer = stage.accepted()?;
        for (conn, served) in [newer, older] {
            ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
            served.close();
            conn.close();
        }
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// `until=idle` asks for bytes alone: a session and a server that thinks hold nobody, bytes do.
    fn until_idle(node) {
        let stage = Stage::start(node, "db", "/drain?settle=1s&until=idle&idle-after=4s")?;
        let _silent = stage.accepted()?;
        let mut thinking = stage.accepted()?;
        let mut talking = stage.accepted()?;
        thinking.0.send("SELECT everything")?;
        thinking.1.expect("SELECT everything")?;
        let stop = stage.delete(node)?;
        let mut last = 0.0;
        for _ in 0..20 {
            last = clock::now();
            talking.1.send("NOTIFY")?;
            talking.0.expect("NOTIFY")?;
            ensure!(stop.still_held_after(Duration::from_millis(300)), "answered while bytes moved");
        }
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.body["remained"]["open"] == 3, "{answer:?}");
        ensure!(answer.at - last > 3.95, "idle {:.1} s after the last byte", answer.at - last);
        Ok(())
    }

    /// `until=closed` waits for everything that is open, `idle` connections too, one after the other.
    fn until_closed(node) {
        let stage = Stage::start(node, "http", "/drain?settle=1s&until=closed")?;
        let idle = steady(&stage, EXCHANGES[0])?;
        let never_asked = stage.accepted()?;
        let mut asked = stage.accepted()?;
        asked.0.get("/report")?;
        asked.1.request()?;
        let stop = stage.delete(node)?;
        let newer = steady(&stage, EXCHANGES[0])?;
        asked.1.respond("here it is")?;
        asked.0.response()?;
        for (conn, served) in [never_asked, asked, newer, idle] {
            ensure!(stop.still_held_after(Duration::from_millis(1600)), "answered with connections open");
            conn.close();
            served.close();
        }
        let answer = stop.answered_within(AT_ONCE)?;
        ensure!(answer.outcome() == "drained" && answer.body["remained"]["in_flight"] == 0, "{answer:?}");
        Ok(())
    }

    /// `until=settled` waits for nobody: the app drains by itself.
    fn until_settled(node) {
        let stage = Stage::start(node, "http", "/drain?settle=3s&until=settled")?;
        let _idle = steady(&stage, EXCHANGES[0])?;
        let mut asked = stage.accepted()?;
        asked.0.get("/report")?;
        asked.1.request()?;
        let stop = stage.delete(node)?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.body["remained"]["in_flight"] == 1, "{answer:?}");
        ensure!(answer.since_order > Duration::from_millis(2990), "settled too soon: {answer:?}");
        ensure!(answer.took_less_than(Duration::from_millis(3600)), "settled too late: {answer:?}");
        Ok(())
    }
}

/// A connection with exchanges behind it: after a single fast one a socket's ages tell nothing, because
/// its client still acknowledges at once.
fn steady(stage: &Stage, exchange: (&str, &str)) -> Result<(Conn, Conn)> {
    let (mut conn, mut served) = stage.accepted()?;
    for _ in 0..4 {
        exchanged(&mut conn, &mut served, exchange)?;
    }
    Ok((conn, served))
}

fn exchanged(conn: &mut Conn, served: &mut Conn, (method, response): (&str, &str)) -> Result<()> {
    conn.send(format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"))?;
    served.request()?;
    served.send(response)?;
    conn.expect(response)
}

/// Both ends of a connection after `101 Switching Protocols`.
struct WebSocket {
    client: Conn,
    server: Conn,
}

impl WebSocket {
    fn upgrade(stage: &Stage) -> Result<Self> {
        let (mut client, mut server) = stage.accepted()?;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        client.send(format!("GET /chat HTTP/1.1\r\nHost: test\r\n{upgrade}\r\n"))?;
        server.request()?;
        let switching = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n");
        server.send(&switching)?;
        client.expect(&switching)?;
        Ok(Self { client, server })
    }

    /// A text frame, masked as a client's are (RFC 6455, 5.2).
    fn client_speaks(&mut self) -> Result<()> {
        let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        self.client.send(frame)?;
        self.server.expect(frame)
    }

    /// The same unmasked, as a server's are.
    fn server_speaks(&mut self) -> Result<()> {
        let frame = b"\x81\x05Hello";
        self.server.send(frame)?;
        self.client.expect(frame)
    }

    fn close(self) {
        self.client.close();
        self.server.close();
    }
}
