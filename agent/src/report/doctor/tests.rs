//! The probes against the running kernel. As root; what this kernel is known to have must be found.

use std::{collections::BTreeMap, fs};

use super::*;

fn plan() -> Plan {
    Plan {
        bpf_dir: "/sys/fs/bpf/lastcall".into(),
        netns_dir: "/run/netns".into(),
        cgroup_root: None,
        kubelet_port: 10_250,
        kubelet_cgroup: None,
        kubelet_process: None,
        hook_port: 9902,
    }
}

/// Probes that make namespaces and mounts need root; without it their tests say so and pass.
pub(super) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

#[test]
fn this_kernel_s_features_are_found() {
    if !root() {
        return;
    }
    let findings = examine(&plan());
    let found: BTreeMap<_, _> = findings.checks.iter().map(|c| (c.name.as_str(), c)).collect();
    for name in [
        "release",
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "root cgroup (v2)",
        "LRU hash map",
        "ring buffer",
        "maps of sockets",
        "batch lookup",
        "TC program (sched_cls)",
        "connect4 program (cgroup_sock_addr)",
        "connect6 program (cgroup_sock_addr)",
        "sock_ops program",
        "helpers of the TC program",
        "helpers of the connect programs",
        "clsact qdisc and filter",
        "connect4 on the root cgroup",
        "connect6 on the root cgroup",
        "entering a network namespace",
        "sock_diag",
        "SO_MARK",
        "IP_TRANSPARENT",
        "TCP_REPAIR",
    ] {
        let check = found.get(name).unwrap_or_else(|| panic!("{name} is checked:\n{}", findings.text()));
        assert_eq!(check.verdict, Verdict::Ok, "{name}: {}", check.found);
    }
    // Whichever of the two this kernel has.
    for name in ["TCX link on a pod's interface", "SO_NETNS_COOKIE", "type information (BTF)"] {
        assert!(found.contains_key(name), "{name}");
    }
}

#[test]
fn every_check_says_what_it_is_for_and_every_bad_one_what_to_do() {
    for check in examine(&plan()).checks {
        assert!(!check.found.is_empty() && !check.why.is_empty(), "{check:?}");
        assert_eq!(check.verdict == Verdict::Ok, check.remedy.is_empty(), "{check:?}");
        assert!(!check.why.ends_with('.') && check.found.lines().count() == 1, "{check:?}");
    }
}

#[test]
fn checks_stand_with_their_group() {
    let checks = examine(&plan()).checks;
    let mut groups: Vec<_> = checks.iter().map(|c| format!("{:?}", c.group)).collect();
    groups.dedup();
    let mut once = groups.clone();
    once.sort();
    once.dedup();
    assert_eq!(groups.len(), once.len(), "{groups:?}");
}

/// Links, namespaces and cgroup programs before and after are the same.
#[test]
fn nothing_is_left_behind() {
    let descriptors = || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let links = || fs::read_dir("/sys/class/net").map_or(0, Iterator::count);
    let before = (descriptors(), links());
    for _ in 0..20 {
        examine(&plan());
    }
    let after = (descriptors(), links());
    assert_eq!(before.1, after.1);
    // Other tests open and close descriptors meanwhile; twenty rounds would leak a hundred.
    assert!(after.0 < before.0 + 20, "{before:?} {after:?}");
}
