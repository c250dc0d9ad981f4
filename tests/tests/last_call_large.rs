//! Large requests, and servers that ask the kernel how much of one is still to be read.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::sockmap::SocketMap;
use lastcall_tests::{Conn, Node, Stage, Stop, scenarios};
use nix::errno::Errno;

/// Long enough for any scenario.
const HOOK: &str = "/drain?settle=60s&last-call=http";
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
                read_as_nginx(&served, &request(body)).with_context(|| format!("a body of {body} bytes"))?;
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
    /// read; where the kernel says what there is, its client is told like any other.
    fn an_answer_before_its_large_request_is_read(node) {
        let drained = Drained::start(node)?;
        let (mut conn, mut served) = drained.synchronised()?;
        let may_be_told = is_asked_rightly()?;
        for n in 0..10 {
            let whole = request(20_000);
            let (read, unread) = whole.split_at(whole.len() - 1);
            conn.send(&whole)?;
            read_as_nginx(&served, read)?;
            sleep(WORK);
            ensure!(available(served.stream())? == 1, "the kernel says {}", available(served.stream())?);
            served.send([OK, END].concat())?;
            let told = is_told(&mut conn)?;
            served.expect(unread)?;
            ensure!(told == (may_be_told && n == 0), "told {told} with request {n}");
        }
        Ok(())
    }

    /// Where the kernel says what there is to be read, nothing waits for the app: the client of 100 kB is told with
    /// the first answer that it can be told with, also by an app that reads on with its socket in the map.
    fn the_client_of_a_large_request_is_told_at_once_where_the_kernel_tells(node) {
        let drained = Drained::start(node)?;
        let may_be_told = is_asked_rightly()?;
        for reads in [false, true] {
            let (mut conn, mut served) = drained.synchronised()?;
            let whole = request(100_000);
            // More than its window would wait for the app; and what comes while that reads is its to take in.
            let (first, rest) = whole.split_at(50_000);
            conn.send(first)?;
            read_as_nginx(&served, first)?;
            conn.send(rest)?;
            until_available(&served, rest.len())?;
            if reads {
                read_as_nginx(&served, rest)?;
            }
            served.send([OK, END].concat())?;
            let told = is_told(&mut conn)?;
            if !reads {
                read_as_nginx(&served, rest)?;
            }
            // Told with what has been read, on another kernel, is luck.
            ensure!(told == may_be_told || reads && told, "told {told}, reads {reads}");
            let again = exchange(&mut conn, &mut served, &request(2))?;
            ensure!(again != told, "told {told}, and {again} then");
        }
        Ok(())
    }

    /// More than a window: all but the beginning comes while the app reads.
    fn a_request_of_many_windows(node) {
        let drained = Drained::start(node)?;
        let (mut conn, mut served) = drained.synchronised()?;
        let whole = request(300_000);
        let mut told = false;
        for _ in 0..MANY {
            let now = std::thread::scope(|scope| -> Result<bool> {
                let client = scope.spawn(|| conn.send(&whole).and_then(|()| is_told(&mut conn)));
                ensure!(served.receive(whole.len())? == whole, "other bytes than were sent");
                sleep(WORK);
                served.send([OK, END].concat())?;
                client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
            })?;
            ensure!(!(told && now), "told twice");
            told |= now;
        }
        ensure!(told, "nobody was told");
        Ok(())
    }

    /// An answer of 100 MB, as fast as the client takes it: nothing in it is another byte than the app's, but for
    /// the announcement.
    fn a_hundred_megabytes_arrive_as_they_are(node) {
        let drained = Drained::start(node)?;
        let (mut conn, mut served) = drained.connection()?;
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
    stage: Stage,
    _stop: Stop,
}

impl Drained {
    fn start(node: &Node) -> Result<Self> {
        let stage = Stage::start(node, "http", HOOK)?;
        let stop = stage.delete(node)?;
        Ok(Self { stage, _stop: stop })
    }

    /// Both ends of a connection.
    fn connection(&self) -> Result<(Conn, Conn)> {
        self.stage.accepted()
    }

    /// Both ends of one of which is known where answers begin.
    fn synchronised(&self) -> Result<(Conn, Conn)> {
        let (mut conn, mut served) = self.connection()?;
        ensure!(!exchange(&mut conn, &mut served, &request(2))?, "told with the first");
        Ok((conn, served))
    }
}

fn request(size: usize) -> Vec<u8> {
    if size == COOKIE {
        return format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(COOKIE)).into_bytes();
    }
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {size}\r\n\r\n");
    head.bytes().chain((0..size).map(body)).collect()
}

/// A request, read and answered. Was the client told?
fn exchange(conn: &mut Conn, served: &mut Conn, request: &[u8]) -> Result<bool> {
    conn.send(request)?;
    read_as_nginx(served, request)?;
    served.send([OK, END].concat())?;
    is_told(conn)
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

/// Reads what was sent.
fn read_as_nginx(conn: &Conn, sent: &[u8]) -> Result<()> {
    let (mut buffer, mut left) = ([0; BUFFER], sent);
    while !left.is_empty() {
        let read = match conn.stream().read(&mut buffer[..BUFFER.min(left.len())]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        ensure!(read > 0, "the client has gone");
        let (expected, more) = left.split_at(read);
        ensure!(buffer[..read] == *expected, "other bytes, {} before the end", left.len());
        left = more;
        if !left.is_empty() {
            sleep(Duration::from_millis(1));
        }
        // The rest may still be on its way.
        if read == BUFFER {
            until_available(conn, left.len())?;
        }
    }
    Ok(())
}

/// Nothing announces what comes to those who do not read.
fn until_available(conn: &Conn, bytes: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let said = available(conn.stream())?;
        if said >= bytes {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{bytes} bytes are left, and the kernel says {said}");
        sleep(Duration::from_millis(5));
    }
}

/// Whether this kernel says of a socket in a map how much is to be read from it.
fn is_asked_rightly() -> Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut peer = TcpStream::connect(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    peer.write_all(b"bytes")?;
    socket.peek(&mut [0])?;
    let _map = SocketMap::holding(&socket)?;
    Ok(available(&socket)? == 5)
}

fn available(stream: &TcpStream) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: an open descriptor, and a place for one int.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Ok(usize::try_from(Errno::result(result).map(|_| bytes)?)?)
}
