//! The small kubelet: stops pods as Kubernetes 1.34's does, by orders on standard input.
//!
//! It keeps to the real one where that matters to a hook (`pkg/kubelet/lifecycle/handlers.go`,
//! `pkg/kubelet/kuberuntime/kuberuntime_container.go`): the request's bytes, the family of the socket, no
//! timeout but the grace, the status ignored, 10 KiB of body, the hook's time taken from the grace in whole
//! seconds, at least two left. It does not reuse connections.

use std::ffi::CString;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use lastcall_tests::clock::now;
use lastcall_tests::http::Head;
use lastcall_tests::kubelet::wire::{Call, Event, MINIMUM_GRACE_SECONDS, Order, Orders, Probe, Target, What};
use lastcall_tests::process::{pidfd_open, wait_for_exit};
use socket2::{Domain, Socket, TcpKeepalive, Type};

/// The most that the kubelet reads of an answer.
const MAX_BODY: u64 = 10 << 10;
/// Seconds between keep-alives, as Go has them.
static KEEP_ALIVE: AtomicU64 = AtomicU64::new(15);

#[derive(Parser)]
struct Args {
    /// The name of the process.
    name: String,
    /// Where its own API would be; nobody is served there.
    port: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    nix::sys::prctl::set_name(&CString::new(args.name)?)?;
    let api = TcpListener::bind((Ipv6Addr::UNSPECIFIED, args.port))?;
    thread::spawn(move || api.incoming().for_each(drop));
    say("ready");
    for line in io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Order::Stop(orders) => drop(thread::spawn(move || stop_pod(&orders))),
            Order::Call(orders) => drop(thread::spawn(move || call_hooks(&orders))),
            Order::Probe(probe) => drop(thread::spawn(move || keep_probing(&probe))),
            Order::KeepAlive(seconds) => KEEP_ALIVE.store(seconds, Ordering::Relaxed),
        }
    }
    Ok(())
}

fn stop_pod(orders: &Orders) {
    thread::scope(|scope| {
        for target in &orders.containers {
            scope.spawn(|| {
                if let Err(error) = stop_container(orders, target) {
                    eprintln!("stop {}/{}: {error:#}", orders.pod, target.name);
                }
            });
        }
    });
    report(orders, "", What::Gone);
}

fn stop_container(orders: &Orders, target: &Target) -> Result<()> {
    let app = pidfd_open(target.pid)?;
    let started = Instant::now();
    run_hook(orders, target);
    let left = orders.grace_seconds.saturating_sub(started.elapsed().as_secs()).max(MINIMUM_GRACE_SECONDS);
    report(orders, &target.name, What::Terminated { remaining_seconds: left });
    signal(&app, libc::SIGTERM);
    if !wait_for_exit(&app, Duration::from_secs(left)) {
        report(orders, &target.name, What::Killed);
        signal(&app, libc::SIGKILL);
        wait_for_exit(&app, Duration::from_secs(60));
    }
    report(orders, &target.name, What::Exited);
    Ok(())
}

fn call_hooks(orders: &Orders) {
    thread::scope(|scope| {
        for target in &orders.containers {
            scope.spawn(|| run_hook(orders, target));
        }
    });
}

/// Runs the hook until it ends or the grace does. A request is not cancelled then: it outlives the pod.
fn run_hook(orders: &Orders, target: &Target) {
    let grace = Duration::from_secs(orders.grace_seconds);
    let (reply, end) = channel();
    match target.hook.clone() {
        Call::None => return,
        Call::Sleep(seconds) => {
            report(orders, &target.name, What::HookStarted);
            thread::spawn(move || {
                thread::sleep(Duration::from_secs(seconds));
                reply.send(What::HookSlept)
            });
        }
        Call::Http { path, port, headers } => {
            report(orders, &target.name, What::HookStarted);
            let to = SocketAddr::new(orders.ip, port);
            thread::spawn(move || {
                reply.send(match get(to, &path, &headers) {
                    Ok((status, body)) => What::HookAnswered { status, body },
                    Err(error) => What::HookFailed { error: error.to_string() },
                })
            });
        }
    }
    let what = match end.recv_timeout(grace) {
        Ok(what) => what,
        Err(RecvTimeoutError::Timeout) => What::HookTimedOut,
        Err(error) => What::HookFailed { error: error.to_string() },
    };
    report(orders, &target.name, what);
}

/// The kubelet's GET, byte for byte (seen with 1.34).
fn get(to: SocketAddr, path: &str, headers: &[(String, String)]) -> io::Result<(u16, String)> {
    let stream = dial(to)?;
    let usual = [("Host", to.to_string().as_str()), ("User-Agent", "kube-lifecycle/1.34"), ("Accept", "*/*")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in usual {
        let own = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(&name));
        request += &format!("{name}: {}\r\n", own.map_or(&value, |(_, value)| value));
    }
    let is_usual =
        |name: &str| ["host", "user-agent", "accept"].contains(&name.to_ascii_lowercase().as_str());
    for (name, value) in headers.iter().filter(|(name, _)| !is_usual(name)) {
        request += &format!("{name}: {value}\r\n");
    }
    request += "Accept-Encoding: gzip\r\n\r\n";
    (&stream).write_all(request.as_bytes())?;
    let mut reader = BufReader::new(&stream);
    let head = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.status().ok_or(io::ErrorKind::InvalidData)?;
    let body = head.read_body(&mut reader, MAX_BODY)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// As Go's `net.Dialer` does: IPv6 on a dual-stack socket, keep-alives every 15 s, no timeout.
fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if to.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.connect(&to.into())?;
    let pause = Duration::from_secs(KEEP_ALIVE.load(Ordering::Relaxed));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(pause).with_interval(pause).with_retries(9))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// A new connection each time, which lingers for a second (`pkg/probe/dialer_others.go`).
fn keep_probing(probe: &Probe) {
    let to = SocketAddr::new(probe.ip, probe.port);
    let host = if let IpAddr::V6(ip) = probe.ip { format!("[{ip}]") } else { probe.ip.to_string() };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}:{}\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        probe.path, probe.port
    );
    let timeout = Duration::from_millis(probe.timeout_ms);
    let once = || -> io::Result<()> {
        let socket = Socket::from(TcpStream::connect_timeout(&to, timeout)?);
        socket.set_linger(Some(Duration::from_secs(1)))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    };
    loop {
        // A failing probe is what probes are for.
        let _ = once();
        thread::sleep(Duration::from_millis(probe.period_ms));
    }
}

fn signal(app: &OwnedFd, signal: i32) {
    // SAFETY: an open descriptor and plain values.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, app.as_raw_fd(), signal, 0, 0) };
}

fn report(orders: &Orders, container: &str, what: What) {
    let (pod, container) = (orders.pod.clone(), container.to_owned());
    let event = Event { id: orders.id, at: now(), pod, container, what };
    if let Ok(line) = serde_json::to_string(&event) {
        say(&line);
    }
}

/// One line in one write: many threads speak here.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush());
}
