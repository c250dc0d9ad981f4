//! Who else is on the node: the kubelet, and whoever has the hook's port.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Check, Group, Plan,
    diag::{self, Listener},
    findings::reason,
};
use crate::report::{client, status::NodeStatus, table::seconds};

/// Directories looked at for a cgroup's number: nodes have a few thousand.
const MAX_CGROUPS: usize = 50_000;

pub(super) fn checks(plan: &Plan, root: Option<&Path>) -> Vec<Check> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.hook_port));
    let answer = client::status(address);
    let mut checks = match diag::listeners() {
        Ok(all) => vec![
            kubelet(plan, &all, |id| root.and_then(|r| path_of(r, id))),
            hook_port(plan.hook_port, &all, &answer),
        ],
        Err(error) => {
            let why = "know who else is on the node";
            vec![Check::new(Group::Node, "listeners", why).degraded(reason(&error), "see sock_diag above")]
        }
    };
    checks.push(agent(&answer));
    checks
}

fn kubelet(plan: &Plan, listeners: &[Listener], path_of: impl Fn(u64) -> Option<PathBuf>) -> Check {
    let check =
        Check::new(Group::Node, "kubelet", "believe hooks from the kubelet alone, and know its probes");
    if let Some(path) = &plan.kubelet_cgroup {
        return match fs::metadata(path) {
            Ok(m) if m.is_dir() => check.ok(format!("cgroup {}, as given", path.display())),
            Ok(_) => {
                check.degraded(format!("{} is no directory", path.display()), "correct --kubelet-cgroup")
            }
            Err(error) => {
                check.degraded(format!("{}: {}", path.display(), reason(&error)), "correct --kubelet-cgroup")
            }
        };
    }
    if let Some(name) = &plan.kubelet_process {
        return check.ok(format!("processes named {name}, as given"));
    }
    let port = plan.kubelet_port;
    let Some(found) = listeners.iter().find(|l| l.address.port() == port) else {
        return check.degraded(
            format!("nothing listens on port {port}"),
            "give --kubelet-port if it has another, --kubelet-cgroup or --kubelet-process if it has none; run \
             the agent with hostNetwork. Until then no call is believed",
        );
    };
    match found.cgroup {
        None => check.degraded(
            format!("listens on port {port}, its cgroup is not told"),
            "give --kubelet-cgroup or --kubelet-process",
        ),
        Some(1) => check.degraded(
            format!("listens on port {port}, in the root cgroup"),
            "give --kubelet-process as well: the root cgroup is everybody's where others run in it, too",
        ),
        Some(id) => {
            let place = path_of(id).map_or_else(|| format!("number {id}"), |p| p.display().to_string());
            check.ok(format!("listens on port {port}, cgroup {place}"))
        }
    }
}

fn hook_port(port: u16, listeners: &[Listener], answer: &Result<NodeStatus, client::Error>) -> Check {
    let check = Check::new(Group::Node, "hook's port", "be there for the kubelet's calls");
    let ours = |l: &&Listener| {
        let ip = l.address.ip();
        l.address.port() == port && (ip.is_unspecified() || ip.is_loopback())
    };
    let Some(taken) = listeners.iter().find(ours) else { return check.ok(format!("{port} is free")) };
    match answer {
        Ok(_) => check.ok(format!("{port} is the agent's")),
        Err(error @ (client::Error::Silent { .. } | client::Error::Refused { .. })) => check.degraded(
            format!("{} is taken, and its owner does not answer as an agent should: {error}", taken.address),
            "look whether it is the agent (ss -ltnp), and into its log",
        ),
        Err(_) => check.missing(
            format!("{} is somebody else's", taken.address),
            "stop what listens there (ss -ltnp names it), or give the agent and every hook another --hook-port",
        ),
    }
}

fn agent(answer: &Result<NodeStatus, client::Error>) -> Check {
    let check =
        Check::new(Group::Node, "agent", "answer hooks when pods have drained; without it they sleep");
    match answer {
        Ok(node) if node.problems.is_empty() => {
            check.ok(format!("{}, up {}", node.version, seconds(node.uptime_seconds)))
        }
        Ok(node) => check.degraded(
            format!("{}, with problems: {}", node.version, node.problems.join("; ")),
            "see lastcall status",
        ),
        Err(_) => check.degraded("does not run", "start it: lastcall agent, or its DaemonSet"),
    }
}

