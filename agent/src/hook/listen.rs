//! The two listeners of the hook's port.
//!
//! | | bound to | for |
//! |---|---|---|
//! | door | 0.0.0.0, on `lo` alone, IP_TRANSPARENT | `240.x.y.z`, where hooks are led, and wait while nobody is home; `127.x.y.z` where those do not get through |
//! | presence | 127.0.0.1, SO_MARK | the connect program looks it up to see whether the agent is home (a lookup does not find listeners bound to a device); direct callers come in here too |
//!
//! The presence opens last and closes first: while it is open, the door is.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

/// A whole node's hooks may arrive while the accept loop is busy.
const BACKLOG: i32 = 1024;
/// One of the addresses that hooks are led to: those of hostNetwork pods.
const NOBODY: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
/// Two SYNs, on a busy machine.
const REACHED: Duration = Duration::from_millis(2500);

/// Why the hook's port cannot be served. Fatal.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{address} is taken by another process: `ss -ltnp 'sport = :{port}'` shows by whom", port = address.port())]
    PortTaken {
        /// What was to be bound.
        address: SocketAddrV4,
        /// EADDRINUSE
        #[source]
        source: io::Error,
    },
    /// An option needs a right that the agent has not.
    #[error("{operation} on {address} needs {right}")]
    NotPermitted {
        /// Which option.
        operation: &'static str,
        /// Of which listener.
        address: SocketAddrV4,
        /// The capability.
        right: &'static str,
        /// EPERM
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("{operation} on {address}")]
    Failed {
        /// Which call.
        operation: &'static str,
        /// Of which listener.
        address: SocketAddrV4,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Both listeners.
#[derive(Debug)]
pub struct Listeners {
    pub(super) door: TcpListener,
    pub(super) presence: Option<TcpListener>,
    port: u16,
}

impl Listeners {
    /// Opens the door, then shows presence with the mark that [`HookConfig`][1] has. Port 0 takes a
    /// free one. Has to be called within a tokio runtime.
    ///
    /// [1]: lastcall_ebpf::abi::HookConfig
    pub fn bind(port: u16, mark: u32) -> Result<Self, ListenError> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let door = listen(any, |at, socket| {
            at.option("SO_BINDTODEVICE", "CAP_NET_RAW", socket.bind_device(Some(b"lo")))?;
            at.option("IP_TRANSPARENT", "CAP_NET_ADMIN", socket.set_ip_transparent_v4(true))
        })?;
        let port = At(any).call("getsockname", door.local_addr())?.port();
        let presence = listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), |at, socket| match mark {
            0 => Ok(()),
            mark => at.option("SO_MARK", "CAP_NET_ADMIN", socket.set_mark(mark)),
        })?;
        Ok(Self { door, presence: Some(presence), port })
    }

    /// The port of both.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether calls to `240.x.y.z` arrive here, where they are led if they can be. A firewall's rules may
    /// keep such addresses off `lo`.
    pub async fn reached_at_240(&self) -> bool {
        let call = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind_device(Some(b"lo"))?;
            // Reset when it is dropped: nothing is left of it but a place in the queue until it is taken.
            socket.set_zero_linger()?;
            socket.connect((NOBODY, self.port).into()).await
        };
        timeout(REACHED, call).await.is_ok_and(|call| call.is_ok())
    }

    /// From now on nobody is home: the connect program makes new hooks wait, at an address that
    /// the door still serves. What the presence had accepted is returned, so that nobody is reset.
    pub fn close_presence(&mut self) -> Vec<TcpStream> {
        self.presence.take().map(close).unwrap_or_default()
    }

    /// From now on the door lets nobody in: a call is a SYN without an answer, sent again a second later, and
    /// whoever opens the door by then gets it. Who is in already is still to be accepted, and who is half in
    /// comes in.
    pub fn shut(&self) {
        let_nobody_in(&self.door);
    }

    /// Closes the door too.
    pub fn close(mut self) -> Vec<TcpStream> {
        let mut rest = self.close_presence();
        rest.extend(close(self.door));
        rest
    }
}

fn let_nobody_in(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).attach_filter(&NO_SYN) {
        tracing::debug!(%error, "calls that arrive while a listener closes may be reset");
    }
}

/// Closing a listener resets the connections in its queue. So no more are let in, the queue is
/// emptied, and then it is closed.
fn close(listener: TcpListener) -> Vec<TcpStream> {
    let_nobody_in(&listener);
    let mut rest = Vec::new();
    let Ok(listener) = listener.into_std() else { return rest };
    while let Ok((stream, _)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        rest.extend(stream);
    }
    rest
}

/// Classic BPF over the TCP header: drop a SYN without ACK, keep everything else.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 13),
    SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, 0x12),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, 0x02),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
];

/// How long to leave a listener alone after an error; `None`: go on at once.
///
/// An error of one connection (ECONNABORTED and the network errors of accept(2)) says nothing about
/// the next. Out of descriptors or memory, the connection stays in the queue and the listener stays
/// readable: without a pause the loop would spin.
pub(super) fn pause_after(error: &io::Error, previous: Duration) -> Option<Duration> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            Some((previous * 2).clamp(Duration::from_millis(10), Duration::from_secs(1)))
        }
        _ => None,
    }
}

fn listen(
    address: SocketAddrV4,
    options: impl FnOnce(At, &Socket) -> Result<(), ListenError>,
) -> Result<TcpListener, ListenError> {
    let at = At(address);
    let socket = at.call(
        "making a socket",
        Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)),
    )?;
    // The connections of an agent that has ended, and both listeners side by side; an upgrade's second
    // agent too, which has the same user.
    at.call("SO_REUSEADDR", socket.set_reuse_address(true))?;
    at.call("SO_REUSEPORT", socket.set_reuse_port(true))?;
    options(at, &socket)?;
    at.bind(socket.bind(&address.into()))?;
    at.bind(socket.listen(BACKLOG))?;
    at.call("registering the listener", TcpListener::from_std(socket.into()))
}

/// Says where an error happened.
#[derive(Clone, Copy)]
struct At(SocketAddrV4);

impl At {
    fn call<T>(self, operation: &'static str, result: io::Result<T>) -> Result<T, ListenError> {
        result.map_err(|source| ListenError::Failed { operation, address: self.0, source })
    }

    fn option(
        self,
        operation: &'static str,
        right: &'static str,
        result: io::Result<()>,
    ) -> Result<(), ListenError> {
        result.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                ListenError::NotPermitted { operation, address: self.0, right, source }
            }
            _ => ListenError::Failed { operation, address: self.0, source },
        })
    }

    fn bind<T>(self, result: io::Result<T>) -> Result<T, ListenError> {
        result.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::PortTaken { address: self.0, source },
            _ => ListenError::Failed { operation: "listening", address: self.0, source },
        })
    }
}

#[cfg(test)]
mod tests;
