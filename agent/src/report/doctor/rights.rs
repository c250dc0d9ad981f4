//! Capabilities and limits of this process, which the agent's would be.

use caps::{CapSet, Capability};

use super::{
    Check, Group, Verdict, sys,
    sys::{MapType, map},
};

/// What the agent's maps take at their default sizes, bytes: the table, and room for the rest.
const MAPS: u64 = 24 * 1024 * 1024;

pub(super) fn checks() -> Vec<Check> {
    let held = |c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false);
    let mut checks: Vec<_> = NEEDED.iter().map(|need| capability(need, held)).collect();
    checks.push(memlock());
    checks
}

/// A capability, what it is for, and what is lost without it.
struct Need {
    capability: Capability,
    /// Includes it: older kernels and wide profiles.
    or: Option<Capability>,
    why: &'static str,
    without: Verdict,
}

const NEEDED: &[Need] = &[
    Need {
        capability: Capability::CAP_BPF,
        or: Some(Capability::CAP_SYS_ADMIN),
        why: "load the programs that see connections and lead the kubelet's call to the agent",
        without: Verdict::Missing,
    },
    Need {
        capability: Capability::CAP_PERFMON,
        or: Some(Capability::CAP_SYS_ADMIN),
        why: "let the verifier accept the packet programs' pointer arithmetic",
        without: Verdict::Degraded,
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        or: None,
        why: "attach to pods' links and to the root cgroup, and hold and take over hooks",
        without: Verdict::Missing,
    },
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        or: None,
        why: "enter pods' network namespaces (setns, on one thread)",
        without: Verdict::Missing,
    },
];

fn capability(need: &Need, held: impl Fn(Capability) -> bool) -> Check {
    let check = Check::new(Group::Rights, need.capability.to_string(), need.why);
    if held(need.capability) {
        return check.ok("held");
    }
    if let Some(wider) = need.or.filter(|c| held(*c)) {
        return check.ok(format!("not held, {wider} includes it"));
    }
    let short = need.capability.to_string().trim_start_matches("CAP_").to_owned();
    let remedy = format!("run as root, or add {short} to the container's securityContext.capabilities.add");
    match need.without {
        Verdict::Missing => check.missing("not held", remedy),
        _ => check.degraded("not held", remedy),
    }
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK. Whether this kernel does it is seen by asking for a
/// map with a limit of nothing.
fn memlock() -> Check {
    let check = Check::new(Group::Rights, "locked memory (RLIMIT_MEMLOCK)", "make the maps");
    let (soft, hard) = match sys::memlock() {
        Ok(limits) => limits,
        Err(error) => return check.degraded(super::findings::reason(&error), "none known"),
    };
    if sys::set_memlock(0, hard).is_err() {
        return check.ok("cannot be changed here; the maps below show whether it is enough");
    }
    let without = map(MapType::Array, 4, 8, 1);
    let restored = sys::set_memlock(soft, hard);
    if let Err(error) = restored {
        tracing::debug!(%error, "RLIMIT_MEMLOCK could not be set back");
    }
    let unlimited = map(MapType::Array, 4, 8, 1);
    match (without, unlimited) {
        (Ok(_), _) => check.ok("not counted by this kernel"),
        // No map at all, whatever the limit: the programs' checks say so.
        (Err(_), Err(_)) => check.ok("no map can be made anyway, see below"),
        (Err(_), Ok(_)) => {
            let raise = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false);
            enough(check, hard, raise)
        }
    }
}

fn enough(check: Check, hard: u64, raise: bool) -> Check {
    if raise || hard == libc::RLIM_INFINITY || hard >= MAPS {
        return check.ok("counted by this kernel; the agent raises it");
    }
    check.missing(
        format!("at most {} kB, the maps take {} kB", hard / 1024, MAPS / 1024),
        "add SYS_RESOURCE to the capabilities, or give the container runtime LimitMEMLOCK=infinity; \
         kernels from 5.11 do not need it",
    )
}

/// The limit as far up as it goes, as the agent's will be, until dropped.
pub(super) struct Raised(Option<(u64, u64)>);

impl Raised {
    pub(super) fn now() -> Self {
        let before = sys::memlock().ok();
        if let Some((_, hard)) = before
            && sys::set_memlock(libc::RLIM_INFINITY, libc::RLIM_INFINITY).is_err()
            && let Err(error) = sys::set_memlock(hard, hard)
        {
            tracing::debug!(%error, "RLIMIT_MEMLOCK could not be raised");
        }
        Self(before)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.0
            && let Err(error) = sys::set_memlock(soft, hard)
        {
            tracing::debug!(%error, "RLIMIT_MEMLOCK could not be set back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(held: &[Capability]) -> Vec<Verdict> {
        NEEDED.iter().map(|n| capability(n, |c| held.contains(&c)).verdict).collect()
    }

    #[test]
    fn what_each_set_of_capabilities_is_worth() {
        use Capability::*;
        use Verdict::*;
        let table: [(&[Capability], [Verdict; 4]); 5] = [
            (&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN], [Ok, Ok, Ok, Ok]),
            (&[CAP_NET_ADMIN, CAP_SYS_ADMIN], [Ok, Ok, Ok, Ok]),
            (&[CAP_BPF, CAP_NET_ADMIN], [Ok, Degraded, Ok, Missing]),
            (&[CAP_SYS_ADMIN], [Ok, Ok, Missing, Ok]),
            (&[], [Missing, Degraded, Missing, Missing]),
        ];
        for (held, expected) in table {
            assert_eq!(verdicts(held), expected, "{held:?}");
        }
    }

    #[test]
    fn the_remedy_names_what_the_manifest_names() {
        let check = capability(&NEEDED[2], |_| false);
        assert!(check.remedy.contains("add NET_ADMIN to"), "{}", check.remedy);
    }

    #[test]
    fn a_limit_that_counts_must_be_enough_or_raisable() {
        let check = || Check::new(Group::Rights, "", "");
        let table = [
            (64 << 10, false, Verdict::Missing),
            (64 << 10, true, Verdict::Ok),
            (MAPS, false, Verdict::Ok),
            (libc::RLIM_INFINITY, false, Verdict::Ok),
        ];
        for (hard, raise, expected) in table {
            assert_eq!(enough(check(), hard, raise).verdict, expected, "{hard} {raise}");
        }
    }

    /// The limit is up while the probes run, and neither they nor the question leave it changed.
    #[test]
    fn the_limit_is_set_back() {
        let _alone = super::super::alone();
        let before = sys::memlock().unwrap();
        let raised = Raised::now();
        let (soft, hard) = sys::memlock().unwrap();
        assert!(soft == hard && hard >= before.1, "{before:?} {soft} {hard}");
        drop(raised);
        assert_eq!(sys::memlock().unwrap(), before);
        let check = memlock();
        assert_eq!(sys::memlock().unwrap(), before);
        assert!(check.verdict <= Verdict::Missing && !check.found.is_empty());
    }
}
