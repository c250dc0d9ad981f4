//! Apps that block: a socket that is about to carry an announcement makes blocking calls return early, so it
//! is in that state from the request's last byte to the answer's first, and at no other time.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lastcall_tests::sockmap::SocketMap;
use lastcall_tests::{Agent, Client, Conn, Hook, Node, Pod, Server, scenarios};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const PORT: u16 = 8080;
const CLOSE: &str = "Connection: close\r\n";
/// What a check says of a call that returned without data and without an end.
const EARLY: &str = "a blocking call ended early";

scenarios! {
    /// While signals rain on it: no call ends but with data. Each of its clients is told.
    fn a_blocking_server_under_signals(node) {
        let stage = Stage::start(node)?;
        for _ in 0..20 {
            let (conn, served) = stage.accepted()?;
            signals(conn, &served, CLOSE)?;
        }
        Ok(())
    }

    /// Whose client resets the connection in the middle of a request: the call says so.
    fn a_blocking_server_and_resets(node) {
        let stage = Stage::start(node)?;
        for _ in 0..20 {
            let (conn, served) = stage.accepted()?;
            resets(conn, &served, CLOSE)?;
        }
        Ok(())
    }

    /// That answers in one thread what it still reads in another, more than there is room for.
    fn a_blocking_server_in_full_duplex(node) {
        let stage = Stage::start(node)?;
        for _ in 0..5 {
            let (conn, served) = stage.accepted()?;
            duplex(conn, &served, CLOSE)?;
        }
        Ok(())
    }

    /// The same call between the request and its answer, which no such server makes: the check above would
    /// have seen it. Once the answer has begun, all is as ever.
    fn the_check_sees_a_socket_in_the_map(node) {
        let stage = Stage::start(node)?;
        let mut seen = 0;
        for _ in 0..5 {
            let (mut conn, served) = stage.accepted()?;
            let mut served_too = Conn::new(served.stream().try_clone()?)?;
            served.stream().set_read_timeout(None)?;
            for told in ["", CLOSE] {
                conn.get("/")?;
                served_too.request()?;
                let early = until_signalled(&served)?;
                ensure!(!early || !told.is_empty(), "ended early without a last call");
                seen += u32::from(early);
                served_too.respond("hello")?;
                conn.expect(format!("HTTP/1.1 200 OK\r\n{told}Content-Length: 5\r\n\r\nhello"))?;
                ensure!(!until_signalled(&served)?, "the socket was left in the map");
            }
        }
        // Which signal comes first is a matter of luck.
        ensure!(seen > 0, "the check sees nothing");
        Ok(())
    }
}

/// What a blocking server does with a client of its own, whose second answer has `told` in its head; an error
/// where a call of the server ended without data.
type Exercise = fn(Conn, &Conn, &str) -> Result<()>;

/// Each of the three, with its socket left in a map of the kernel's: it would be seen.
#[test]
fn each_check_sees_a_socket_that_is_left_in_a_map() {
    let checks: [(&str, Exercise); 3] = [("signals", signals), ("resets", resets), ("duplex", duplex)];
    for (name, check) in checks {
        play(check, false).unwrap_or_else(|e| panic!("{name}, an ordinary socket: {e:#}"));
        // Which thread comes first is a matter of luck.
        let seen = (0..100).find_map(|_| play(check, true).err());
        let said = format!("{:#}", seen.unwrap_or_else(|| panic!("{name}: not seen")));
        assert!(said.contains(EARLY), "{name}: {said}");
    }
}

/// A check without an agent; with its socket in a map, or not.
fn play(check: Exercise, in_a_map: bool) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let conn = Conn::new(TcpStream::connect(listener.local_addr()?)?)?;
    let served = blocking(Conn::new(listener.accept()?.0)?)?;
    let _map = if in_a_map { Some(SocketMap::holding(served.stream())?) } else { None };
    check(conn, &served, "")
}

/// A call with a timeout is never restarted.
fn blocking(served: Conn) -> Result<Conn> {
    served.stream().set_read_timeout(None)?;
    Ok(served)
}

/// A POST of six bytes, in three pieces.
fn post(conn: &mut Conn) -> Result<()> {
    conn.send("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n")?;
    for piece in ["abc", "def"] {
        std::thread::sleep(Duration::from_millis(3));
        conn.send(piece)?;
    }
    Ok(())
}

fn expect_answer(conn: &mut Conn, told: &str) -> Result<()> {
    conn.expect(format!("HTTP/1.1 200 OK\r\n{told}Content-Length: 6\r\n\r\nabcdef"))
}

fn signals(mut conn: Conn, served: &Conn, told: &str) -> Result<()> {
    with_server(
        || {
            let _rain = Rain::start()?;
            serve(served)
        },
        || {
            for told in ["", told, "", ""] {
                post(&mut conn)?;
                expect_answer(&mut conn, told)?;
            }
            conn.finish_sending()
        },
    )
}

fn resets(mut conn: Conn, served: &Conn, told: &str) -> Result<()> {
    let ended = with_server(
        || serve(served),
        || {
            for told in ["", told] {
                post(&mut conn)?;
                expect_answer(&mut conn, told)?;
            }
            conn.send("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")?;
            // The server waits for the rest.
            std::thread::sleep(Duration::from_millis(5));
            conn.reset()
        },
    );
    match ended {
        Err(e) if e.root_cause().downcast_ref::<io::Error>().is_some_and(is_reset) => Ok(()),
        Err(e) => Err(e),
        Ok(()) => bail!("the server read to the end of a connection that was reset"),
    }
}

