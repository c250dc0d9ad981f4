//! Traffic control: somebody else's programs on a link, and what is attached to one.
//!
//! The programs are a few instructions by hand and belong to nobody's loader: what other agents of a node
//! do to packets, before and behind the one under test.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::node::Family;

/// Let the next program decide: `TCX_NEXT`, `TC_ACT_UNSPEC`.
pub const NEXT: i32 = -1;
/// Let it pass, and ask nobody else: `TC_ACT_OK`.
pub const OK: i32 = 0;
/// Drop it: `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// `BPF_PROG_LOAD`, `BPF_PROG_QUERY`, `BPF_LINK_CREATE` (`include/uapi/linux/bpf.h`).
const PROG_LOAD: u32 = 5;
const PROG_QUERY: u32 = 16;
const LINK_CREATE: u32 = 28;
/// `BPF_PROG_TYPE_SCHED_CLS`
const SCHED_CLS: u32 = 3;
/// `BPF_F_BEFORE`, `BPF_F_AFTER`: without another program named, first and last.
const BEFORE: u32 = 8;
const AFTER: u32 = 16;

/// Which packets of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `BPF_TCX_INGRESS`
    In = 46,
    /// `BPF_TCX_EGRESS`
    Out = 47,
}

/// Where among the programs of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all that are there.
    First,
    /// Behind all that are there.
    Last,
}

/// What a program of somebody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The same verdict for every packet.
    Always(i32),
    /// TCP packets of this family to this port are dropped, others go on to the next program.
    Drop(Family, u16),
}

impl Policy {
    /// Attaches it as a TCX program, until the descriptor is closed.
    pub fn tcx(self, netns: &Netns, link: &str, direction: Direction, place: Place) -> Result<OwnedFd> {
        let program = self.load()?;
        netns.run(|| {
            let flags = if place == Place::First { BEFORE } else { AFTER };
            let words = [program.as_raw_fd() as u32, index(link)?, direction as u32, flags, 0, 0, 0, 0];
            bpf_fd(LINK_CREATE, &words).context("attach by TCX")
        })
    }

    /// Attaches it as a filter of a clsact qdisc, which is made where there is none.
    pub fn clsact(self, netns: &Netns, link: &str, preference: u16) -> Result<()> {
        // Another agent's, or the one under test's: either way it is one.
        let _ = netns.command("tc", &["qdisc", "add", "dev", link, "clsact"], "");
        let preference = preference.to_string();
        let start = ["filter", "add", "dev", link, "ingress", "protocol", "all", "pref", &preference];
        let end = ["bpf", "da", "bytecode", &self.classic()];
        netns.command("tc", &[&start[..], &end].concat(), "").map(drop)
    }

    fn load(self) -> Result<OwnedFd> {
        // code, registers, offset, immediate
        let exit = |verdict: i32| [instruction(0xb7, 0, 0, verdict), instruction(0x95, 0, 0, 0)];
        let mut program = Vec::new();
        if let Self::Drop(family, port) = self {
            program.extend([
                instruction(0xbf, 0x16, 0, 0),
                instruction(0x28, 0, 0, port_at(family).into()),
                instruction(0x55, 0, 2, port.into()),
            ]);
            program.extend(exit(SHOT));
        }
        program.extend(exit(if let Self::Always(verdict) = self { verdict } else { NEXT }));
        let (code, licence) = (program.as_ptr() as u64, c"GPL".as_ptr() as u64);
        let words = [
            SCHED_CLS,
            program.len() as u32,
            code as u32,
            (code >> 32) as u32,
            licence as u32,
            (licence >> 32) as u32,
        ];
        bpf_fd(PROG_LOAD, &words).context("load a program")
    }

    /// In classic BPF, as `tc` takes it.
    fn classic(self) -> String {
        match self {
            Self::Always(verdict) => format!("1,6 0 0 {},", verdict as u32),
            Self::Drop(family, port) => {
                format!("4,40 0 0 {},21 0 1 {port},6 0 0 {SHOT},6 0 0 {},", port_at(family), NEXT as u32)
            }
        }
    }
}

/// What is attached to the links of a namespace, one line each.
pub fn attached(netns: &Netns) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let listed: serde_json::Value =
        serde_json::from_str(&netns.command("ip", &["-json", "link", "show"], "")?)?;
    for link in listed.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str()) {
        for direction in [Direction::In, Direction::Out] {
            let programs = netns.run(|| tcx_programs(link, direction))?;
            if programs > 0 {
                found.push(format!("{link}: {programs} TCX program(s) {direction:?}"));
            }
        }
        for hook in ["ingress", "egress"] {
            let filters = netns.command("tc", &["filter", "show", "dev", link, hook], "")?;
            found.extend(filters.lines().map(|line| format!("{link}: {hook} {line}")));
        }
        let qdiscs = netns.command("tc", &["qdisc", "show", "dev", link], "")?;
        found.extend(qdiscs.lines().filter(|q| q.contains("clsact")).map(|q| format!("{link}: {q}")));
    }
    Ok(found)
}

/// Whether this kernel has TCX (6.6 and later).
pub fn has_tcx() -> Result<bool> {
    query("lo", Direction::In).map(|programs| programs.is_some())
}

fn tcx_programs(link: &str, direction: Direction) -> Result<u32> {
    // Where there is no such place, nothing is in it.
    query(link, direction).map(Option::unwrap_or_default)
}

/// How many TCX programs there are; nothing on a kernel that has no TCX.
fn query(link: &str, direction: Direction) -> Result<Option<u32>> {
    let mut ids = [0u32; 16];
    let list = ids.as_mut_ptr() as u64;
    let mut words = [
        index(link)?,
        direction as u32,
        0,
        0,
        list as u32,
        (list >> 32) as u32,
        ids.len() as u32,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    match bpf(PROG_QUERY, &mut words) {
        Ok(_) => Ok(Some(words[6])),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("ask for the programs of {link}")),
    }
}

/// The TCP destination port in an Ethernet frame without IP options, bytes from its start.
fn port_at(family: Family) -> u16 {
    match family {
        Family::Ipv4 => 14 + 20 + 2,
        Family::Ipv6 => 14 + 40 + 2,
    }
}

fn index(link: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(link).with_context(|| format!("no link {link}"))
}

fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([code, registers, low, high, a, b, c, d])
}

pub(crate) fn bpf_fd(command: u32, words: &[u32]) -> io::Result<OwnedFd> {
    let mut attributes = [0u32; 32];
    attributes[..words.len()].copy_from_slice(words);
    let fd = bpf(command, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn bpf(command: u32, attributes: &mut [u32]) -> io::Result<i32> {
    // SAFETY: `attributes` is a `union bpf_attr` of the given size, and what it points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
