//! The loads of the demo. Neither ever sends a request a second time: what fails is counted, and stays so.
//! Ends its work when its standard input ends, lets what is in flight finish, and prints a report.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use lastcall_tests::clock::now;
use lastcall_tests::http::Head;
use lastcall_tests::load::{Failure, Kind, Loss, Report};

/// Failures beyond this many are counted, not listed.
const MAX_LISTED: usize = 10_000;
/// Requests that may be in flight at once, whatever the rate.
const MAX_IN_FLIGHT: usize = 1_000;

#[derive(Clone, Parser)]
struct Args {
    /// Who comes: clients that come and go, or clients that stay and are busy.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Where to.
    #[arg(long)]
    target: SocketAddr,
    /// Coming and going: new connections a second, each with one quick request.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Coming and going: slow requests a second, on top.
    #[arg(long, default_value_t = 10.0)]
    slow_rate: f64,
    /// Coming and going: how long a slow request takes in the app.
    #[arg(long, default_value_t = 2000)]
    slow_ms: u64,
    /// Coming and going: how long the client of a slow request takes to send it.
    #[arg(long, default_value_t = 400)]
    upload_ms: u64,
    /// Busy: connections, each sending one POST after the other.
    #[arg(long, default_value_t = 50)]
    connections: u32,
    /// Busy: how long each POST takes in the app.
    #[arg(long, default_value_t = 200)]
    work_ms: u64,
    /// A request that has no complete answer after this has failed.
    #[arg(long, default_value_t = 5)]
    timeout_seconds: u64,
    /// The end, even if nobody asks for it.
    #[arg(long, default_value_t = 120)]
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

fn main() -> Result<()> {
    let args = Args::parse();
    let shared = Arc::new(Shared::default());
    stop_with_stdin(Arc::clone(&shared));
    let until = Instant::now() + Duration::from_secs(args.max_seconds);
    match args.kind {
        Kind::ComingAndGoing => come_and_go(&args, &shared, until),
        Kind::Busy => stay_busy(&args, &shared, until),
    }
    println!("{}", serde_json::to_string(&shared.lock().report)?);
    Ok(())
}

fn stop_with_stdin(shared: Arc<Shared>) {
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        shared.lock().stopping = true;
        shared.changed.notify_all();
    });
}

/// An open loop: the next request comes when it is due, whatever became of the others.
fn come_and_go(args: &Args, shared: &Arc<Shared>, until: Instant) {
    let start = Instant::now();
    let slow = format!("/slow?ms={}", args.slow_ms);
    let (mut quick, mut slowly) = (1.0, 0.5);
    loop {
        let (due_quick, due_slow) = (quick / args.rate, slowly / args.slow_rate);
        let due = start + Duration::from_secs_f64(due_quick.min(due_slow));
        if !shared.keep_going(due.min(until)) || due >= until {
            break;
        }
        let is_slow = due_slow < due_quick;
        let (path, upload) = if is_slow { (slow.clone(), args.upload_ms) } else { ("/".to_owned(), 0) };
        *if is_slow { &mut slowly } else { &mut quick } += 1.0;
        if shared.lock().in_flight >= MAX_IN_FLIGHT {
            continue;
        }
        shared.lock().in_flight += 1;
        let (args, shared) = (args.clone(), Arc::clone(shared));
        thread::spawn(move || {
            let text = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
            let upload = Duration::from_millis(upload);
            let result = connect(&args).and_then(|stream| exchange(&stream, &text, upload).map(drop));
            shared.finished(&path, result);
            shared.lock().in_flight -= 1;
            shared.changed.notify_all();
        });
    }
    let mut state = shared.lock();
    while state.in_flight > 0 {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A closed loop on each connection: the next request goes out when the answer is there. A failed request
/// takes its place in the rhythm too, so that a refusal does not become a flood.
fn stay_busy(args: &Args, shared: &Shared, until: Instant) {
    let work = Duration::from_millis(args.work_ms);
    let path = format!("/slow?ms={}", args.work_ms);
    let text = format!("POST {path} HTTP/1.1\r\nHost: demo\r\nContent-Length: 64\r\n\r\n{}", "x".repeat(64));
    thread::scope(|scope| {
        for number in 0..args.connections {
            let (path, text) = (&path, &text);
            scope.spawn(move || {
                let mut connection = None;
                let mut next = Instant::now() + work * number / args.connections;
                while shared.keep_going(next) && Instant::now() < until {
                    let started = Instant::now();
                    let stream = connection.take().map_or_else(|| connect(args), Ok);
                    let result =
                        stream.and_then(|stream| Ok((exchange(&stream, text, Duration::ZERO)?, stream)));
                    next = if result.is_ok() { Instant::now() } else { started + work };
                    shared.finished(
                        path,
                        result.map(|(head, stream)| {
                            if !head.closes() {
                                connection = Some(stream);
                            }
                        }),
                    );
                }
            });
        }
    });
}

/// What went wrong, and whether the request had reached an app by then.
type Outcome<T> = Result<T, (Loss, io::Error, Option<SocketAddr>)>;

fn connect(args: &Args) -> Outcome<TcpStream> {
    let timeout = Duration::from_secs(args.timeout_seconds);
    let stream =
        TcpStream::connect_timeout(&args.target, timeout).map_err(|error| (Loss::Refused, error, None))?;
    let set = || {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))
    };
    set().map_err(|error| (Loss::Refused, error, None))?;
    Ok(stream)
}

/// One request, sent in two halves `upload` apart, and its answer.
fn exchange(stream: &TcpStream, request: &str, upload: Duration) -> Outcome<Head> {
    let whole = || -> io::Result<Head> {
        let (first, second) = request.as_bytes().split_at(request.len() / 2);
        (&*stream).write_all(first)?;
        thread::sleep(upload);
        (&*stream).write_all(second)?;
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        head.read_body(&mut reader, u64::MAX)?;
        match head.status() {
            Some(200) => Ok(head),
            _ => Err(io::Error::other(head.first)),
        }
    };
    whole().map_err(|error| (Loss::Cut, error, stream.local_addr().ok()))
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

    fn finished(&self, path: &str, result: Outcome<()>) {
        let report = &mut self.lock().report;
        report.requests += 1;
        let Err((loss, error, from)) = result else { return };
        report.failed += 1;
        report.cut += u64::from(loss == Loss::Cut);
        if report.failures.len() < MAX_LISTED {
            let error = match error.kind() {
                // A read timeout, by its number.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => error.to_string(),
            };
            report.failures.push(Failure { at: now(), loss, error, path: path.to_owned(), from });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
