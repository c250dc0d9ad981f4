//! Byte exactness: what the client of a draining pod hears is what the pod has written, but for one
//! announcement at a place where it may be. Whatever is written, however, and in whatever turn.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lastcall_tests::{Client, Conn, Family, Hook, Node, Pod, Server, scenario};
use nix::poll::{PollFd, PollFlags, poll};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

const PORT: u16 = 8080;
const CASES: u32 = 100;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
const CLOSE: &[u8] = b"Connection: close\r\n";
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a body is full of.
#[derive(Clone, Copy, Debug)]
enum Filler {
    Zeros,
    StatusLines,
    Requests,
    Frames,
    LastChunks,
}

impl Filler {
    fn fill(self, length: usize) -> Vec<u8> {
        let unit: &[u8] = match self {
            Self::Zeros => b"\0",
            Self::StatusLines => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Self::Requests => b"GET / HTTP/1.1\r\n\r\n",
            Self::Frames => b"\0\0\x01\x01\x05\0\0\0\x01\x88",
            Self::LastChunks => b"x\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
        };
        unit.iter().copied().cycle().take(length).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunked,
    Trailers,
    Head,
    NoContent,
    Interim,
}

/// A request and its answer, and how they come.
#[derive(Clone, Debug)]
struct Exchange {
    upload: usize,
    filler: Filler,
    framing: Framing,
    length: usize,
    /// Sizes of the pod's first writes, and whether its body begins a write of its own.
    writes: Vec<usize>,
    body_apart: bool,
    /// The next request comes when so much of a thousandth of this answer has come.
    eager: Option<usize>,
}

#[derive(Clone, Debug)]
struct Case {
    /// The connection is older than the drain.
    older: bool,
    http2: bool,
    exchanges: Vec<Exchange>,
    /// Small buffers, a client that reads slowly, and an app that never blocks.
    tight: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let filler = prop::sample::select(vec![
        Filler::Zeros,
        Filler::StatusLines,
        Filler::Requests,
        Filler::Frames,
        Filler::LastChunks,
    ]);
    let framing = prop::sample::select(vec![
        Framing::Length,
        Framing::Length,
        Framing::Chunked,
        Framing::Trailers,
        Framing::Head,
        Framing::NoContent,
        Framing::Interim,
    ]);
    let length = prop_oneof![
        3 => Just(0),
        8 => 1..100usize,
        8 => 100..20_000usize,
        1 => 1_000_000..3_000_000usize,
    ];
    let upload = prop_oneof![4 => Just(0), 2 => 1..200usize, 1 => 10_000..100_000usize];
    let writes = prop::collection::vec(prop_oneof![1..8usize, 8..60usize, 60..5_000usize], 0..12);
    let eager = prop_oneof![6 => Just(None), 1 => (0..1000usize).prop_map(Some)];
    let exchange = (upload, filler, framing, length, writes, any::<bool>(), eager).prop_map(
        |(upload, filler, framing, length, writes, body_apart, eager)| Exchange {
            upload,
            filler,
            framing,
            length,
            writes,
            body_apart,
            eager,
        },
    );
    (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.3),
        prop::collection::vec(exchange, 1..8),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(older, http2, exchanges, tight)| Case { older, http2, exchanges, tight })
}

