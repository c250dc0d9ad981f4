//! Large requests, and servers that ask the kernel how much of one is still to be read.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Client, Conn, Hook, Node, Pod, Server, Stop, scenarios};
use nix::errno::Errno;

const PORT: u16 = 8080;
const OK: &str = "HTTP/1.1 200 OK\r\n";
const CLOSE: &str = "Connection: close\r\n";
const END: &str = "Content-Length: 2\r\n\r\nok";
/// The smallest buffer that nginx reads with.
const BUFFER: usize = 1024;

scenarios! {
    /// nginx reads until its buffer is full, asks how much there is to be read, and where that is nothing
    /// waits for more: a wrong answer would be a request that hangs. It may take its time between two reads. The
    /// client is told once, while the app works on what it has read.
    fn a_large_request_is_read_to_its_end(node) {
        let drained = Drained::start(node)?;
        for body in [20_000, BUFFER, COOKIE] {
            let (mut conn, mut served) = drained.connection()?;
            let mut exchange = |body| {
                conn.send(request(body))?;
                read_as_nginx(&served, request(body).len()).with_context(|| format!("a body of {body} bytes"))?;
                sleep(WORK);
                served.send([OK, END].concat())?;
                is_told(&mut conn)
            };
            ensure!(!exchange(2)?, "of the first nobody knows where its answer begins");
            let mut left = MANY;
            while !exchange(body)? {
                left -= 1;
                ensure!(left > 0, "nobody was told with {body}");
            }
            ensure!(!exchange(body)? && !exchange(2)?, "told twice");
        }
        Ok(())
    }

    /// An app that has not read the request yet must not find itself in a map that says there is nothing to be
    /// read; where the kernel says what there is, its client may be told.
    fn an_answer_before_its_large_request_is_read(node) {
        let drained = Drained::start(node)?;
        let (mut conn, mut served) = drained.connection()?;
        conn.send(request(2))?;
        read_as_nginx(&served, request(2).len())?;
        served.send([OK, END].concat())?;
        ensure!(!is_told(&mut conn)?, "told with the first");
        for _ in 0..10 {
            let whole = request(20_000).len();
            conn.send(request(20_000))?;
            // All but a byte.
            read_as_nginx(&served, whole - 1)?;
            sleep(WORK);
            ensure!(available(&served)? == 1, "the kernel says {}", available(&served)?);
            served.send([OK, END].concat())?;
            let told = is_told(&mut conn)?;
            served.receive(1)?;
            if told {
                break;
            }
        }
        Ok(())
    }

    /// An answer of 100 MB, as fast as the client takes it: nothing in it is another byte than the app's, but for
    /// the announcement.
    fn a_hundred_megabytes_arrive_as_they_are(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", PORT).hook(Hook::http("/drain?settle=60s&last-call=http")).start()?;
        let (server, client) = (pod.listen(PORT)?, node.client()?);
        let _stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let mut conn = client.connect(&pod, PORT)?;
        let mut served = server.accept()?;
        conn.get("/")?;
        served.request()?;
        served.send([OK, END].concat())?;
        conn.expect([OK, END].concat())?;
        conn.get("/")?;
        served.request()?;
        let head = format!("Content-Length: {HUGE}\r\n\r\n");
        std::thread::scope(|scope| {
            let app = scope.spawn(|| -> Result<()> {
                served.send([OK, &head].concat())?;
                // Writes of sizes that fit nothing.
                let (mut at, mut size) = (0, 1);
                while at < HUGE {
                    let end = HUGE.min(at + size);
                    served.send((at..end).map(body).collect::<Vec<u8>>())?;
                    (at, size) = (end, size * 7 % 300_007 + 1);
                }
                Ok(())
            });
            conn.expect([OK, "Connection: close\r\n", &head].concat())?;
            let mut at = 0;
            while at < HUGE {
                let part = conn.receive((HUGE - at).min(1 << 20))?;
                let differs = part.iter().enumerate().find(|(i, byte)| **byte != body(at + i));
                ensure!(differs.is_none(), "byte {} is another", at + differs.map_or(0, |(i, _)| i));
                at += part.len();
            }
            app.join().map_err(|_| anyhow::anyhow!("the app panicked"))?
        })
    }
}

/// A request without a body, but with so large a cookie.
const COOKIE: usize = 2_000;
/// Requests until one has been told with; the first, as a rule.
const MANY: usize = 20;
/// So long an app works on a request: for a few looks.
const WORK: Duration = Duration::from_millis(30);

/// A pod that drains.
struct Drained {
    client: Client,
    pod: Pod,
    server: Server,
    _stop: Stop,
    _agent: Arc<Agent>,
}

impl Drained {
    fn start(node: &Node) -> Result<Self> {
        let agent = node.agent().start()?;
        let hook = Hook::http("/drain?settle=60s&last-call=http");
        let pod = node.pod("web").port("http", PORT).hook(hook).start()?;
        let server = pod.listen(PORT)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        Ok(Self { client: node.client()?, pod, server, _stop: stop, _agent: agent })
    }

    /// Both ends of a connection.
    fn connection(&self) -> Result<(Conn, Conn)> {
        Ok((self.client.connect(&self.pod, PORT)?, self.server.accept()?))
    }
}

fn request(body: usize) -> String {
    if body == COOKIE {
        return format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(COOKIE));
    }
    format!("POST / HTTP/1.1\r\nContent-Length: {body}\r\n\r\n{}", "x".repeat(body))
}

/// Reads an answer. Was the client told?
fn is_told(conn: &mut Conn) -> Result<bool> {
    conn.expect(OK)?;
    let first = conn.receive(CLOSE.len())?;
    if first == CLOSE.as_bytes() {
        conn.expect(END)?;
        return Ok(true);
    }
    ensure!(END.as_bytes().starts_with(&first), "{}", first.escape_ascii());
    conn.expect(&END[first.len()..])?;
    Ok(false)
}

/// The size of a huge answer's body.
const HUGE: usize = 100_000_000;

/// What is at this place of it: lines of an answer's beginning, and a number that says where they are.
fn body(at: usize) -> u8 {
    const LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let (line, place) = (at / 24, at % 24);
    LINE.get(place).copied().unwrap_or((line >> (8 * (place % 4))) as u8)
}

/// Reads a request of `size` bytes.
fn read_as_nginx(conn: &Conn, size: usize) -> Result<()> {
    let (mut buffer, mut left) = ([0; BUFFER], size);
    while left > 0 {
        let read = conn.stream().read(&mut buffer[..BUFFER.min(left)])?;
        ensure!(read > 0, "the client has gone");
        left -= read;
        if left > 0 {
            sleep(Duration::from_millis(1));
        }
        let until = Instant::now() + Duration::from_secs(5);
        // The rest may still be on its way; nothing announces it to those who do not read.
        while read == BUFFER && available(conn)? < left {
            ensure!(
                Instant::now() < until,
                "{left} bytes are left, and the kernel says {}",
                available(conn)?
            );
            sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn available(conn: &Conn) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: an open descriptor, and a place for one int.
    let result = unsafe { libc::ioctl(conn.stream().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Ok(usize::try_from(Errno::result(result).map(|_| bytes)?)?)
}
