//! What the probes try and throw away: maps, programs that do nothing, links; socket options, and one limit.
//!
//! In: plain values. Out: a descriptor or `errno`. All of the probes' `unsafe` is here.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use crate::kernel::sys::{self, Instruction};

/// `enum bpf_map_type`, those that the agent uses.
#[derive(Clone, Copy)]
pub(super) enum MapType {
    Array = 2,
    LruHash = 9,
    Ringbuf = 27,
}

/// `enum bpf_prog_type` and `enum bpf_attach_type`, those that the agent uses.
#[derive(Clone, Copy)]
pub(super) enum Attach {
    TcxIngress,
    TcxEgress,
    Clsact,
    Connect4,
    Connect6,
    SockOps,
}

impl Attach {
    fn program_type(self) -> u32 {
        match self {
            Self::TcxIngress | Self::TcxEgress | Self::Clsact => 3,
            Self::SockOps => 13,
            Self::Connect4 | Self::Connect6 => 18,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::TcxIngress => 46,
            Self::TcxEgress => 47,
            Self::Clsact => 0,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::SockOps => 3,
        }
    }

    /// What the program returns so that nothing changes for anybody: TCX_NEXT, TC_ACT_UNSPEC, or
    /// "go on" for a connect.
    fn harmless(self) -> i32 {
        match self {
            Self::TcxIngress | Self::TcxEgress | Self::Clsact => -1,
            Self::Connect4 | Self::Connect6 | Self::SockOps => 1,
        }
    }
}

/// An empty map that is gone when the descriptor is.
pub(super) fn map(map_type: MapType, key: usize, value: usize, max_entries: u32) -> io::Result<OwnedFd> {
    sys::create_map(map_type as u32, (key, value), max_entries, 0)
}

/// A program that lets everything go on as if it were not there.
pub(super) fn program(attach: Attach) -> io::Result<OwnedFd> {
    // r0 = harmless; exit
    let code = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: attach.harmless() },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    // TC programs are not told where they will be attached.
    let attach_type = if attach.program_type() == 3 { 0 } else { attach.attach_type() };
    sys::load_program(attach.program_type(), attach_type, &code)
}

/// What a program is attached to.
pub(super) enum Target<'a> {
    /// The link of this index in the thread's network namespace.
    Link(u32),
    /// A cgroup's directory.
    Cgroup(&'a std::fs::File),
}

/// Attaches until the descriptor is closed.
pub(super) fn link(program: &OwnedFd, attach: Attach, target: &Target<'_>) -> io::Result<OwnedFd> {
    let target = match target {
        Target::Link(index) => *index,
        Target::Cgroup(directory) => directory.as_raw_fd() as u32,
    };
    sys::create_link(program.as_fd(), target, attach.attach_type())
}

/// `setsockopt` of an integer.
pub(super) fn set_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<i32>()` bytes of `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Soft and hard `RLIMIT_MEMLOCK`, bytes.
pub(super) fn memlock() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok((limit.rlim_cur, limit.rlim_max)) }
}

/// Sets the soft limit; the hard one stays, so that it can be set back.
pub(super) fn set_memlock(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the call only reads `limit`.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