/// What one end writes, and at which of its offsets an announcement may be.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Exchange {
    fn request(&self, http2: bool, stream: u8) -> Vec<u8> {
        let body = self.filler.fill(self.upload);
        if http2 {
            let data: Vec<u8> = body.chunks(16_000).flat_map(|part| frame(0, 0, stream, part)).collect();
            return [frame(1, 4, stream, b"\x83"), data, frame(0, 1, stream, b"")].concat();
        }
        let method = if self.framing == Framing::Head { "HEAD" } else { "POST" };
        let head = format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    }

    /// The answer, where its head ends, and where an announcement may be.
    fn response(&self, http2: bool, stream: u8) -> (Vec<u8>, usize, Vec<usize>) {
        let body = self.filler.fill(self.length);
        if http2 {
            let mut frames = vec![frame(1, 0, stream, b"\x88"), frame(9, 4, stream, b"\x88")];
            frames.extend(body.chunks(9_000).map(|part| frame(0, 0, stream, part)));
            frames.push(frame(1, 5, stream, b"\x88"));
            // Not behind the first, whose headers go on in the second.
            let ends = frames.iter().scan(0, |end, frame| {
                Some(*{
                    *end += frame.len();
                    end
                })
            });
            let places = std::iter::once(0).chain(ends.skip(1)).collect();
            return (frames.concat(), 20, places);
        }
        let status = if self.framing == Framing::NoContent { "204 No Content" } else { "200 OK" };
        let interim = if self.framing == Framing::Interim {
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        } else {
            ""
        };
        let line = format!("{interim}HTTP/1.1 {status}\r\n");
        let chunked = matches!(self.framing, Framing::Chunked | Framing::Trailers);
        let fields = match self.framing {
            Framing::NoContent => String::new(),
            _ if chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let head = format!("{line}Connection: keep-alive\r\n{fields}\r\n");
        let mut bytes = head.clone().into_bytes();
        match self.framing {
            Framing::NoContent | Framing::Head => {}
            Framing::Chunked | Framing::Trailers => {
                for part in body.chunks(5_000) {
                    bytes.extend(format!("{:x}\r\n", part.len()).bytes());
                    bytes.extend(part);
                    bytes.extend(b"\r\n");
                }
                let end = if self.framing == Framing::Trailers { "0\r\nX: y\r\n\r\n" } else { "0\r\n\r\n" };
                bytes.extend(end.bytes());
            }
            _ => bytes.extend(body),
        }
        (bytes, head.len(), vec![line.len()])
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Runs a case on a connection; answers what the pod wrote and what its client heard.
fn talk(case: &Case, client: &TcpStream, served: &TcpStream) -> Result<(Written, Vec<u8>)> {
    let heard = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut all = Vec::new();
            let mut buffer = vec![0; if case.tight { 3_000 } else { 100_000 }];
            loop {
                match (&mut &*client).read(&mut buffer) {
                    Ok(0) => return Ok::<_, anyhow::Error>(all),
                    Ok(n) => all.extend(&buffer[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
                heard.store(all.len(), Ordering::Relaxed);
                if case.tight {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        });
        let written = write_all(case, client, served, &heard);
        // Ends the reader, however that went.
        let _ = served.shutdown(Shutdown::Both);
        let all = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok((written?, all))
    })
}

fn write_all(case: &Case, client: &TcpStream, served: &TcpStream, heard: &AtomicUsize) -> Result<Written> {
    let mut written = Written::default();
    if case.http2 {
        let settings = frame(4, 0, 0, b"");
        ask(client, served, &[PREFACE, &settings].concat())?;
        push(served, &settings, case.tight)?;
        written.bytes.extend(&settings);
        written.places.push(settings.len());
    }
    let streams = (1..).step_by(2);
    let requests: Vec<Vec<u8>> =
        case.exchanges.iter().zip(streams.clone()).map(|(e, s)| e.request(case.http2, s)).collect();
    let mut asked = 0;
    for (i, (exchange, stream)) in case.exchanges.iter().zip(streams).enumerate() {
        if asked == i {
            ask(client, served, &requests[i])?;
            asked += 1;
        }
        let (bytes, head, places) = exchange.response(case.http2, stream);
        let base = written.bytes.len();
        written.places.extend(places.iter().map(|place| base + place));
        written.bytes.extend(&bytes);
        let early = exchange.eager.map(|part| bytes.len() * part / 1000);
        let mut cuts: Vec<usize> = exchange
            .writes
            .iter()
            .scan(0, |at, size| {
                Some(*{
                    *at += size;
                    at
                })
            })
            .chain(exchange.body_apart.then_some(head))
            .chain(early)
            .filter(|cut| *cut < bytes.len())
            .collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        cuts.dedup();
        let mut from = 0;
        for to in cuts {
            push(served, &bytes[from..to], case.tight)?;
            from = to;
            if Some(to) == early && i + 1 < requests.len() {
                hear(heard, base + to)?;
                ask(client, served, &requests[i + 1])?;
                asked += 1;
            }
        }
        if asked == i + 1 {
            hear(heard, written.bytes.len())?;
        }
    }
    Ok(written)
}

/// The client asks, and the app reads all of it.
fn ask(client: &TcpStream, served: &TcpStream, request: &[u8]) -> Result<()> {
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| (&mut &*client).write_all(request));
        let mut got = vec![0; request.len()];
        let mut filled = 0;
        while filled < got.len() {
            match (&mut &*served).read(&mut got[filled..]) {
                Ok(0) => bail!("closed in a request"),
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(served, PollFlags::POLLIN)?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("read a request"),
            }
        }
        sent.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        ensure!(got == request, "a request has changed on its way");
        Ok(())
    })
}

