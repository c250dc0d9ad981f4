//! Attaching programs and reading sockets, tried in a fresh network namespace.

use std::{fs::File, io, net::TcpListener, path::Path};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::os::fd::AsRawFd;

use super::{
    Check, Group, Verdict, diag,
    findings::reason,
    mounts::namespaces,
    scratch,
    sys::{self, Attach, Target},
};
use crate::kernel::sys::u64_option;

pub(super) fn attaching(cgroup_root: Option<&Path>) -> Vec<Check> {
    let check = |name, why| Check::new(Group::Attaching, name, why);
    let tcx = flat(scratch::fresh(|| tcx(Attach::TcxIngress).and_then(|()| tcx(Attach::TcxEgress))));
    let clsact = flat(scratch::fresh(clsact));
    // Either will do: clsact costs a qdisc on the pod's link, and is no less exact.
    let neither = if tcx.is_err() && clsact.is_err() { "; sockets are polled then" } else { "" };
    let mut checks = vec![
        check("TCX link on a pod's interface", "attach to a pod beside other people's programs").tried(
            tcx.map(|()| "ingress and egress"),
            Verdict::Degraded,
            &format!("none needed where clsact works; kernels from 6.6 have it{neither}"),
        ),
        check("clsact qdisc and filter", "attach to a pod where TCX is not to be had, or many drain at once")
            .tried(
                clsact.map(|()| "ingress and egress"),
                Verdict::Degraded,
                &format!("a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF{neither}"),
            ),
    ];
    let hooks = [
        ("connect4 on the root cgroup", Attach::Connect4, Verdict::Missing),
        ("connect6 on the root cgroup", Attach::Connect6, Verdict::Degraded),
    ];
    for (name, attach, without) in hooks {
        let attached = match cgroup_root {
            Some(root) => on_cgroup(root, attach).map(|()| root.display().to_string()),
            None => Err(io::Error::other("no cgroup2 file system is mounted")),
        };
        let check = check(name, "lead the kubelet's call to the agent");
        checks.push(match attached {
            Ok(root) => check.ok(root),
            // EPERM is also what a program that was attached to keep others out gives.
            Err(error) => Check {
                verdict: without,
                found: reason(&error),
                remedy: "see the rights and mounts above; if they are ok, a program that is attached there \
                         without BPF_F_ALLOW_MULTI keeps others out: `bpftool cgroup show` names it"
                    .to_owned(),
                ..check
            },
        });
    }
    checks
}

fn flat<T>(tried: io::Result<io::Result<T>>) -> io::Result<T> {
    tried.and_then(|inner| inner)
}

fn tcx(attach: Attach) -> io::Result<()> {
    let program = sys::program(attach)?;
    sys::link(&program, attach, &Target::Link(scratch::LOOPBACK)).map(drop)
}

/// On the root, as the agent would, for a few microseconds: the program says "go on" to everybody.
fn on_cgroup(root: &Path, attach: Attach) -> io::Result<()> {
    let program = sys::program(attach)?;
    sys::link(&program, attach, &Target::Cgroup(&File::open(root)?)).map(drop)
}

fn clsact() -> io::Result<()> {
    aya::programs::tc::qdisc_add_clsact("lo").map_err(|error| match error {
        aya::programs::tc::TcError::NetlinkError(error) => error
            .raw_os_error()
            .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error),
        other => io::Error::other(other.to_string()),
    })?;
    filter(TcHandle::MIN_INGRESS)?;
    filter(TcHandle::MIN_EGRESS)
}

