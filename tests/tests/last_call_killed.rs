//! The agent is killed (SIGKILL) while clients are being told: no stream is corrupted, and no socket is
//! another than before.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lastcall_tests::{Conn, Family, Hook, Node, scenario};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const PORT: u16 = 8080;
const CLOSE: &str = "Connection: close\r\n";
/// How often it is killed, and on how many connections announcements are under way each time.
const KILLS: u32 = 100;
const CONNECTIONS: usize = 16;
/// The sockets are ordinary ones again by then, on a machine with much to do.
const SOON: Duration = Duration::from_secs(10);

/// One connection's conversation, which goes on whatever becomes of the agent.
struct Talk {
    client: Conn,
    served: Conn,
    told: u32,
}

impl Talk {
    /// Exchanges until told to stop, and a few more. The app thinks for a moment in each, so that the kill may
    /// come at any point of it.
    fn run(&mut self, stop: &AtomicBool, seed: u64) -> Result<()> {
        let mut more = 3;
        let mut thinks = seed;
        while more > 0 {
            more -= u32::from(stop.load(Ordering::Relaxed));
            thinks = thinks.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.client.get("/")?;
            self.served.request()?;
            std::thread::sleep(Duration::from_micros(thinks >> 53));
            let body = "HTTP/1.1 200 OK\r\n".repeat((thinks >> 40 & 63) as usize);
            let (head, rest) =
                ("HTTP/1.1 200 OK\r\n", format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            // Every other head comes in two writes.
            let cut = if thinks >> 50 & 1 == 0 { head.len() } else { 5 };
            let whole = format!("{head}{rest}");
            self.served.send(&whole[..cut])?;
            self.served.send(&whole[cut..])?;
            self.client.expect(head)?;
            let next = self.client.receive(rest.len().min(CLOSE.len()))?;
            if next == CLOSE.as_bytes() {
                self.told += 1;
                self.client.expect(&rest)?;
            } else {
                ensure!(rest.as_bytes().starts_with(&next), "{} came", next.escape_ascii());
                self.client.expect(&rest[next.len()..])?;
            }
        }
        Ok(())
    }
}

fn killed(node: &Node) -> Result<()> {
    handle(Signal::SIGUSR1)?;
    let hook = Hook::http("/drain?settle=500s&last-call=http");
    let pod = node.pod("web").port("http", PORT).hook(hook).grace(900).start()?;
    let server = pod.listen(PORT)?;
    let client = node.client()?;
    // No kubelet: a call of its might find each agent in the wrong moment, and the pod would end.
    node.cluster().mark_deleted(pod.name(), None)?;
    let told = AtomicU32::new(0);
    for kill in 0..KILLS {
        let agent = node.agent().start()?;
        agent.watches(&pod)?;
        let mut talks: Vec<Talk> = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = client.connect(&pod, PORT)?;
            talks.push(Talk { client, served: server.accept()?, told: 0 });
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let running: Vec<_> = talks
                .iter_mut()
                .enumerate()
                .map(|(i, talk)| {
                    let (stop, seed) = (&stop, u64::from(kill) << 32 | i as u64);
                    // One after the other: whenever the programs go, some of them are at every point.
                    let later = Duration::from_micros(i as u64 * 600);
                    scope.spawn(move || {
                        std::thread::sleep(later);
                        talk.run(stop, seed)
                    })
                })
                .collect();
            // Another moment each time: at once, or some milliseconds later.
            std::thread::sleep(Duration::from_micros(u64::from(kill % 16) * 900));
            agent.kill();
            stop.store(true, Ordering::Relaxed);
            for talk in running {
                talk.join().map_err(|_| anyhow::anyhow!("a talk panicked"))??;
            }
            Ok(())
        })?;
        for talk in &talks {
            // A new drain of a new agent may tell a client once more; one that dies, none twice.
            ensure!(talk.told <= 1, "a client was told {} times", talk.told);
            told.fetch_add(talk.told, Ordering::Relaxed);
            ordinary_soon(talk.served.stream())?;
        }
    }
    // Some were told before the kill and some were not: else no kill came in between.
    let (told, all) = (told.load(Ordering::Relaxed), KILLS * CONNECTIONS as u32);
    ensure!(told > 0 && told < all, "{told} of {all} were told");
    eprintln!("{told} of {all} clients were told before the agent was killed");
    Ok(())
}

/// A blocking read of this socket is restarted after a signal, as that of any socket.
fn ordinary_soon(served: &TcpStream) -> Result<()> {
    let until = Instant::now() + SOON;
    loop {
        match signalled(served)? {
            None => return Ok(()),
            Some(why) if Instant::now() > until => bail!("a blocking read still ends with {why}"),
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Blocks in a read under signals; what it ended with, if not with the byte that ends it.
fn signalled(served: &TcpStream) -> Result<Option<io::Error>> {
    served.set_read_timeout(None)?;
    let me = pthread_self();
    let done = Arc::new(AtomicBool::new(false));
    let rain = std::thread::spawn({
        let done = Arc::clone(&done);
        let twin = served.try_clone()?;
        move || {
            for _ in 0..20 {
                let _ = pthread_kill(me, Signal::SIGUSR1);
                std::thread::sleep(Duration::from_micros(300));
            }
            if !done.load(Ordering::Relaxed) {
                // Ends the read, and the connection with it.
                let _ = twin.shutdown(std::net::Shutdown::Read);
            }
        }
    });
    let mut byte = [0u8; 1];
    // SAFETY: an open descriptor, and a buffer of one byte.
    let n = unsafe { libc::recv(served.as_raw_fd(), byte.as_mut_ptr().cast(), 1, 0) };
    let error = io::Error::last_os_error();
    done.store(true, Ordering::Relaxed);
    rain.join().map_err(|_| anyhow::anyhow!("the rain panicked"))?;
    Ok((n < 0).then_some(error))
}

extern "C" fn nothing(_: libc::c_int) {}

fn handle(signal: Signal) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.context("handle a signal")?;
    Ok(())
}

#[test]
fn killed_at_any_moment_ipv4() {
    scenario::run(Family::Ipv4, killed);
}

#[test]
fn killed_at_any_moment_ipv6() {
    scenario::run(Family::Ipv6, killed);
}
