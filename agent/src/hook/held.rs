//! A held hook is state, not a process.
//!
//! In: the kubelet's connection, its request read. Out: a [`HeldConnection`], from which another
//! process makes the same connection again after a `kill -9` of this one.
//!
//! While it is held the connection is in TCP_REPAIR: a process that dies closes it without a word
//! (`tcp_close` disconnects, kernel `net/ipv4/tcp.c`). The kubelet's keep-alives, 15 s apart, then find
//! nobody: at `240.x.y.z` they are lost without an answer, and 20 s after the last one that had one the
//! connection has ended (`agent-ebpf/src/hook.rs`). Until then the same sequence numbers can be taken up again.
//! (At `127.x.y.z` the first is answered with a reset.)
//! The kernel goes on receiving for a connection in TCP_REPAIR: keep-alives are answered, a FIN or a
//! reset shows in epoll. Only the process may neither read (EPERM) nor write (EINVAL).

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::moment::Moment;

mod repair;
mod returned;
mod store;

pub use returned::Returned;
pub use store::{HELD_VERSION, HeldKey, HeldRecord, HeldStore, MemoryStore, TARGET_MAX, held_flag};

/// What a connection is to the kernel, once both queues are empty. Addresses in network byte order,
/// the rest in the host's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldConnection {
    /// When `timestamp` was read, nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The next byte to send.
    pub snd_seq: u32,
    /// The next byte to receive.
    pub rcv_seq: u32,
    /// The TCP timestamp clock of this connection at `at`, as TCP_TIMESTAMP has it.
    pub timestamp: u32,
    /// The peer's maximum segment size.
    pub mss: u32,
    /// TCP_REPAIR_WINDOW.
    pub window: Window,
    /// Our address.
    pub local: [u8; 4],
    /// The peer's address.
    pub peer: [u8; 4],
    /// Our port.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// TCPI_OPT_… of TCP_INFO.
    pub options: u8,
    /// The peer's window scale.
    pub snd_wscale: u8,
    /// Our window scale.
    pub rcv_wscale: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// `struct tcp_repair_window`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub struct Window {
    pub snd_wl1: u32,
    pub snd_wnd: u32,
    pub max_window: u32,
    pub rcv_wnd: u32,
    pub rcv_wup: u32,
}

const _: () = assert!(size_of::<HeldConnection>() == 64 && size_of::<Window>() == 20);

/// Why a connection cannot be held or restored.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// TCP_REPAIR needs CAP_NET_ADMIN in the network namespace's user namespace. Hooks are then held
    /// by the process alone.
    #[error("TCP_REPAIR is not permitted: holding a hook through a restart needs CAP_NET_ADMIN")]
    NotPermitted(#[source] io::Error),
    /// The caller has gone, or is going.
    #[error("the connection is not established any more")]
    NotEstablished,
    /// The connection lives: another agent still holds it. Try again when that one has ended.
    #[error("{local} to {peer} is still held by another process")]
    StillHeld {
        /// Our end.
        local: SocketAddrV4,
        /// The kubelet's.
        peer: SocketAddrV4,
    },
    /// Anything else.
    #[error("{operation}")]
    Failed {
        /// Which call.
        operation: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> HeldError {
    move |source| HeldError::Failed { operation, source }
}

const TCP_ESTABLISHED: u8 = 1;
const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_WSCALE: u8 = 4;
/// `TCPI_OPT_USEC_TS`, kernel 6.7: the timestamp clock counts microseconds.
const OPTION_USEC_TS: u8 = 64;

impl HeldConnection {
    /// Our end.
    pub fn local(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(self.local), self.local_port)
    }

    /// The kubelet's end.
    pub fn peer(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(self.peer), self.peer_port)
    }

    /// The timestamp clock's value for a connection made again at `now`.
    ///
    /// The saved value would be older than what the keep-alives since then have shown the peer, which
    /// would drop everything we send (PAWS, RFC 7323). The lowest bit chooses the clock's unit since
    /// kernel 6.7 and is noise before.
    fn timestamp_at(&self, now: Moment) -> u32 {
        let away = now.since(Moment(self.at));
        if self.options & OPTION_USEC_TS != 0 {
            self.timestamp.wrapping_add(away.as_micros() as u32) | 1
        } else {
            self.timestamp.wrapping_add(away.as_millis() as u32).wrapping_add(2) & !1
        }
    }
}

/// Puts a connection into TCP_REPAIR and says what it takes to make it again.
///
/// On an error it is as it was before.
pub fn hold(socket: &impl AsFd) -> Result<HeldConnection, HeldError> {
    let fd = socket.as_fd();
    repair::enter(fd)?;
    read_state(fd).inspect_err(|_| {
        let _ = release(&fd);
    })
}

