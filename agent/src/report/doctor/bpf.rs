//! Which programs, maps and helpers the running kernel accepts, by asking it.

use std::{error::Error, io, os::fd::AsFd};

use aya::{
    maps::MapType as SocketMap,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};
use lastcall_ebpf::abi::{Connection, FlowKey};

use super::{
    Check, Group, Verdict,
    sys::{self, Attach, MapType},
};
use crate::kernel::sys::read_all;

const OLD_KERNEL: &str = "a newer kernel (5.10 or later has it), with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF; \
     in a container, a seccomp profile that allows bpf(2)";

const OF_SOCKETS: &str = "a newer kernel (5.10 or later), before 5.13 with CONFIG_BPF_STREAM_PARSER";

pub(super) fn checks() -> Vec<Check> {
    let mut checks = maps();
    checks.extend(PROGRAMS.iter().map(program));
    checks.extend(helpers());
    checks
}

fn maps() -> Vec<Check> {
    let check = |name, why| Check::new(Group::Programs, name, why);
    // The ring's size is in pages; 64 kB are a whole number of every page size.
    let ring = sys::map(MapType::Ringbuf, 0, 0, 64 * 1024);
    let lru = sys::map(MapType::LruHash, 44, 104, 1024);
    vec![
        check("LRU hash map", "remember handshakes and dials without growing").tried(
            lru.map(|_| "made"),
            Verdict::Missing,
            OLD_KERNEL,
        ),
        // All maps are made together, or none is.
        check("ring buffer", "hear of a pod's last connection at once").tried(
            ring.map(|_| "made"),
            Verdict::Missing,
            OLD_KERNEL,
        ),
        check("maps of sockets", "tell clients to leave; the programs come with theirs or not at all").tried(
            of_sockets(),
            Verdict::Missing,
            OF_SOCKETS,
        ),
        check("batch lookup", "read the connection table in a tenth of the time").tried(
            batch(),
            Verdict::Degraded,
            "none needed; kernels from 5.6 have it",
        ),
    ]
}

/// aya makes one of each, and the types that the second has to have.
fn of_sockets() -> io::Result<&'static str> {
    for (map_type, name) in [(SocketMap::SockHash, "sockhash"), (SocketMap::SkStorage, "sk_storage")] {
        match is_map_supported(map_type) {
            Ok(true) => {}
            Ok(false) => return Err(io::Error::other(format!("no {name}"))),
            Err(e) => return Err(e.io_error),
        }
    }
    Ok("made")
}

fn batch() -> io::Result<&'static str> {
    let map = sys::map(MapType::LruHash, size_of::<FlowKey>(), size_of::<Connection>(), 16)?;
    read_all(map.as_fd(), |_, _| {}).map(|()| "works")
}

struct Program {
    name: &'static str,
    attach: Attach,
    why: &'static str,
    without: Verdict,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "TC program (sched_cls)",
        attach: Attach::Clsact,
        why: "see a Terminating pod's packets, instead of polling its sockets",
        without: Verdict::Degraded,
    },
    Program {
        name: "connect4 program (cgroup_sock_addr)",
        attach: Attach::Connect4,
        why: "lead the kubelet's call for podIP:9902 to the agent",
        without: Verdict::Missing,
    },
    Program {
        name: "connect6 program (cgroup_sock_addr)",
        attach: Attach::Connect6,
        why: "lead the kubelet's call for an IPv6 pod to the agent",
        without: Verdict::Degraded,
    },
    Program {
        name: "sock_ops program",
        attach: Attach::SockOps,
        why: "tell the kubelet's probes from clients",
        without: Verdict::Degraded,
    },
];

fn program(p: &Program) -> Check {
    Check::new(Group::Programs, p.name, p.why).tried(
        sys::program(p.attach).map(|_| "loads"),
        p.without,
        OLD_KERNEL,
    )
}

/// Helpers, for each type of program that calls them.
fn helpers() -> Vec<Check> {
    let observer = [
        ("get_socket_cookie", BpfHelper::BPF_FUNC_get_socket_cookie),
        ("skc_lookup_tcp", BpfHelper::BPF_FUNC_skc_lookup_tcp),
        ("sk_release", BpfHelper::BPF_FUNC_sk_release),
        ("skb_load_bytes", BpfHelper::BPF_FUNC_skb_load_bytes),
        ("ktime_get_ns", BpfHelper::BPF_FUNC_ktime_get_ns),
        ("ringbuf_output", BpfHelper::BPF_FUNC_ringbuf_output),
    ];
    let hook = [
        ("setsockopt", BpfHelper::BPF_FUNC_setsockopt),
        ("sk_lookup_tcp", BpfHelper::BPF_FUNC_sk_lookup_tcp),
        ("sk_release", BpfHelper::BPF_FUNC_sk_release),
        ("get_netns_cookie", BpfHelper::BPF_FUNC_get_netns_cookie),
        ("get_current_cgroup_id", BpfHelper::BPF_FUNC_get_current_cgroup_id),
        ("get_current_comm", BpfHelper::BPF_FUNC_get_current_comm),
        ("get_socket_cookie", BpfHelper::BPF_FUNC_get_socket_cookie),
    ];
    vec![
        helpers_of(
            "helpers of the TC program",
            "name each connection by its socket, and hear of its end",
            ProgramType::SchedClassifier,
            &observer,
            Verdict::Degraded,
        ),
        helpers_of(
            "helpers of the connect programs",
            "know the caller and the pod, and sleep when no agent is there",
            ProgramType::CgroupSockAddr,
            &hook,
            Verdict::Missing,
        ),
    ]
}

fn helpers_of(
    name: &str,
    why: &str,
    program: ProgramType,
    helpers: &[(&str, BpfHelper)],
    without: Verdict,
) -> Check {
    let check = Check::new(Group::Programs, name, why);
    let mut lacking = Vec::new();
    for (name, helper) in helpers {
        match is_helper_supported(program, *helper) {
            Ok(true) => {}
            Ok(false) => lacking.push(*name),
            // aya wraps the kernel's own error, which says more.
            Err(error) => {
                let errno = error.source().and_then(|e| e.downcast_ref::<io::Error>()?.raw_os_error());
                let error =
                    errno.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
                return check.tried(Err::<String, _>(error), without, OLD_KERNEL);
            }
        }
    }
    if lacking.is_empty() {
        return check.ok(format!("all {}", helpers.len()));
    }
    let found = format!("without {}", lacking.join(", "));
    Check { verdict: without, found, remedy: OLD_KERNEL.to_owned(), ..check }
}