fn is_reset(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::ConnectionReset
}

/// Between two ordinary exchanges, one whose answer begins with the first byte of its request's body.
fn duplex(mut conn: Conn, served: &Conn, told: &str) -> Result<()> {
    const ANSWER: usize = 4 << 20;
    const BODY: usize = 40;
    served.send_buffer(16 << 10)?;
    let server = || -> Result<()> {
        serve_one(served)?;
        read_until(served, "\r\n\r\n")?;
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| -> io::Result<()> {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n");
                served.stream().write_all(head.as_bytes())?;
                served.stream().write_all(&vec![b'x'; ANSWER])
            });
            let read = (0..BODY).try_for_each(|_| one(served).map(drop));
            if read.is_err() {
                // The writer has to end, too.
                let _ = served.stream().shutdown(Shutdown::Both);
            }
            let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
            read.and(written.context("write"))
        });
        written?;
        serve(served)
    };
    with_server(server, || {
        post(&mut conn)?;
        expect_answer(&mut conn, "")?;
        conn.send(format!("POST / HTTP/1.1\r\nContent-Length: {BODY}\r\n\r\n"))?;
        conn.expect(format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n"))?;
        for _ in 0..BODY {
            conn.send("y")?;
            conn.receive(ANSWER / BODY)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        conn.receive(ANSWER % BODY)?;
        post(&mut conn)?;
        expect_answer(&mut conn, told)?;
        conn.finish_sending()
    })
}

/// Runs both sides; what the server says counts, for the client only hears of it.
fn with_server(
    server: impl FnOnce() -> Result<()> + Send,
    client: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let server = scope.spawn(server);
        let heard = client();
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?.and(heard)
    })
}

/// Reads requests of six bytes and answers them, blocking, to the end of the connection.
fn serve(served: &Conn) -> Result<()> {
    while serve_one(served)? {}
    Ok(())
}

/// Whether there was one.
fn serve_one(served: &Conn) -> Result<bool> {
    let there = read_until(served, "abcdef")?;
    if there {
        served.stream().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef")?;
    }
    Ok(there)
}

/// Reads to these bytes, which are the last that come; false where the connection ends.
fn read_until(served: &Conn, end: &str) -> Result<bool> {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut buffer = [0; 4096];
        let n = receive(served, &mut buffer).context(EARLY)?;
        if n == 0 {
            return Ok(false);
        }
        all.extend(&buffer[..n]);
    }
    Ok(true)
}

/// Reads one byte.
fn one(served: &Conn) -> Result<()> {
    let n = receive(served, &mut [0; 1]).context(EARLY)?;
    ensure!(n == 1, "the request ended before its time");
    Ok(())
}

/// Blocks in a read while signals rain, for a while; answers whether the call ended without data.
fn until_signalled(served: &Conn) -> Result<bool> {
    let _rain = Rain::start()?;
    // A call with a timeout ends by a signal on any socket; so the end is another thread's byte, or none.
    let done = Arc::new(AtomicBool::new(false));
    let me = pthread_self();
    let watcher = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            std::thread::sleep(Duration::from_millis(100));
            interrupt_until(me, &done);
        }
    });
    let result = receive(served, &mut [0; 1]);
    done.store(true, Ordering::Relaxed);
    watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => anyhow::bail!("{other:?} came"),
    }
}

/// One `recv(2)`, as it is.
fn receive(served: &Conn, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = served.stream().as_raw_fd();
    // SAFETY: an open descriptor, and a buffer of that length.
    let n = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Signals with a handler that asks for calls to be restarted, a thousand a second, on the calling thread.
struct Rain {
    done: Arc<AtomicBool>,
    cloud: Option<std::thread::JoinHandle<()>>,
}

extern "C" fn nothing(_: libc::c_int) {}

fn handle(signal: Signal, flags: SaFlags) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.context("handle a signal")?;
    Ok(())
}

impl Rain {
    fn start() -> Result<Self> {
        handle(Signal::SIGUSR1, SaFlags::SA_RESTART)?;
        handle(Signal::SIGUSR2, SaFlags::empty())?;
        let done = Arc::new(AtomicBool::new(false));
        let on = pthread_self();
        let cloud = std::thread::spawn({
            let done = Arc::clone(&done);
            move || {
                while !done.load(Ordering::Relaxed) {
                    let _ = pthread_kill(on, Signal::SIGUSR1);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Ok(Self { done, cloud: Some(cloud) })
    }
}

impl Drop for Rain {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // The thread that it rains on must outlive it.
        let _ = self.cloud.take().map(std::thread::JoinHandle::join);
    }
}

/// Ends a blocking call by a signal whose handler does not ask for a restart.
fn interrupt_until(thread: Pthread, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let _ = pthread_kill(thread, Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Stage {
    _agent: Arc<Agent>,
    pod: Pod,
    server: Server,
    client: Client,
}

impl Stage {
    /// A pod that drains.
    fn start(node: &Node) -> Result<Self> {
        let agent = node.agent().start()?;
        let hook = Hook::http("/drain?settle=60s&last-call=http");
        let pod = node.pod("web").port("http", PORT).hook(hook).grace(90).start()?;
        let server = pod.listen(PORT)?;
        node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        Ok(Self { _agent: agent, pod, server, client: node.client()? })
    }

    fn accepted(&self) -> Result<(Conn, Conn)> {
        let conn = self.client.connect(&self.pod, PORT)?;
        let served = self.server.accept()?;
        Ok((conn, blocking(served)?))
    }
}
