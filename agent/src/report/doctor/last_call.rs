//! May this kernel tell clients to leave?

use super::{Check, Group};
use lastcall_ebpf::announce::SMALL_REQUEST;

use crate::{
    kernel::{btf::Btf, unread},
    last_call::sockmap_fixes::SockmapFixes,
};

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![fixes(SockmapFixes::of_this_kernel())];
    checks.extend(["write_seq", "copied_seq"].map(position));
    checks.push(large_requests());
    checks
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

fn position(field: &str) -> Check {
    let (name, why) = match field {
        "write_seq" => ("tcp_sock.write_seq", "find the place of an announcement in what a pod sends"),
        _ => ("tcp_sock.copied_seq", "see when an app has read a large request, before its client is told"),
    };
    let check = Check::new(Group::Kernel, name, why);
    match Btf::kernel().and_then(|btf| btf.offset("tcp_sock", field)) {
        Ok(offset) => check.ok(format!("byte {offset}, by the kernel's BTF")),
        Err(error) => check.degraded(
            crate::causes(&error),
            "none needed: drains work without the last call, but busy clients stay to the end",
        ),
    }
}

/// Tried, because no list names the kernels: a change of early 2026 went to most stable series.
fn large_requests() -> Check {
    let check = Check::new(
        Group::Kernel,
        "FIONREAD of a socket in a map",
        "tell the client of a large request as that of a small one",
    );
    match unread::is_told() {
        Ok(true) => check.ok("says what is to be read"),
        Ok(false) => check.ok(format!(
            "says 0: clients of requests over {SMALL_REQUEST} bytes are told once the app has read them"
        )),
        Err(error) => check.degraded(
            format!("not known, taken as 0: {error}"),
            "the right to make a map, and a loopback device that is up",
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
