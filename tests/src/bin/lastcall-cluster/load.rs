//! Clients in numbers, which never send a request a second time: what fails is counted, and stays so.
//!
//! A connection that the server has closed while it was idle is not used again, as every client does; no
//! request was on it. Ends its work when its standard input ends, and prints a report.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use lastcall_tests::clock::now;
use lastcall_tests::http::Head;
use lastcall_tests::load::{Failure, Loss, Report};
use lastcall_tests::process::Process;

use crate::cluster::Cluster;
use crate::rollout::trial::Traffic;

/// Failures beyond this many are counted, not listed.
const MAX_LISTED: usize = 200;
/// Requests that may be in flight at once, whatever the rate.
const MAX_IN_FLIGHT: usize = 500;
/// What a POST carries.
const BODY: usize = 64;

/// What to send, how often, and on which connections.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Where to.
    #[arg(long)]
    target: SocketAddr,
    /// POST instead of GET.
    #[arg(long)]
    post: bool,
    /// How long a request takes in the app.
    #[arg(long, default_value_t = 0)]
    work_ms: u64,
    /// Connections that are kept; 0 for a new one for each request.
    #[arg(long, default_value_t = 0)]
    keep: u32,
    /// Requests a second, over all connections; on kept ones a request also waits for the one before.
    #[arg(long)]
    rate: f64,
    /// A request that has no complete answer after this has failed.
    #[arg(long, default_value_t = 10)]
    timeout_seconds: u64,
    /// The end, even if nobody asks for it.
    #[arg(long, default_value_t = 300)]
    max_seconds: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    in_flight: usize,
    report: Report,
}

/// Runs the load to the end of standard input.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let shared = Arc::new(Shared::default());
    let stop = Arc::clone(&shared);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.lock().stopping = true;
        stop.changed.notify_all();
    });
    let until = Instant::now() + Duration::from_secs(args.max_seconds);
    if args.keep == 0 {
        come_and_go(args, &shared, until);
    } else {
        stay(args, &shared, until);
    }
    println!("{}", serde_json::to_string(&shared.lock().report)?);
    Ok(())
}

/// An open loop: the next request comes when it is due, whatever became of the others.
fn come_and_go(args: &LoadArgs, shared: &Arc<Shared>, until: Instant) {
    let start = Instant::now();
    let request = args.request(false);
    for number in 0_u32.. {
        let due = start + Duration::from_secs_f64(f64::from(number) / args.rate);
        if due >= until || !shared.keep_going(due) {
            break;
        }
        if shared.lock().in_flight >= MAX_IN_FLIGHT {
            continue;
        }
        shared.lock().in_flight += 1;
        let (args, shared, request) = (args.clone(), Arc::clone(shared), request.clone());
        thread::spawn(move || {
            let result = connect(&args).and_then(|stream| exchange(&stream, &request).map(drop));
            shared.finished(&args, result);
            shared.lock().in_flight -= 1;
            shared.changed.notify_all();
        });
    }
    let mut state = shared.lock();
    while state.in_flight > 0 {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// On each connection the next request goes out when it is due and the answer to the last one is there.
fn stay(args: &LoadArgs, shared: &Shared, until: Instant) {
    let request = args.request(true);
    let pace = Duration::from_secs_f64(f64::from(args.keep) / args.rate);
    thread::scope(|scope| {
        for number in 0..args.keep {
            let request = &request;
            scope.spawn(move || {
                let mut kept: Option<TcpStream> = None;
                let mut due = Instant::now() + pace * number / args.keep;
                while due < until && shared.keep_going(due) {
                    // Those that fall behind do not catch up.
                    due = Instant::now().max(due) + pace;
                    let stream = kept.take().filter(is_open).map_or_else(|| connect(args), Ok);
                    let result = stream.and_then(|stream| Ok((exchange(&stream, request)?, stream)));
                    let result = result.map(|(head, stream)| {
                        if !head.closes() {
                            kept = Some(stream);
                        }
                    });
                    shared.finished(args, result);
                }
            });
        }
    });
}

/// What went wrong, and whether the request had reached an app by then.
type Outcome<T> = Result<T, (Loss, io::Error, Option<SocketAddr>)>;

fn connect(args: &LoadArgs) -> Outcome<TcpStream> {
    let timeout = Duration::from_secs(args.timeout_seconds);
    let stream = TcpStream::connect_timeout(&args.target, timeout);
    let stream = stream.map_err(|error| (Loss::Refused, error, None))?;
    let set = || {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))
    };
    set().map_err(|error| (Loss::Refused, error, None))?;
    Ok(stream)
}

/// Whether the server has not closed an idle connection, as far as one can know before one writes.
fn is_open(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    peek().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// One request and its whole answer.
fn exchange(stream: &TcpStream, request: &str) -> Outcome<Head> {
    let whole = || -> io::Result<Head> {
        (&*stream).write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader)?.ok_or(ErrorKind::UnexpectedEof)?;
        head.read_body(&mut reader, u64::MAX)?;
        match head.status() {
            Some(200) => Ok(head),
            _ => Err(io::Error::other(head.first)),
        }
    };
    whole().map_err(|error| (Loss::Cut, error, stream.local_addr().ok()))
}

impl LoadArgs {
    fn path(&self) -> String {
        if self.work_ms == 0 { "/".to_owned() } else { format!("/slow?ms={}", self.work_ms) }
    }

    fn request(&self, keep: bool) -> String {
        let close = if keep { "" } else { "Connection: close\r\n" };
        let (method, body) = if self.post { ("POST", "x".repeat(BODY)) } else { ("GET", String::new()) };
        let length = if self.post { format!("Content-Length: {BODY}\r\n") } else { String::new() };
        format!("{method} {} HTTP/1.1\r\nHost: e2e\r\n{close}{length}\r\n{body}", self.path())
    }
}

impl Shared {
    /// Waits for `due`; false if the load is to end first.
    fn keep_going(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if state.stopping || left.is_zero() {
                return !state.stopping;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finished(&self, args: &LoadArgs, result: Outcome<()>) {
        let report = &mut self.lock().report;
        report.requests += 1;
        let Err((loss, error, from)) = result else { return };
        report.failed += 1;
        report.cut += u64::from(loss == Loss::Cut);
        if report.failures.len() < MAX_LISTED {
            let error = match error.kind() {
                // A read timeout, by its number.
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => error.to_string(),
            };
            report.failures.push(Failure { at: now(), loss, error, path: args.path(), from });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load that runs, in a process of its own where the clients are.
#[derive(Debug)]
pub(crate) struct Load {
    process: Process,
    stdin: ChildStdin,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, traffic: &Traffic, target: SocketAddr) -> Result<Self> {
        let mut command = cluster.client(std::env::current_exe()?);
        command.args(["load", "--target", &target.to_string(), "--rate", &traffic.rate.to_string()]);
        command.args(["--keep", &traffic.keep.to_string(), "--work-ms", &traffic.work_ms.to_string()]);
        if traffic.post {
            command.arg("--post");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("run a load")?;
        let process = Process::new(child)?;
        let stdin = process.stdin()?;
        Ok(Self { process, stdin })
    }

    /// No new requests; those in flight finish, then the report.
    pub(crate) fn finish(self) -> Result<Report> {
        let mut stdout = self.process.stdout()?;
        drop(self.stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("the load's report: {text:?}"))
    }
}
