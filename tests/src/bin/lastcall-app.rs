//! The app in a pod: a plain HTTP/1.1 server that knows nothing of drains. At SIGTERM it ends at once and
//! cuts whatever is in flight, as most programs do that nobody taught otherwise.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use lastcall_tests::conn::listen;
use lastcall_tests::http::Head;
use nix::sys::signal::{SigSet, Signal};

/// Serves `/`, `/healthz`, `/slow?ms=N`, `/stream?ms=N&chunks=K[&bytes=B][&chunked=1]`; any method.
#[derive(Parser)]
struct Args {
    /// Serve HTTP here, on IPv4 and IPv6.
    #[arg(long)]
    port: Vec<u16>,
    /// Send back whatever comes here.
    #[arg(long)]
    echo_port: Vec<u16>,
    /// Pass on what comes here, as a mesh's proxy does.
    #[arg(long, requires = "forward_to")]
    forward_from: Option<SocketAddr>,
    /// To this port on loopback.
    #[arg(long)]
    forward_to: Option<u16>,
    /// Send every datagram back.
    #[arg(long)]
    udp_port: Vec<u16>,
    /// Answered by `/`, and in the header `X-Pod`.
    #[arg(long, default_value = "app")]
    name: String,
    /// At SIGTERM finish what is in flight, then end.
    #[arg(long)]
    graceful: bool,
}

/// How many requests are in flight, and whether the app is on its way out.
#[derive(Default)]
struct Work {
    in_flight: Mutex<usize>,
    less: Condvar,
    leaving: AtomicBool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = Arc::new(Work::default());
    if args.graceful {
        drain_at_sigterm(Arc::clone(&work))?;
    }
    for port in &args.port {
        let (work, name) = (Arc::clone(&work), args.name.clone());
        accept(*port, move |stream| serve(&stream, &name, &work))?;
    }
    for port in &args.echo_port {
        accept(*port, |stream| io::copy(&mut &stream, &mut &stream).map(drop))?;
    }
    for port in &args.udp_port {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port))?;
        thread::spawn(move || echo_datagrams(&socket));
    }
    if let (Some(from), Some(to)) = (args.forward_from, args.forward_to) {
        let listener = TcpListener::bind(from).with_context(|| format!("listen on {from}"))?;
        serve_all(listener, move |stream| pass_on(&stream, &TcpStream::connect((Ipv4Addr::LOCALHOST, to))?));
    }
    println!("ready");
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

fn accept(port: u16, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> Result<()> {
    serve_all(listen(port).with_context(|| format!("listen on {port}"))?, serve);
    Ok(())
}

fn serve_all(listener: TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // Small stacks: thousands of connections are a scenario.
            let _ = thread::Builder::new().stack_size(128 << 10).spawn(move || serve(stream));
        }
    });
}

/// Both directions, each until its end.
fn pass_on(client: &TcpStream, app: &TcpStream) -> io::Result<()> {
    fn one_way(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write))
    }
    client.set_nodelay(true)?;
    app.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, app));
        one_way(app, client)
    })
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..n], from);
    }
}

fn serve(stream: &TcpStream, name: &str, work: &Work) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Head::read(&mut reader)? {
        *work.in_flight.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let last = request.closes() || work.leaving.load(Ordering::SeqCst);
        let result = skip_body(&request, &mut reader).and_then(|()| answer(stream, &request, name, last));
        *work.in_flight.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        work.less.notify_all();
        result?;
        if last {
            break;
        }
    }
    Ok(())
}

fn skip_body(request: &Head, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    io::copy(&mut reader.take(length), &mut io::sink()).map(drop)
}

fn answer(mut stream: &TcpStream, request: &Head, name: &str, last: bool) -> io::Result<()> {
    let target = request.first.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: HashMap<&str, u64> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    let number = |key, otherwise| query.get(key).copied().unwrap_or(otherwise);
    let pause = Duration::from_millis(number("ms", 0));
    let mut head = format!("X-Pod: {name}\r\n");
    if last {
        head += "Connection: close\r\n";
    }
    match path {
        "/" | "/healthz" | "/slow" => {
            thread::sleep(pause);
            let length = name.len() + 1;
            write!(Text(&mut stream), "HTTP/1.1 200 OK\r\n{head}Content-Length: {length}\r\n\r\n{name}\n")
        }
        "/stream" => {
            let (chunks, bytes, chunked) =
                (number("chunks", 3), number("bytes", 100), number("chunked", 0) != 0);
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", chunks * bytes),
            };
            write!(Text(&mut stream), "HTTP/1.1 200 OK\r\n{head}{framing}\r\n\r\n")?;
            let chunk = "x".repeat(bytes as usize);
            for _ in 0..chunks {
                match chunked {
                    true => write!(Text(&mut stream), "{bytes:x}\r\n{chunk}\r\n")?,
                    false => stream.write_all(chunk.as_bytes())?,
                }
                thread::sleep(pause);
            }
            if chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
        }
        _ => write!(Text(&mut stream), "HTTP/1.1 404 Not Found\r\n{head}Content-Length: 0\r\n\r\n"),
    }
}

/// Sends each formatted text in one piece, as servers do that buffer.
struct Text<W>(W);

impl<W: Write> Text<W> {
    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.0.write_all(text.to_string().as_bytes())
    }
}

fn drain_at_sigterm(work: Arc<Work>) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    thread::spawn(move || {
        let _ = signals.wait();
        work.leaving.store(true, Ordering::SeqCst);
        let in_flight = work.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        drop(work.less.wait_while(in_flight, |in_flight| *in_flight > 0));
        std::process::exit(0);
    });
    Ok(())
}