fn push(served: &TcpStream, mut bytes: &[u8], tight: bool) -> Result<()> {
    served.set_nonblocking(tight)?;
    while !bytes.is_empty() {
        match (&mut &*served).write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(served, PollFlags::POLLOUT)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("write an answer"),
        }
    }
    Ok(())
}

fn wait(stream: &TcpStream, for_what: PollFlags) -> Result<()> {
    let mut fds = [PollFd::new(stream.as_fd(), for_what)];
    ensure!(poll(&mut fds, u16::try_from(PATIENCE.as_millis())?)? == 1, "{for_what:?} never came");
    Ok(())
}

/// Waits until the client has heard so much, an announcement not counted: it can only be ahead.
fn hear(heard: &AtomicUsize, bytes: usize) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while heard.load(Ordering::Relaxed) < bytes {
        ensure!(Instant::now() < until, "the client heard {heard:?} of {bytes} bytes");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Is that what was written, but for one announcement at a place where it may be? Answers whether it is there.
fn compare(http2: bool, written: &Written, heard: &[u8]) -> Result<bool> {
    if written.bytes == heard {
        return Ok(false);
    }
    let text = if http2 { GOAWAY } else { CLOSE };
    let same = written.bytes.iter().zip(heard).take_while(|(a, b)| a == b).count();
    let fits = |place: &usize| {
        *place <= same
            && heard.get(*place..*place + text.len()) == Some(text)
            && heard[*place + text.len()..] == written.bytes[*place..]
    };
    if written.places.iter().any(fits) {
        return Ok(true);
    }
    let around = |bytes: &[u8]| {
        bytes[same.saturating_sub(60).min(bytes.len())..bytes.len().min(same + 60)].escape_ascii().to_string()
    };
    bail!(
        "at byte {same} of {}: {} was written, {} was heard ({} bytes)",
        written.bytes.len(),
        around(&written.bytes),
        around(heard),
        heard.len()
    )
}

/// Connections, older than the drain or newer.
struct Connections {
    client: Client,
    pod: Pod,
    server: Server,
    older: RefCell<Vec<(Conn, Conn)>>,
}

impl Connections {
    fn open(&self) -> Result<(Conn, Conn)> {
        let conn = self.client.connect(&self.pod, PORT)?;
        Ok((conn, self.server.accept()?))
    }

    fn take(&self, case: &Case) -> Result<(Conn, Conn)> {
        // A preface is no beginning of an older connection.
        let older = (case.older && !case.http2).then(|| self.older.borrow_mut().pop()).flatten();
        let (client, served) = older.map_or_else(|| self.open(), Ok)?;
        if case.tight {
            client.receive_buffer(4096)?;
            served.send_buffer(8192)?;
        }
        Ok((client, served))
    }
}

fn exact(node: &Node) -> Result<()> {
    let agent = node.agent().start()?;
    let hook = Hook::http("/drain?settle=500s&last-call=http");
    let pod = node.pod("web").port("http", PORT).hook(hook).grace(900).start()?;
    let server = pod.listen(PORT)?;
    let connections =
        Connections { client: node.client()?, pod: pod.clone(), server, older: RefCell::default() };
    for _ in 0..CASES {
        let mut both = connections.open()?;
        both.0.get("/")?;
        both.1.request()?;
        both.1.respond("hello")?;
        both.0.response()?;
        connections.older.borrow_mut().push(both);
    }
    let _stop = node.kubelet().delete(&pod)?;
    agent.watches(&pod)?;
    let (told, run) = (Cell::new(0u32), Cell::new(0u32));
    let config =
        Config { cases: CASES, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&cases(), |case| {
        let one = || -> Result<bool> {
            let (client, served) = connections.take(&case)?;
            let (written, heard) = talk(&case, client.stream(), served.stream())?;
            compare(case.http2, &written, &heard)
        };
        run.set(run.get() + 1);
        told.set(told.get() + u32::from(one().map_err(|e| TestCaseError::fail(format!("{e:#}")))?));
        Ok(())
    });
    match outcome {
        Ok(()) => {
            // Else nothing was shown.
            ensure!(told.get() * 5 > run.get(), "{} of {} clients were told", told.get(), run.get());
            eprintln!("{} of {} clients were told", told.get(), run.get());
            Ok(())
        }
        Err(TestError::Fail(why, case)) => bail!("{why}\n{case:#?}"),
        Err(TestError::Abort(why)) => bail!("{why}"),
    }
}

#[test]
fn every_byte_is_the_same_ipv4() {
    scenario::run(Family::Ipv4, exact);
}

#[test]
fn every_byte_is_the_same_ipv6() {
    scenario::run(Family::Ipv6, exact);
}
