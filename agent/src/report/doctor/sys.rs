//! The system calls that no crate wraps: `bpf(2)` for objects that are tried and thrown away, two
//! socket options, one limit.
//!
//! In: plain values. Out: a descriptor or `errno`. All of the probes' `unsafe` is here.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    ProgLoad = 5,
    ObjPin = 6,
    MapLookupBatch = 24,
    LinkCreate = 28,
}

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

/// `struct bpf_insn`; the nibbles of `registers` are zero here, so their order does not matter.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `T` is the part of `union bpf_attr` that belongs to `command`, and every pointer in it is valid for
/// what the kernel reads and writes there.
unsafe fn bpf<T>(command: Command, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a live, exclusively borrowed value of the given size; the caller
    // vouches for what it points to.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attribute), size_of::<T>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// An empty map that is gone when the descriptor is.
pub(super) fn map(map_type: MapType, key: u32, value: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attribute = MapCreate {
        map_type: map_type as u32,
        key_size: key,
        value_size: value,
        max_entries,
        ..MapCreate::default()
    };
    // SAFETY: BPF_MAP_CREATE reads this struct, which has no pointers.
    unsafe { bpf(Command::MapCreate, &mut attribute) }.map(owned)
}

/// A program that lets everything go on as if it were not there.
pub(super) fn program(attach: Attach) -> io::Result<OwnedFd> {
    // r0 = harmless; exit
    let code = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: attach.harmless() },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let license = c"GPL";
    let mut attribute = ProgLoad {
        prog_type: attach.program_type(),
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        // TC programs are not told where they will be attached.
        expected_attach_type: if attach.program_type() == 3 { 0 } else { attach.attach_type() },
        ..ProgLoad::default()
    };
    // SAFETY: BPF_PROG_LOAD reads this struct, `insn_cnt` instructions and the licence's bytes, all
    // of which live until the call returns; without a log it writes nothing.
    unsafe { bpf(Command::ProgLoad, &mut attribute) }.map(owned)
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
        Target::Cgroup(directory) => raw(directory),
    };
    let mut attribute =
        LinkCreate { prog_fd: raw(program), target, attach_type: attach.attach_type(), flags: 0 };
    // SAFETY: BPF_LINK_CREATE reads this struct, which has no pointers.
    unsafe { bpf(Command::LinkCreate, &mut attribute) }.map(owned)
}

/// Gives a map a name on a bpf file system.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = ObjPin { pathname: path.as_ptr() as u64, bpf_fd: raw(object), ..ObjPin::default() };
    // SAFETY: BPF_OBJ_PIN reads this struct and the zero-terminated path, which lives until then.
    unsafe { bpf(Command::ObjPin, &mut attribute) }.map(drop)
}

/// Reads an empty map of 4-byte keys and values as a batch: ENOENT where the kernel can do it.
pub(super) fn lookup_batch(map: &OwnedFd) -> io::Result<()> {
    const ROOM: usize = 16;
    let (mut keys, mut values, mut position) = ([0_u32; ROOM], [0_u32; ROOM], 0_u32);
    let mut attribute = LookupBatch {
        out_batch: (&raw mut position) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: ROOM as u32,
        map_fd: raw(map),
        ..LookupBatch::default()
    };
    // SAFETY: BPF_MAP_LOOKUP_BATCH writes at most `count` keys and values of the map's sizes (4 bytes
    // each, as the caller says) and a 4-byte position; all three live until the call returns.
    unsafe { bpf(Command::MapLookupBatch, &mut attribute) }.map(drop)
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