/// The directory of a cgroup's number, breadth first.
fn path_of(root: &Path, id: u64) -> Option<PathBuf> {
    let mut queue = std::collections::VecDeque::from([root.to_owned()]);
    let mut looked_at = 0;
    while let Some(dir) = queue.pop_front() {
        looked_at += 1;
        if looked_at > MAX_CGROUPS {
            return None;
        }
        if fs::metadata(&dir).is_ok_and(|m| m.ino() == id) {
            return Some(dir);
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        queue.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{doctor::Verdict, status::EbpfStatus};

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

    fn listener(address: &str, cgroup: Option<u64>) -> Listener {
        Listener { address: address.parse().unwrap(), cookie: 1, cgroup }
    }

    fn running(problems: &[&str]) -> Result<NodeStatus, client::Error> {
        Ok(NodeStatus {
            version: "0.1.0".into(),
            uptime_seconds: 61.0,
            ebpf: EbpfStatus::default(),
            problems: problems.iter().map(|p| (*p).to_owned()).collect(),
            drains: vec![],
        })
    }

    fn nobody() -> Result<NodeStatus, client::Error> {
        Err(client::Error::NotRunning { address: "127.0.0.1:9902".parse().unwrap() })
    }

    #[test]
    fn the_kubelet_by_its_port() {
        let path = |_| Some(PathBuf::from("/sys/fs/cgroup/system.slice/kubelet.service"));
        let table = [
            (vec![], Verdict::Degraded, "nothing listens on port 10250"),
            (
                vec![listener("[::]:10250", Some(77))],
                Verdict::Ok,
                "cgroup /sys/fs/cgroup/system.slice/kubelet",
            ),
            (vec![listener("[::]:10250", Some(1))], Verdict::Degraded, "in the root cgroup"),
            (vec![listener("0.0.0.0:10250", None)], Verdict::Degraded, "its cgroup is not told"),
        ];
        for (listeners, verdict, found) in table {
            let check = kubelet(&plan(), &listeners, path);
            assert_eq!(check.verdict, verdict, "{found}");
            assert!(check.found.contains(found), "{}", check.found);
        }
        let check = kubelet(&plan(), &[listener("[::]:10250", Some(77))], |_| None);
        assert!(check.found.ends_with("cgroup number 77"), "{}", check.found);
    }

    #[test]
    fn the_kubelet_as_given() {
        let by_process = Plan { kubelet_process: Some("kubelet".into()), ..plan() };
        assert_eq!(kubelet(&by_process, &[], |_| None).verdict, Verdict::Ok);
        let by_cgroup = |path: &str| Plan { kubelet_cgroup: Some(path.into()), ..plan() };
        assert_eq!(kubelet(&by_cgroup("/proc"), &[], |_| None).verdict, Verdict::Ok);
        assert_eq!(kubelet(&by_cgroup("/nowhere"), &[], |_| None).verdict, Verdict::Degraded);
        assert_eq!(kubelet(&by_cgroup("/proc/mounts"), &[], |_| None).verdict, Verdict::Degraded);
    }

    #[test]
    fn the_hook_s_port_is_free_ours_or_somebody_else_s() {
        let pod = [listener("10.0.0.1:9902", None), listener("127.0.0.1:9903", None)];
        assert_eq!(hook_port(9902, &pod, &nobody()).found, "9902 is free");
        for address in ["127.0.0.1:9902", "0.0.0.0:9902", "[::]:9902"] {
            let taken = [listener(address, None)];
            assert_eq!(hook_port(9902, &taken, &running(&[])).found, "9902 is the agent's");
            let squatter = hook_port(9902, &taken, &nobody());
            assert_eq!(squatter.verdict, Verdict::Missing, "{address}");
            assert!(squatter.found.contains(address), "{}", squatter.found);
            let stuck = Err(client::Error::Silent { address: "127.0.0.1:9902".parse().unwrap() });
            assert_eq!(hook_port(9902, &taken, &stuck).verdict, Verdict::Degraded);
        }
    }

    #[test]
    fn the_agent_runs_or_not() {
        assert_eq!(agent(&running(&[])).found, "0.1.0, up 1m01s");
        assert_eq!(agent(&running(&["the table is full"])).verdict, Verdict::Degraded);
        assert_eq!(agent(&nobody()).verdict, Verdict::Degraded);
    }

    #[test]
    fn a_cgroup_is_found_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("system.slice/kubelet.service");
        fs::create_dir_all(&deep).unwrap();
        let id = fs::metadata(&deep).unwrap().ino();
        // Looked at before it, and of a higher number.
        fs::create_dir(root.path().join("user.slice")).unwrap();
        assert_eq!(path_of(root.path(), id), Some(deep));
        assert_eq!(path_of(root.path(), u64::MAX), None);
    }
}
