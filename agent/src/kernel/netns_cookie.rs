//! The cookie of the node's network namespace on kernels that do not tell it (`SO_NETNS_COOKIE` is Linux 5.14's).
//!
//! A program on the root cgroup can ask for it when somebody connects, since 5.7. So the agent connects once
//! itself, with a socket that it has written down before; the program is detached when the answer is there.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::CgroupSockAddr,
};
use lastcall_ebpf::abi::names;

use super::{Error, hook::CGROUP_INET4_CONNECT, map_error, observer::program, sys, take};

/// The discard port (RFC 863). A datagram socket that connects sends nothing.
const DISCARD: u16 = 9;

/// The program that tells, loaded, not attached.
pub struct NetnsCookie {
    program: OwnedFd,
    asked: HashMap<MapData, u64, u64>,
}

impl NetnsCookie {
    /// Loads the program out of the object.
    pub fn load(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let name = names::TELL_NETNS;
        let p: &mut CgroupSockAddr = program(ebpf, name)?;
        let fd = p.load().and_then(|()| Ok(p.fd()?.as_fd().try_clone_to_owned()?));
        let program = fd.map_err(|e| Error::Program { name, source: Box::new(e) })?;
        Ok(Self { program, asked: take(ebpf, names::NETNS_ASKED)? })
    }

    /// Asks, from the calling thread's namespace. `root` is a cgroup that this process is in or below.
    pub fn ask(mut self, root: &Path) -> Result<u64, Error> {
        let failed =
            |operation| move |source: io::Error| Error::File { operation, path: root.to_owned(), source };
        let cgroup = File::open(root).map_err(failed("open the cgroup"))?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("make a socket below"))?;
        let cookie = sys::u64_option(&socket, libc::SO_COOKIE).map_err(failed("name a socket below"))?;
        self.asked.insert(cookie, 0, 0).map_err(map_error("insert into", names::NETNS_ASKED))?;
        // Detached when it is dropped.
        let _link = sys::create_link(self.program.as_fd(), cgroup.as_raw_fd() as u32, CGROUP_INET4_CONNECT)
            .map_err(failed("attach a program to"))?;
        socket.connect((Ipv4Addr::LOCALHOST, DISCARD)).map_err(failed("connect a socket below"))?;
        match self.asked.get(&cookie, 0).map_err(map_error("read", names::NETNS_ASKED))? {
            0 => Err(failed("ask for the network namespace below")(io::Error::other(
                "this process is not in that cgroup",
            ))),
            netns => Ok(netns),
        }
    }
}
