//! What the kernel is, apart from what it can do.

use std::{fs, path::Path};

use super::{Check, Group};
use crate::last_call::sockmap_fixes::SockmapFixes;

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn checks() -> Vec<Check> {
    vec![release(), btf(Path::new(BTF)), last_call(SockmapFixes::of_this_kernel())]
}

fn release() -> Check {
    let check = Check::new(Group::Kernel, "release", "know what to search for where something below fails");
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => check.ok(release.trim()),
        Err(error) => check.degraded(error.to_string(), "mount /proc"),
    }
}

fn btf(path: &Path) -> Check {
    let check = Check::new(
        Group::Kernel,
        "type information (BTF)",
        "know where the kernel keeps a socket's position, for the last call",
    );
    match fs::metadata(path) {
        Ok(file) => check.ok(format!("{}, {} kB", path.display(), file.len() / 1024)),
        Err(_) => check.degraded(
            format!("no {}", path.display()),
            "drains do without, the last call does not: a kernel with CONFIG_DEBUG_INFO_BTF has it",
        ),
    }
}

/// By name, because what the fixes cure shows only under load, as bytes missing from a stream.
fn last_call(fixes: SockmapFixes) -> Check {
    let check =
        Check::new(Group::Kernel, "fixes for the last call", "tell clients to leave a pod that drains");
    match (fixes.http1, fixes.http2) {
        (true, true) => check.ok(fixes.found),
        (true, false) => {
            check.degraded(fixes.found, "none needed where no client speaks cleartext HTTP/2 (gRPC)")
        }
        (false, _) => check.degraded(
            format!("off: {}", fixes.found),
            "stable 5.10.231, 5.15.174, 6.1.120, 6.6.66, 6.12.5, or a later series; drains work without",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::doctor::Verdict;

    #[test]
    fn the_last_call_has_a_verdict_for_each_kernel() {
        for (release, verdict, word) in [
            ("6.12.107", Verdict::Ok, "6.12.107"),
            ("5.10.262", Verdict::Degraded, "HTTP/1 alone"),
            ("5.10.223", Verdict::Degraded, "off: "),
            ("5.14.0-503.el9", Verdict::Degraded, "off: "),
        ] {
            let check = last_call(SockmapFixes::of(release, "", ""));
            assert!(check.verdict == verdict && check.found.contains(word), "{check:?}");
        }
    }
}
