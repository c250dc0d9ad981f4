//! A map of the kernel's that a socket is left in, which the last call never does.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::tc::{bpf, bpf_fd};

/// `BPF_MAP_CREATE`, `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_TYPE_SOCKMAP` (linux/bpf.h).
const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const SOCKMAP: u32 = 15;

/// A map with one socket in it, until it is dropped.
#[derive(Debug)]
pub struct SocketMap(#[expect(dead_code, reason = "held open")] OwnedFd);

impl SocketMap {
    /// Puts an established connection into a map of its own, without any program.
    pub fn holding(stream: &TcpStream) -> io::Result<Self> {
        // Before 5.11 maps count as locked memory. Who may not raise that is told when the map is made.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        // Its type, the sizes of a key and of a value, the number of entries.
        let map = bpf_fd(MAP_CREATE, &[SOCKMAP, 4, 4, 1])?;
        let (key, value) = (0u32, stream.as_raw_fd());
        let halves = |address: usize| [address as u32, (address as u64 >> 32) as u32];
        let [key_low, key_high] = halves((&raw const key).addr());
        let [value_low, value_high] = halves((&raw const value).addr());
        let mut words = [map.as_raw_fd() as u32, 0, key_low, key_high, value_low, value_high, 0, 0];
        bpf(MAP_UPDATE_ELEM, &mut words)?;
        Ok(Self(map))
    }
}
