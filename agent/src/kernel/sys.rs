//! The bpf() calls that aya does not offer. All `unsafe` of this module is here.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use lastcall_ebpf::abi::{Connection, FlowKey};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Memory is taken as entries come.
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_MAP_TYPE_SOCKHASH: u32 = 18;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr`, the part of `BPF_MAP_*_BATCH` (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// The part of `BPF_LINK_UPDATE`.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `struct bpf_insn`; where the nibbles of `registers` are zero, their order does not matter.
#[repr(C)]
pub(crate) struct Instruction {
    /// What to do.
    pub code: u8,
    /// With which registers.
    pub registers: u8,
    /// How far to jump.
    pub offset: i16,
    /// With which number.
    pub immediate: i32,
}

/// The part of `BPF_PROG_LOAD`.
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

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a `repr(C)` part of `union bpf_attr` of the size given; the kernel treats
    // the rest as zero. Pointers in it were made by the callers from live buffers.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Of a command that makes a descriptor.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Every entry of the connection table, a few hundred a call: 0.3 to 0.8 µs an entry, where one call
/// an entry takes 2 to 3.
///
/// Entries that come and go meanwhile may be missed or seen twice, as with any reading of a live
/// hash; the caller reads again at the next event.
pub(crate) fn read_all(map: BorrowedFd<'_>, mut each: impl FnMut(&FlowKey, &Connection)) -> io::Result<()> {
    const STEP: usize = 512;
    let mut room = STEP;
    let mut keys = vec![FlowKey::default(); room];
    let mut values = vec![Connection::default(); room];
    // A hash's position is its bucket, four bytes.
    let mut position = 0u32;
    let mut first = true;
    loop {
        let mut next = 0u32;
        let mut attr = Batch {
            in_batch: if first { 0 } else { (&raw const position) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let end = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket holds more than there is room for.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 4;
                keys.resize(room, FlowKey::default());
                values.resize(room, Connection::default());
                continue;
            }
            Err(e) => return Err(e),
        };
        for (k, v) in keys.iter().zip(&values).take(attr.count as usize) {
            each(k, v);
        }
        if end {
            return Ok(());
        }
        (position, first) = (next, false);
    }
}

/// Puts another program behind a link, in one step: no call passes in between.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        BPF_LINK_UPDATE,
        &mut LinkUpdate {
            link_fd: link.as_raw_fd() as u32,
            new_prog_fd: program.as_raw_fd() as u32,
            ..LinkUpdate::default()
        },
    )
    .map(|_| ())
}

/// Detaches a link's program: no call finds it from here on (Linux 5.9). Without its last descriptor and pin a
/// link goes too, but a moment later, by a worker of the kernel.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut (link.as_raw_fd() as u32)).map(|_| ())
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_GET, &mut Object { pathname: path.as_ptr() as u64, ..Object::default() }).map(owned)
}

/// Pins an object.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = object.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut Object { pathname: path.as_ptr() as u64, bpf_fd, ..Object::default() }).map(|_| ())
}

/// Attaches a program to a cgroup's descriptor, or to the link of an index (TCX). It is attached until the
/// descriptor is closed, or for as long as it is pinned.
pub(crate) fn create_link(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let prog_fd = program.as_raw_fd() as u32;
    bpf(BPF_LINK_CREATE, &mut LinkCreate { prog_fd, target, attach_type, flags: 0 }).map(owned)
}

/// A hash that no program uses: memory that outlives the process.
pub(super) fn create_hash(key_size: usize, value_size: usize, max_entries: u32) -> io::Result<OwnedFd> {
    create_map(BPF_MAP_TYPE_HASH, (key_size, value_size), max_entries, BPF_F_NO_PREALLOC)
}

/// A map for one socket, and the socket in it. It is in there until the descriptor is closed.
pub(super) fn socket_in_a_map(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let map = create_map(BPF_MAP_TYPE_SOCKHASH, (size_of::<u32>(), size_of::<u32>()), 1, 0)?;
    let (key, value) = (0u32, socket.as_raw_fd() as u32);
    let (key, value) = ((&raw const key) as u64, (&raw const value) as u64);
    bpf(
        BPF_MAP_UPDATE_ELEM,
        &mut Element { map_fd: map.as_raw_fd() as u32, key, value, ..Element::default() },
    )?;
    Ok(map)
}

/// How many bytes the kernel says are to be read from a socket.
pub(super) fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: an open descriptor, and a place for one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// A map without a name, gone when the descriptor is; keys and values of these sizes.
pub(crate) fn create_map(
    map_type: u32,
    (key_size, value_size): (usize, usize),
    max_entries: u32,
    map_flags: u32,
) -> io::Result<OwnedFd> {
    let (key_size, value_size) = (key_size as u32, value_size as u32);
    let mut attr = MapCreate { map_type, key_size, value_size, max_entries, map_flags };
    bpf(BPF_MAP_CREATE, &mut attr).map(owned)
}

/// Loads a program of these instructions.
pub(crate) fn load_program(prog_type: u32, attach_type: u32, code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..ProgLoad::default()
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(owned)
}

/// Runs a program on these bytes, `repeat` times, and gives what it returned last.
pub(super) fn run_program(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// A socket option of level `SOL_SOCKET` that is a `u64`: `SO_COOKIE`, `SO_NETNS_COOKIE`.
pub(crate) fn u64_option(socket: impl AsFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, and the length itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
