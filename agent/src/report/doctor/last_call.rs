//! May this kernel tell clients to leave?

use super::{Check, Group};
use crate::{kernel::btf::Btf, last_call::sockmap_fixes::SockmapFixes};

pub(super) fn checks() -> Vec<Check> {
    vec![fixes(SockmapFixes::of_this_kernel()), position()]
}

/// By name, because what the fixes cure shows only under load, as bytes missing from a stream.
fn fixes(fixes: SockmapFixes) -> Check {
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

fn position() -> Check {
    let why = "find the place of an announcement in what a pod sends";
    let check = Check::new(Group::Kernel, "tcp_sock.write_seq", why);
    match Btf::kernel().and_then(|btf| btf.offset("tcp_sock", "write_seq")) {
        Ok(offset) => check.ok(format!("byte {offset}, by the kernel's BTF")),
        Err(error) => check.degraded(
            crate::causes(&error),
            "none needed: drains work without the last call, but busy clients stay to the end",
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
            let check = fixes(SockmapFixes::of(release, "", ""));
            assert!(check.verdict == verdict && check.found.contains(word), "{check:?}");
        }
    }
}
