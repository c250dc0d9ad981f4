//! A TCP connection that a test holds by one end, or by both.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::clock;
use crate::http::Head;
use crate::netns::Netns;

/// Nothing that should come takes longer; a test that waits for it fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// One end of a connection.
#[derive(Debug)]
pub struct Conn {
    reader: BufReader<TcpStream>,
}

impl Conn {
    /// Wraps a connected socket.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Sends `bytes` as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream().write_all(bytes.as_ref()).context("send")
    }

    /// Sends a whole GET without a `Connection` header.
    pub fn get(&mut self, path: &str) -> Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// A whole exchange: a GET, and its complete answer.
    pub fn exchange(&mut self, path: &str) -> Result<(Head, Vec<u8>)> {
        self.get(path)?;
        self.response()
    }

    /// Sends a whole answer with a length.
    pub fn respond(&mut self, body: &str) -> Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Receives the head of a request and the body it announces.
    pub fn request(&mut self) -> Result<(Head, Vec<u8>)> {
        let head = Head::read(&mut self.reader).context("receive")?.context("closed before a request")?;
        let body = head.read_body(&mut self.reader, u64::MAX)?;
        Ok((head, body))
    }

    /// Receives a whole answer.
    pub fn response(&mut self) -> Result<(Head, Vec<u8>)> {
        self.request()
    }

    /// Receives exactly `bytes`, or says what came instead.
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let mut got = vec![0; bytes.as_ref().len()];
        self.reader.read_exact(&mut got).context("receive")?;
        if got != bytes.as_ref() {
            bail!("expected {:?}, got {:?}", bytes.as_ref().escape_ascii(), got.escape_ascii());
        }
        Ok(())
    }

    /// Receives so many bytes, whatever they are.
    pub fn receive(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut got = vec![0; n];
        self.reader.read_exact(&mut got).context("receive")?;
        Ok(got)
    }

    /// Whether the peer ends the connection, by FIN or RST, within `timeout`. What it sent before is lost.
    pub fn closed_within(&mut self, timeout: Duration) -> Result<bool> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream().set_read_timeout(Some(left))?;
            let n = match self.reader.fill_buf() {
                Ok(bytes) => bytes.len(),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.stream().set_read_timeout(Some(PATIENCE))?;
                    return Ok(false);
                }
                // A signal that nobody handles still ends a call that has a timeout of the socket's.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if n == 0 {
                return Ok(true);
            }
            self.reader.consume(n);
        }
    }

    /// When the last bytes came, by [`crate::clock::now`]: by the kernel's word, whenever somebody reads them.
    pub fn heard_at(&self) -> Result<f64> {
        // SAFETY: plain integers, for which zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&info) as libc::socklen_t;
        let (fd, place) = (self.stream().as_raw_fd(), (&raw mut info).cast());
        // SAFETY: an open descriptor, and a place of that length.
        let result =
            unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length) };
        ensure!(result == 0, "TCP_INFO: {}", io::Error::last_os_error());
        Ok(clock::now() - f64::from(info.tcpi_last_data_recv) / 1e3)
    }

    /// Half-close: our FIN goes out, the other direction stays open.
    pub fn finish_sending(&self) -> Result<()> {
        self.stream().shutdown(Shutdown::Write).context("shutdown")
    }

    /// Closes by FIN.
    pub fn close(self) {}

    /// Closes by RST.
    pub fn reset(self) -> Result<()> {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).context("linger")
    }

    /// A small receive window: what the peer sends beyond it stays in its queue.
    pub fn receive_buffer(&self, bytes: usize) -> Result<()> {
        SockRef::from(self.stream()).set_recv_buffer_size(bytes).context("receive buffer")
    }

    /// A large send queue: what is written is out of the app's hands at once.
    pub fn send_buffer(&self, bytes: usize) -> Result<()> {
        SockRef::from(self.stream()).set_send_buffer_size(bytes).context("send buffer")
    }

    /// The socket, for everything else. Read through the methods above: they may have buffered.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Our address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream().local_addr()?)
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket in a pod that the test itself serves.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    accepted: AtomicU64,
}

impl Server {
    /// Listens in `netns` on IPv4 and IPv6.
    pub fn listen(netns: &Netns, port: u16) -> Result<Self> {
        let listener = netns.run(|| listen(port))?;
        Ok(Self { listener, accepted: AtomicU64::new(0) })
    }

    /// The server's end of the next connection.
    pub fn accept(&self) -> Result<Conn> {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, u16::try_from(PATIENCE.as_millis())?)? == 0 {
            bail!("connection {number} did not come within {PATIENCE:?}");
        }
        Conn::new(self.listener.accept().with_context(|| format!("accept connection {number}"))?.0)
    }
}

/// A listener on both families, with a queue for thousands.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
