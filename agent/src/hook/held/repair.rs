//! The socket options of TCP_REPAIR, each once. All the `unsafe` of [`held`](super) is here.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{HeldError, Window, failed};

/// Plain data that the kernel reads and writes through get- and setsockopt.
///
/// # Safety
/// `repr(C)` or an integer, without padding: every bit pattern is a value.
pub(super) unsafe trait Plain: Default {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: `repr(C)`, five u32.
unsafe impl Plain for Window {}
// SAFETY: `repr(C)`, bytes.
unsafe impl Plain for RawInfo {}

/// TCPOPT_… of `linux/tcp.h`.
pub(super) const MSS: u32 = 2;
pub(super) const WINDOW_SCALE: u32 = 3;
pub(super) const SACK_PERMITTED: u32 = 4;
pub(super) const TIMESTAMPS: u32 = 8;

/// `struct tcp_repair_opt`.
#[repr(C)]
pub(super) struct Opt {
    pub(super) code: u32,
    pub(super) value: u32,
}

/// Which sequence number.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    Send,
    Receive,
}

const NO_QUEUE: i32 = 0;

impl Queue {
    fn number(self) -> i32 {
        match self {
            Self::Receive => 1,
            Self::Send => 2,
        }
    }
}

/// How to leave TCP_REPAIR.
#[derive(Clone, Copy)]
pub(super) enum Leave {
    /// `TCP_REPAIR_OFF_NO_WP`.
    Silently,
    /// `TCP_REPAIR_OFF`: a window probe asks whether the peer is still there.
    WithProbe,
}

/// The head of `struct tcp_info`, whose two nibbles have no portable name.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    wscale: u8,
    delivery: u8,
}

/// What TCP_INFO says of the handshake.
pub(super) struct Info {
    pub(super) state: u8,
    pub(super) options: u8,
    pub(super) snd_wscale: u8,
    pub(super) rcv_wscale: u8,
}

pub(super) fn get<T: Plain>(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` bytes of plain data, which the kernel may fill with anything.
    let done = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw mut value).cast(), &raw mut len)
    };
    match done {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn set<T: Plain>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    set_slice(fd, option, std::slice::from_ref(value))
}

fn set_slice<T>(fd: BorrowedFd<'_>, option: libc::c_int, values: &[T]) -> io::Result<()> {
    let len = size_of_val(values) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from a slice of that size.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, option, values.as_ptr().cast(), len) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn enter(fd: BorrowedFd<'_>) -> Result<(), HeldError> {
    set(fd, libc::TCP_REPAIR, &1i32).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => HeldError::NotPermitted(error),
        _ => failed("setting TCP_REPAIR")(error),
    })
}

pub(super) fn leave(fd: BorrowedFd<'_>, how: Leave) -> Result<(), HeldError> {
    let off = match how {
        Leave::Silently => -1i32,
        Leave::WithProbe => 0,
    };
    set(fd, libc::TCP_REPAIR, &off).map_err(failed("leaving TCP_REPAIR"))
}

fn with_queue<T>(fd: BorrowedFd<'_>, queue: Queue, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    set(fd, libc::TCP_REPAIR_QUEUE, &queue.number())?;
    let value = f();
    set(fd, libc::TCP_REPAIR_QUEUE, &NO_QUEUE)?;
    value
}

pub(super) fn sequence(fd: BorrowedFd<'_>, queue: Queue) -> Result<u32, HeldError> {
    with_queue(fd, queue, || get(fd, libc::TCP_QUEUE_SEQ)).map_err(failed("reading TCP_QUEUE_SEQ"))
}

pub(super) fn set_sequence(fd: BorrowedFd<'_>, queue: Queue, sequence: u32) -> Result<(), HeldError> {
    with_queue(fd, queue, || set(fd, libc::TCP_QUEUE_SEQ, &sequence)).map_err(failed("setting TCP_QUEUE_SEQ"))
}

pub(super) fn set_options(fd: BorrowedFd<'_>, options: &[Opt]) -> Result<(), HeldError> {
    set_slice(fd, libc::TCP_REPAIR_OPTIONS, options).map_err(failed("setting TCP_REPAIR_OPTIONS"))
}

pub(super) fn info(fd: BorrowedFd<'_>) -> Result<Info, HeldError> {
    let raw: RawInfo = get(fd, libc::TCP_INFO).map_err(failed("reading TCP_INFO"))?;
    // Bit fields of a u8: the low nibble comes first on little-endian machines, last on others.
    let (low, high) = (raw.wscale & 15, raw.wscale >> 4);
    let (snd_wscale, rcv_wscale) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
    Ok(Info { state: raw.state, options: raw.options, snd_wscale, rcv_wscale })
}