fn read_state(fd: BorrowedFd<'_>) -> Result<HeldConnection, HeldError> {
    let info = repair::info(fd)?;
    if info.state != TCP_ESTABLISHED {
        return Err(HeldError::NotEstablished);
    }
    let socket = socket2::SockRef::from(&fd);
    let local = v4(socket.local_addr()).map_err(failed("getsockname"))?;
    let peer = v4(socket.peer_addr()).map_err(failed("getpeername"))?;
    Ok(HeldConnection {
        snd_seq: repair::sequence(fd, repair::Queue::Send)?,
        rcv_seq: repair::sequence(fd, repair::Queue::Receive)?,
        mss: repair::get::<u32>(fd, libc::TCP_MAXSEG).map_err(failed("reading TCP_MAXSEG"))?,
        window: repair::get(fd, libc::TCP_REPAIR_WINDOW).map_err(failed("reading TCP_REPAIR_WINDOW"))?,
        at: Moment::now().0,
        timestamp: repair::get(fd, libc::TCP_TIMESTAMP).map_err(failed("reading TCP_TIMESTAMP"))?,
        local: local.ip().octets(),
        peer: peer.ip().octets(),
        local_port: local.port(),
        peer_port: peer.port(),
        options: info.options,
        snd_wscale: info.snd_wscale,
        rcv_wscale: info.rcv_wscale,
        pad: [0; 5],
    })
}

fn v4(address: io::Result<SockAddr>) -> io::Result<SocketAddrV4> {
    address?.as_socket_ipv4().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// Takes a connection out of TCP_REPAIR; nothing is sent by that.
pub fn release(socket: &impl AsFd) -> Result<(), HeldError> {
    let fd = socket.as_fd();
    repair::leave(fd, repair::Leave::Silently)?;
    reusable(fd)
}

/// Leaving TCP_REPAIR clears SO_REUSEADDR. Without it the TIME_WAIT of each answered hook would keep
/// a restarted agent from its port for a minute.
fn reusable(fd: BorrowedFd<'_>) -> Result<(), HeldError> {
    socket2::SockRef::from(&fd).set_reuse_address(true).map_err(failed("setting SO_REUSEADDR"))
}

/// Makes a connection again whose process has died. It is non-blocking, and not in TCP_REPAIR.
///
/// Where the peer has given up meanwhile, the probe that ends TCP_REPAIR brings its reset at once.
pub fn restore(held: &HeldConnection) -> Result<TcpStream, HeldError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
        .map_err(failed("making a socket"))?;
    let fd = socket.as_fd();
    // As it was accepted; without it the kernel would not see that another process still holds it, and
    // the same connection would be there twice.
    socket.bind_device(Some(b"lo")).map_err(failed("setting SO_BINDTODEVICE"))?;
    // For 240.x.y.z, which is nobody's address.
    socket.set_ip_transparent_v4(true).map_err(failed("setting IP_TRANSPARENT"))?;
    repair::enter(fd)?;
    repair::set_sequence(fd, repair::Queue::Send, held.snd_seq)?;
    repair::set_sequence(fd, repair::Queue::Receive, held.rcv_seq)?;
    let in_use = |operation| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => {
                HeldError::StillHeld { local: held.local(), peer: held.peer() }
            }
            _ => HeldError::Failed { operation, source },
        }
    };
    socket.bind(&held.local().into()).map_err(in_use("binding the held connection's address"))?;
    socket.connect(&held.peer().into()).map_err(in_use("connecting in TCP_REPAIR"))?;
    repair::set_options(fd, &options(held))?;
    if held.options & OPTION_TIMESTAMPS != 0 {
        repair::set(fd, libc::TCP_TIMESTAMP, &held.timestamp_at(Moment::now()))
            .map_err(failed("setting TCP_TIMESTAMP"))?;
    }
    repair::set(fd, libc::TCP_REPAIR_WINDOW, &held.window).map_err(failed("setting TCP_REPAIR_WINDOW"))?;
    repair::leave(fd, repair::Leave::WithProbe)?;
    reusable(fd)?;
    Ok(socket.into())
}

/// What the handshake had agreed on.
fn options(held: &HeldConnection) -> Vec<repair::Opt> {
    let mut options = vec![repair::Opt { code: repair::MSS, value: held.mss }];
    if held.options & OPTION_WSCALE != 0 {
        let value = u32::from(held.snd_wscale) | u32::from(held.rcv_wscale) << 16;
        options.push(repair::Opt { code: repair::WINDOW_SCALE, value });
    }
    if held.options & OPTION_SACK != 0 {
        options.push(repair::Opt { code: repair::SACK_PERMITTED, value: 0 });
    }
    if held.options & OPTION_TIMESTAMPS != 0 {
        options.push(repair::Opt { code: repair::TIMESTAMPS, value: 0 });
    }
    options
}

#[cfg(test)]
mod tests;