/// RTM_NEWTFILTER of kind bpf on one side of loopback's clsact.
fn filter(side: u16) -> io::Result<()> {
    const ETH_P_ALL: u16 = 3;
    let program = sys::program(Attach::Clsact)?;
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: scratch::LOOPBACK as i32,
        parent: TcHandle { major: u16::MAX, minor: side },
        // Priority 1 above, protocol in network order below.
        info: (1 << 16) | u32::from(ETH_P_ALL.to_be()),
        ..TcHeader::default()
    };
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName("lastcall-doctor".to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::NewTrafficFilter(message).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

pub(super) fn sockets(netns_dir: &Path) -> Vec<Check> {
    let check = |name, why| Check::new(Group::Sockets, name, why);
    let option = |level, option| {
        TcpListener::bind("127.0.0.1:0").and_then(|socket| sys::set_option(&socket, level, option, 1))
    };
    // Not for listeners, but before a connection exists.
    let repair = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .and_then(|socket| sys::set_option(&socket, libc::SOL_TCP, libc::TCP_REPAIR, 1));
    vec![
        check("entering a network namespace", "read a pod's sockets and attach to its links").tried(
            enter(netns_dir),
            Verdict::Missing,
            "a kernel with CONFIG_NET_NS",
        ),
        sock_diag(),
        check("SO_MARK", "be told from anybody else who listens on the hook's port").tried(
            option(libc::SOL_SOCKET, libc::SO_MARK).map(|()| "permitted"),
            Verdict::Missing,
            "a kernel with CONFIG_NET",
        ),
        check("IP_TRANSPARENT", "take over hooks that came while no agent was there").tried(
            option(libc::SOL_IP, libc::IP_TRANSPARENT).map(|()| "permitted"),
            Verdict::Degraded,
            "a kernel with CONFIG_INET",
        ),
        check("TCP_REPAIR", "keep holding hooks across a restart of the agent").tried(
            repair.map(|()| "permitted"),
            Verdict::Degraded,
            "a kernel with CONFIG_INET",
        ),
        check("SO_NETNS_COOKIE", "tell the node's own calls from those of pods").tried(
            TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| u64_option(&socket, SO_NETNS_COOKIE))
                .map(|cookie| format!("this namespace is {cookie}")),
            Verdict::Degraded,
            "none needed: the agent learns it by a call of its own; kernels from 5.14 tell",
        ),
    ]
}

const SO_COOKIE: i32 = 57;
const SO_NETNS_COOKIE: i32 = 71;

/// A pod's where there is one, else a fresh one and back.
fn enter(netns_dir: &Path) -> io::Result<String> {
    if let Some(path) = namespaces(netns_dir).unwrap_or_default().first() {
        scratch::within(&File::open(path)?, || ())?;
        return Ok(path.display().to_string());
    }
    let own = File::open("/proc/thread-self/ns/net")?;
    scratch::within(&own, || ())?;
    Ok("its own; there is no pod's yet".to_owned())
}

/// A listener that was just made must be found, under its cookie.
fn sock_diag() -> Check {
    let check =
        Check::new(Group::Sockets, "sock_diag", "see a pod's sockets, the second witness of every drain");
    let remedy = "a kernel with CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (modprobe tcp_diag)";
    let tried = || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let cookie = u64_option(&listener, SO_COOKIE)?;
        let address = listener.local_addr()?;
        io::Result::Ok((cookie, diag::listeners()?.into_iter().find(|l| l.address == address)))
    };
    match tried() {
        Ok((cookie, Some(found))) if found.cookie != cookie => {
            check.missing(format!("cookie {} instead of {cookie}", found.cookie), remedy)
        }
        Ok((_, Some(found))) if found.cgroup.is_none() => check.degraded(
            "works, without the sockets' cgroups",
            "give --kubelet-cgroup or --kubelet-process: the kubelet cannot be found by its port; kernels \
             from 5.9 with CONFIG_SOCK_CGROUP_DATA tell",
        ),
        Ok((_, Some(_))) => check.ok("cookies and cgroups"),
        Ok((_, None)) => check.missing("a socket that exists is not in the dump", remedy),
        Err(error) => check.tried(Err::<String, _>(error), Verdict::Missing, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_namespace_is_entered_where_there_is_one() {
        if !crate::report::doctor::tests::root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(enter(dir.path()).unwrap().contains("no pod's yet"));
        let pod = dir.path().join("cni-1234");
        std::os::unix::fs::symlink("/proc/self/ns/net", &pod).unwrap();
        assert_eq!(enter(dir.path()).unwrap(), pod.display().to_string());
    }

    /// One qdisc, two filters; a second clsact would be refused, so each probe has its own namespace.
    #[test]
    fn probes_do_not_meet() {
        if !crate::report::doctor::tests::root() {
            return;
        }
        for _ in 0..3 {
            flat(scratch::fresh(clsact)).unwrap();
        }
    }

    #[test]
    fn a_program_cannot_be_attached_to_what_is_no_cgroup() {
        assert!(on_cgroup(Path::new("/proc"), Attach::Connect4).is_err());
        let checks = attaching(Some(Path::new("/proc")));
        let verdict = |name| checks.iter().find(|c| c.name.starts_with(name)).map(|c| c.verdict);
        assert_eq!(verdict("connect4"), Some(Verdict::Missing));
        assert_eq!(verdict("connect6"), Some(Verdict::Degraded), "IPv4 pods are still served");
    }
}
