//! Clients in numbers, which never send a request a second time: what fails is counted, and stays so.
//!
//! A connection that the server has closed while it was idle is not used again, as every client does; no
//! request was on it. Ends its work when its standard input ends, and prints a report.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
    /// Start only when so many quick requests after each other were answered.
    #[arg(long, default_value_t = 0)]
    warm_up: u32,
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
    warm_up(args)?;
    println!("begins");
    let until = Instant::now() + Duration::from_secs(args.max_seconds);
    if args.keep == 0 {
        come_and_go(args, &shared, until);
    } else {
        stay(args, &shared, until);
    }
    println!("{}", serde_json::to_string(&shared.lock().report)?);
    Ok(())
}

/// Whoever routes to the pods may learn of them a little later than the API.
fn warm_up(args: &LoadArgs) -> Result<()> {
    let quick = LoadArgs { post: false, work_ms: 0, timeout_seconds: 5, ..args.clone() };
    let (request, until) = (quick.request(false), Instant::now() + Duration::from_secs(120));
    let mut answered = 0;
    while answered < args.warm_up {
        match connect(&quick).and_then(|stream| exchange(&stream, &request).map(drop)) {
            Ok(()) => answered += 1,
            Err((_, error, _)) if Instant::now() > until => bail!("{} does not answer: {error}", args.target),
            Err(_) => answered = 0,
        }
        thread::sleep(Duration::from_millis(20));
    }
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
    // Killed with the handle.
    _process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// Starts it; nothing is sent yet, but to warm up.
    pub(crate) fn start(
        cluster: &Cluster,
        traffic: &Traffic,
        target: SocketAddr,
        warm_up: u32,
    ) -> Result<Self> {
        let mut command = cluster.client(std::env::current_exe()?);
        command.args(["load", "--target", &target.to_string(), "--rate", &traffic.rate.to_string()]);
        command.args(["--keep", &traffic.keep.to_string(), "--work-ms", &traffic.work_ms.to_string()]);
        command.args(["--warm-up", &warm_up.to_string()]);
        // Slow is not failed: ten seconds more than the app takes.
        command.args(["--timeout-seconds", &(10 + traffic.work_ms.div_ceil(1000)).to_string()]);
        if traffic.post {
            command.arg("--post");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("run a load")?;
        let process = Process::new(child)?;
        let (stdin, stdout) = (process.stdin()?, BufReader::new(process.stdout()?));
        Ok(Self { _process: process, stdin, stdout })
    }

    /// Waits until the first request is sent.
    pub(crate) fn begins(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line == "begins\n", "a load does not begin, see above");
        Ok(())
    }

    /// No new requests; those in flight finish, then the report.
    pub(crate) fn finish(mut self) -> Result<Report> {
        drop(self.stdin);
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("the load's report: {text:?}"))
    }
}
