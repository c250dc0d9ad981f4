//! Apps that block: a socket that is about to carry an announcement makes blocking calls return early, so it
//! is in that state from the request's last byte to the answer's first, and at no other time.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Client, Conn, Hook, Node, Pod, Server, scenarios};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const PORT: u16 = 8080;
const CLOSE: &str = "Connection: close\r\n";

scenarios! {
    /// A server that reads blocking, request by request and piece by piece, while signals rain on it: no call
    /// ends but with data. Each of its clients is told.
    fn a_blocking_server_under_signals(node) {
        let stage = Stage::start(node)?;
        for _ in 0..20 {
            let (mut conn, served) = stage.accepted()?;
            std::thread::scope(|scope| -> Result<()> {
                let server = scope.spawn(|| serve(&served));
                for told in ["", CLOSE, "", ""] {
                    conn.send("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n")?;
                    std::thread::sleep(Duration::from_millis(3));
                    conn.send("abc")?;
                    std::thread::sleep(Duration::from_millis(3));
                    conn.send("def")?;
                    conn.expect(format!("HTTP/1.1 200 OK\r\n{told}Content-Length: 6\r\n\r\nabcdef"))?;
                }
                conn.finish_sending()?;
                server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
            })?;
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

/// Reads requests of six bytes and answers them, blocking, to the end of the connection.
fn serve(served: &Conn) -> Result<()> {
    let _rain = Rain::start()?;
    let mut all = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = receive(served, &mut buffer).context("a blocking call ended early")?;
        if n == 0 {
            return Ok(());
        }
        all.extend(&buffer[..n]);
        if all.ends_with(b"abcdef") {
            all.clear();
            io::Write::write_all(
                &mut served.stream(),
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef",
            )?;
        }
    }
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
        // A call with a timeout is never restarted.
        served.stream().set_read_timeout(None)?;
        Ok((conn, served))
    }
}
