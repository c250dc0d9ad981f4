//! The last call over HTTP/1: clients of a draining pod are told to leave, once, in their next answer's head,
//! and nothing else of what they hear changes.

use std::fs::File;
use std::io::{IoSlice, Seek, Write};

use anyhow::{Context, Result, ensure};
use lastcall_tests::mesh::{Front, Mesh};
use lastcall_tests::{Agent, Conn, Family, Hook, Node, PORT, Pod, Stage, scenario, scenarios};
use nix::sys::memfd::{MFdFlags, memfd_create};

const CLOSE: &str = "Connection: close\r\n";
/// Long enough for any scenario.
const HOOK: &str = "/drain?settle=60s&last-call=http";

scenarios! {
    /// A client that stays is told in the answer behind the first whole exchange that was seen; once. A
    /// connection that comes later is no different, and one with a single request is served as ever.
    fn a_keep_alive_client_is_told_once(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let mut older = stage.accepted()?;
        exchanged(&mut older, "")?;
        let _stop = stage.delete(node)?;
        let newer = stage.accepted()?;
        for mut conn in [older, newer] {
            for told in ["", CLOSE, "", ""] {
                exchanged(&mut conn, told)?;
            }
        }
        Ok(())
    }

    /// Every shape of an answer, written in every way, with the header in the right place.
    fn every_answer(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let _stop = stage.delete(node)?;
        let length = |n: usize| format!("Content-Length: {n}\r\n\r\n{}", "x".repeat(n));
        for (method, line, rest) in [
            ("GET", "HTTP/1.1 200 OK\r\n", length(0)),
            ("GET", "HTTP/1.0 200 OK\r\n", format!("Connection: keep-alive\r\n{}", length(300))),
            ("GET", "HTTP/1.1 200 OK\r\n", format!("Connection: keep-alive\r\n{}", length(1))),
            ("GET", "HTTP/1.1 200 OK\r\n", format!("Upgrade: h2c\r\nConnection: Upgrade, Keep-Alive\r\n{}", length(1))),
            ("GET", "HTTP/1.1 200 OK\r\n", format!("Connection: a\r\nConnection: b\r\n{}", length(9))),
            ("GET", "HTTP/1.1 200 OK\r\n", format!("connection: close\r\n{}", length(9))),
            ("GET", "HTTP/1.1 200\r\n", length(100_000)),
            ("GET", "HTTP/1.1 404 Not Found\r\n", length(20)),
            ("HEAD", "HTTP/1.1 200 OK\r\n", "Content-Length: 5000\r\n\r\n".to_owned()),
            ("DELETE", "HTTP/1.1 204 No Content\r\n", "\r\n".to_owned()),
            ("GET", "HTTP/1.1 304 Not Modified\r\n", "Content-Length: 5000\r\n\r\n".to_owned()),
            ("GET", "HTTP/1.1 200 OK\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()),
            (
                "GET",
                "HTTP/1.1 200 OK\r\n",
                "Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n".to_owned(),
            ),
            ("PUT", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n", length(0)),
            ("GET", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n", length(3)),
            ("GET", "HTTP/1.1 200 OK\r\n", format!("X: HTTP/1.1 200 OK\r\n{}HTTP/1.1 200 OK\r\n", "Content-Length: 17\r\n\r\n")),
        ] {
            for way in Way::ALL {
                let mut conn = stage.accepted()?;
                exchanged(&mut conn, "")?;
                conn.0.send(format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"))?;
                conn.1.request()?;
                let what = || format!("{method}, {way:?}, {line}{rest:.80}");
                way.write(&mut conn.1, format!("{line}{rest}").as_bytes()).with_context(what)?;
                conn.0.expect([line, CLOSE, &rest].concat()).with_context(what)?;
            }
        }
        Ok(())
    }

    /// A client waits for `100 Continue` and then sends its body: the final answer tells it.
    fn a_body_after_continue(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let _stop = stage.delete(node)?;
        // A body that begins like a request is none.
        for body in ["hello", "GET / HTTP/1.1\r\n"] {
            let (mut conn, mut served) = synchronised(&stage)?;
            let head = format!("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
            conn.send(&head)?;
            served.expect(&head)?;
            served.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            conn.expect("HTTP/1.1 100 Continue\r\n\r\n")?;
            conn.send(body)?;
            served.expect(body)?;
            served.respond("thanks")?;
            conn.expect(format!("HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: 6\r\n\r\nthanks"))?;
        }
        Ok(())
    }

    /// An answer that begins before its request has ended, as some refuse an upload, tells nobody: its app may
    /// still block in reading the request. The next one does.
    fn an_answer_before_the_end_of_its_request(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let _stop = stage.delete(node)?;
        let (mut conn, mut served) = synchronised(&stage)?;
        let head = "POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n0123456789";
        conn.send(head)?;
        served.expect(head)?;
        served.send("HTTP/1.1 413 Too Large\r\nContent-Length: 10\r\n\r\n")?;
        conn.expect("HTTP/1.1 413 Too Large\r\nContent-Length: 10\r\n\r\n")?;
        conn.send("0123456789")?;
        served.expect("0123456789")?;
        served.send("0123456789")?;
        conn.expect("0123456789")?;
        exchanged(&mut (conn, served), CLOSE)?;
        // Nor does the rest of the request say anything else, whatever it looks like, while the answer is under way.
        let (mut conn, mut served) = synchronised(&stage)?;
        let rest = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 2 * rest.len());
        conn.send(&head)?;
        served.expect(&head)?;
        served.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        conn.expect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for end in ["", "0\r\n\r\n"] {
            conn.send(rest)?;
            served.expect(rest)?;
            let chunk = format!("{:x}\r\n{rest}\r\n{end}", rest.len());
            served.send(&chunk)?;
            conn.expect(&chunk)?;
        }
        exchanged(&mut (conn, served), CLOSE)
    }

    /// The drain begins in the midst of a body, and the first that is seen of the connection looks like requests or
    /// like answers: one exchange later it is known better.
    fn a_body_that_looks_like_messages_where_the_drain_begins(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let (mut asking, mut answering) = (stage.accepted()?, stage.accepted()?);
        let part = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello, POST / HTTP/1.1\r\n";
        let asked = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{part}", 3 * part.len());
        asking.0.send(&asked)?;
        asking.1.expect(&asked)?;
        answering.0.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
        answering.1.request()?;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, HTTP/1.1 200 OK\r\n";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        answering.1.send(&head)?;
        answering.0.expect(&head)?;
        let _stop = stage.delete(node)?;
        for _ in 0..2 {
            asking.0.send(part)?;
            asking.1.expect(part)?;
        }
        asking.1.respond("")?;
        asking.0.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        answering.1.send(answer)?;
        answering.0.expect(answer)?;
        for mut conn in [asking, answering] {
            for told in ["", CLOSE, ""] {
                exchanged(&mut conn, told)?;
            }
        }
        Ok(())
    }

    /// A client that does not wait for its answers would lose those behind the announcement: it is not told.
    fn a_pipelining_client_is_left_alone(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let older = stage.accepted()?;
        let _stop = stage.delete(node)?;
        let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        for (mut conn, mut served) in [older, synchronised(&stage)?] {
            for _ in 0..5 {
                conn.send(request.repeat(3))?;
                served.expect(request.repeat(3))?;
                for _ in 0..3 {
                    served.respond("HTTP/1.1 200 OK\r\n")?;
                }
                conn.expect("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nHTTP/1.1 200 OK\r\n".repeat(3))?;
            }
        }
        // Nor one that sends the next request before the end of an answer that has begun.
        let (mut conn, mut served) = stage.accepted()?;
        for _ in 0..3 {
            conn.send(request)?;
            served.expect(request)?;
            served.send("HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n")?;
            conn.expect("HTTP/1.1 200 OK\r\n")?;
            conn.send(request)?;
            served.expect(request)?;
            served.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            served.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")?;
            let body = "Content-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            conn.expect(format!("{body}HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"))?;
        }
        Ok(())
    }

    /// What was upgraded is no HTTP any more, whatever it looks like.
    fn an_upgraded_connection_is_left_alone(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let _stop = stage.delete(node)?;
        for (request, response) in [
            (
                "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
            ("CONNECT example.com:80 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Established\r\n\r\n"),
        ] {
            let (mut conn, mut served) = synchronised(&stage)?;
            conn.send(request)?;
            served.expect(request)?;
            served.send(response)?;
            conn.expect(response)?;
            for _ in 0..3 {
                conn.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
                served.expect("GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
                served.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
                conn.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            }
        }
        Ok(())
    }

    /// What is not HTTP is left alone byte for byte, also on a port that is called so: TLS, MySQL, Redis,
    /// an echo of requests, zeros.
    fn other_protocols_are_left_alone(node) {
        let stage = Stage::start(node, "http", HOOK)?;
        let _stop = stage.delete(node)?;
        let tls = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 500]].concat();
        let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        for (asked, answered) in [
            (&tls[..], &tls[..]),
            (b"\x4a\0\0\0\x0a8.0.36", b"\x07\0\0\x02\0\0\0\x02\0\0\0"),
            (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
            (request, request),
            (request, b"HTTP/1.1 OK\r\n\r\n"),
            (&[0; 100], &[0; 100]),
            (request, &tls[..]),
        ] {
            let (mut conn, mut served) = stage.accepted()?;
            for _ in 0..4 {
                conn.send(asked)?;
                served.expect(asked)?;
                served.send(answered)?;
                conn.expect(answered)?;
            }
        }
        Ok(())
    }

    /// Where a mesh's proxy takes what comes in, its clients are told by the proxy's answers.
    fn behind_a_redirect(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(PORT).hook(Hook::http(HOOK)).grace(90).start()?;
        let _mesh = Mesh::before(&pod, PORT, Front::Everywhere)?;
        told_through_a_proxy(node, &agent, &pod)
    }

    /// Nobody asks for it: nobody is told.
    fn without_a_last_call(node) {
        let stage = Stage::start(node, "http", "/drain?settle=60s&last-call=off")?;
        let _stop = stage.delete(node)?;
        let mut conn = stage.accepted()?;
        (0..5).try_for_each(|_| exchanged(&mut conn, ""))
    }
}

/// The same where the proxy listens on the pod's loopback, which there is in IPv4 only.
#[test]
fn behind_a_redirect_to_loopback() {
    scenario::run(Family::Ipv4, |node| {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(PORT).hook(Hook::http(HOOK)).grace(90).start()?;
        let _mesh = Mesh::before(&pod, PORT, Front::Loopback)?;
        told_through_a_proxy(node, &agent, &pod)
    });
}

fn told_through_a_proxy(node: &Node, agent: &Agent, pod: &Pod) -> Result<()> {
    let mut older = node.client()?.connect(pod, PORT)?;
    older.exchange("/")?;
    let _stop = node.kubelet().delete(pod)?;
    agent.watches(pod)?;
    let newer = node.client()?.connect(pod, PORT)?;
    // The alias of the older one is not known before its first answer.
    for (mut conn, expected) in [(older, [false, false, true, false]), (newer, [false, true, false, false])] {
        let closes: Vec<bool> = (0..4).map(|_| Ok(conn.exchange("/")?.0.closes())).collect::<Result<_>>()?;
        ensure!(closes == expected, "{closes:?}");
    }
    Ok(())
}

/// A whole exchange, byte for byte, with `told` in it.
fn exchanged((conn, served): &mut (Conn, Conn), told: &str) -> Result<()> {
    conn.get("/")?;
    served.request()?;
    served.respond("hello")?;
    conn.expect(format!("HTTP/1.1 200 OK\r\n{told}Content-Length: 5\r\n\r\nhello"))
}

/// How an app writes.
#[derive(Clone, Copy, Debug)]
enum Way {
    AtOnce,
    /// The head's first bytes one by one.
    Bytes,
    /// Cut at these places.
    Cut(&'static [usize]),
    Vectored,
    /// The head with `MSG_MORE`, in two pieces.
    More,
    /// From a file.
    SendFile,
}

impl Way {
    const ALL: [Self; 10] = [
        Self::AtOnce,
        Self::Bytes,
        Self::Cut(&[1]),
        Self::Cut(&[9, 12]),
        Self::Cut(&[16, 17, 18]),
        Self::Cut(&[14, 15]),
        Self::Cut(&[5, 13, 36]),
        Self::Vectored,
        Self::More,
        Self::SendFile,
    ];

    fn write(self, served: &mut Conn, bytes: &[u8]) -> Result<()> {
        match self {
            Self::AtOnce => served.send(bytes),
            Self::Bytes => {
                let (head, body) = bytes.split_at(bytes.len().min(60));
                head.iter().try_for_each(|byte| served.send([*byte]))?;
                served.send(body)
            }
            Self::Cut(places) => {
                let mut from = 0;
                for &to in places.iter().chain([&bytes.len()]) {
                    let to = to.min(bytes.len());
                    served.send(&bytes[from..to])?;
                    from = to;
                }
                Ok(())
            }
            Self::Vectored => {
                let pieces: Vec<IoSlice<'_>> = bytes.chunks(7).take(100).map(IoSlice::new).collect();
                let n = served.write_vectored(&pieces)?;
                served.send(&bytes[n..])
            }
            Self::More => {
                let socket = socket2::SockRef::from(served.stream());
                let (first, rest) = bytes.split_at(10.min(bytes.len()));
                let (second, rest) = rest.split_at(20.min(rest.len()));
                for piece in [first, second] {
                    let sent = socket.send_with_flags(piece, libc::MSG_MORE)?;
                    ensure!(sent == piece.len(), "a short write");
                }
                served.send(rest)
            }
            Self::SendFile => {
                // A name that another test in this process had too would be another's file.
                let mut file = File::from(memfd_create(c"lastcall-answer", MFdFlags::MFD_CLOEXEC)?);
                file.write_all(bytes)?;
                file.rewind()?;
                // From a file to a socket this is sendfile(2).
                std::io::copy(&mut file, &mut served.stream())?;
                Ok(())
            }
        }
    }
}

/// A connection with an exchange behind it: the next answer would tell.
fn synchronised(stage: &Stage) -> Result<(Conn, Conn)> {
    let mut both = stage.accepted()?;
    exchanged(&mut both, "")?;
    Ok(both)
}
