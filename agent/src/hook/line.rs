//! One caller's connection, from accept to close.
//!
//! hyper reads and writes it through [`Wire`]; while the hook is held nobody may do either, and
//! [`Line::gone`] alone watches for the caller's end. A connection made again after a restart
//! begins with its request as it was written down, then is like any other.

use std::{
    io,
    net::{Shutdown, SocketAddrV4},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, sync::Notify};

use super::held::{self, HeldConnection, HeldError, HeldRecord};

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    /// The address that the caller reached.
    pub(super) local: SocketAddrV4,
    pub(super) peer: SocketAddrV4,
    pub(super) from_kubelet: bool,
    /// What an earlier agent had written down of it.
    pub(super) earlier: Option<Box<HeldRecord>>,
    held: AtomicBool,
    /// Something was written.
    spoken: AtomicBool,
    /// The answer is known; what is left to do is bounded in time.
    pub(super) answered: Notify,
}

impl Line {
    pub(super) fn new(
        stream: TcpStream,
        local: SocketAddrV4,
        peer: SocketAddrV4,
        from_kubelet: bool,
        earlier: Option<Box<HeldRecord>>,
    ) -> Arc<Self> {
        let (held, spoken, answered) = (AtomicBool::new(false), AtomicBool::new(false), Notify::new());
        Arc::new(Self { stream, local, peer, from_kubelet, earlier, held, spoken, answered })
    }

    /// The connection as hyper wants it.
    pub(super) fn wire(self: &Arc<Self>) -> Wire {
        let request = self.earlier.as_ref().and_then(|record| record.target()).map(|target| {
            // A blank or a line end would make it another request than was read.
            let target: String = target.chars().filter(|c| !c.is_whitespace()).collect();
            format!("GET {target} HTTP/1.1\r\nHost: restored\r\n\r\n").into()
        });
        Wire { line: Arc::clone(self), earlier: request.unwrap_or_default() }
    }

    /// Puts it into TCP_REPAIR. From then on nobody reads or writes until [`Line::release`].
    pub(super) fn hold(&self) -> Result<HeldConnection, HeldError> {
        let connection = held::hold(&self.stream)?;
        self.held.store(true, Ordering::Release);
        Ok(connection)
    }

    pub(super) fn release(&self) {
        if !self.held.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = held::release(&self.stream) {
            tracing::warn!(%error, peer = %self.peer, "a held hook cannot be answered");
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Returns when the caller has closed or reset the connection. What else it sends stays unread.
    pub(super) async fn gone(&self) {
        loop {
            match self.stream.ready(Interest::READABLE | Interest::ERROR).await {
                Ok(ready) if !ready.is_read_closed() && !ready.is_error() => {
                    // Not ours to read now: wait for the next event.
                    let later = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.stream.try_io(Interest::READABLE, later);
                }
                _ => return,
            }
        }
    }

    /// Writes what fits at once, for a caller that hyper has given up or never met, unless it has its
    /// answer already.
    pub(super) fn say(&self, text: &[u8]) {
        if !self.spoken.swap(true, Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).send(text);
        }
    }
}

impl Drop for Line {
    /// Our FIN first: bytes that the caller sent and nobody has read make closing a reset, and the
    /// answer before it would be lost (Linux reads up to a FIN before it looks at the reset). What is
    /// still held is closed without a word.
    fn drop(&mut self) {
        if !self.is_held() {
            let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
        }
    }
}

/// A [`Line`] for hyper.
#[derive(Debug)]
pub(super) struct Wire {
    line: Arc<Line>,
    earlier: Bytes,
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.earlier.is_empty() {
            let n = self.earlier.len().min(buf.remaining());
            buf.put_slice(&self.earlier[..n]);
            self.earlier.advance(n);
            return Poll::Ready(Ok(()));
        }
        if self.line.is_held() {
            // The service's answer wakes this task.
            return Poll::Pending;
        }
        let mut bytes = [0; 2048];
        let room = bytes.len().min(buf.remaining());
        loop {
            ready!(self.line.stream.poll_read_ready(cx))?;
            match self.line.stream.try_read(&mut bytes[..room]) {
                Ok(n) => {
                    buf.put_slice(&bytes[..n]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.spoken.store(true, Ordering::Relaxed);
        loop {
            ready!(self.line.stream.poll_write_ready(cx))?;
            match self.line.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.line.stream).shutdown(Shutdown::Write))
    }
}
