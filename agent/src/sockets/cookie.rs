//! The cookie of the network namespace that a thread is in.

use std::{io, os::fd::AsRawFd};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// `include/uapi/asm-generic/socket.h`, since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Asked of a socket opened for the purpose; None on older kernels.
pub(super) fn of_this_thread() -> Option<u64> {
    u64_option(&Socket::new(NETLINK_ROUTE).ok()?, SO_NETNS_COOKIE).ok()
}

/// A socket option of level `SOL_SOCKET` that is a `u64`.
pub(super) fn u64_option(socket: &impl AsRawFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, and the length itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
