//! Which kernels may announce. Everything else is probed; what is wrong inside the kernel is not to be seen
//! from outside before it has harmed somebody, so here is a list. Pure but for [`running`].
//!
//! Two faults matter. Where a write finds no room, kernels without "tcp_bpf: fix return value of
//! tcp_bpf_sendmsg" (CVE-2024-46783) miscount what was taken of it, and without "Several fixes to
//! bpf_msg_push_data" (CVE-2024-56633) a message may be damaged by what is put into it.

use std::fs;

/// A kernel's version, upstream's count.
pub type Version = (u32, u32, u32);

/// What a kernel may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why no client is told, if so.
    pub http1: Result<(), &'static str>,
    /// Why no client of HTTP/2 is told, if so.
    pub http2: Result<(), &'static str>,
}

/// The first of each series that has both fixes.
const FIXED: [Version; 5] = [(5, 10, 231), (5, 15, 174), (6, 1, 120), (6, 6, 66), (6, 12, 5)];

/// What is known of a version.
pub fn verdict(version: Option<Version>) -> Verdict {
    let Some(version) = version else { return refused("its version is not understood") };
    let (major, minor, patch) = version;
    let series = FIXED.iter().find(|(a, b, _)| (*a, *b) == (major, minor));
    if (major, minor) < (5, 10) {
        return refused("it is older than 5.10: the programs do not see their sockets there");
    }
    match series {
        Some((_, _, first)) if patch < *first => {
            return refused("it lacks fixes (CVE-2024-46783, CVE-2024-56633): update it");
        }
        None if (major, minor) < (6, 1) => return refused("nobody has tried this series"),
        _ => {}
    }
    let old = "it is older than 6.1, where sockets that wait for a frame may lose bytes";
    Verdict { http1: Ok(()), http2: if (major, minor) < (6, 1) { Err(old) } else { Ok(()) } }
}

fn refused(why: &'static str) -> Verdict {
    Verdict { http1: Err(why), http2: Err(why) }
}

/// The running kernel's version. Distributions hide it: Ubuntu tells it in a file of its own, Debian in the
/// build's description.
pub fn running() -> Option<Version> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    version(&read("sys/kernel/osrelease"), &read("version"), &read("version_signature"))
}

fn version(release: &str, build: &str, signature: &str) -> Option<Version> {
    let ubuntu = signature.split_whitespace().last();
    let debian = build.split_once(" Debian ").and_then(|(_, rest)| rest.split_whitespace().next());
    numbers(ubuntu.or(debian).unwrap_or(release))
}

/// `6.1.176-1` → 6, 1, 176; `6.12` → 6, 12, 0.
fn numbers(text: &str) -> Option<Version> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut parts = text[..end].split('.').map(|n| n.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_tell_them() {
        let rows = [
            ("6.18.44", "Linux version 6.18.44 (x@y) #1 SMP", "", (6, 18, 44)),
            (
                "6.1.0-42-amd64",
                "Linux version 6.1.0-42-amd64 (x) #1 SMP Debian 6.1.176-1 (2026-01-01)",
                "",
                (6, 1, 176),
            ),
            (
                "5.15.0-203-generic",
                "Linux version 5.15.0-203-generic",
                "Ubuntu 5.15.0-203.213-generic 5.15.189\n",
                (5, 15, 189),
            ),
            (
                "5.10.245-241.978.amzn2.x86_64",
                "Linux version 5.10.245-241.978.amzn2.x86_64",
                "",
                (5, 10, 245),
            ),
            ("6.12-rc1", "", "", (6, 12, 0)),
        ];
        for (release, build, signature, expected) in rows {
            assert_eq!(version(release, build, signature), Some(expected), "{release}");
        }
        assert_eq!(version("", "", ""), None);
    }

    #[test]
    fn which_may_announce() {
        for (version, http1, http2) in [
            ((4, 19, 300), false, false),
            ((5, 10, 230), false, false),
            ((5, 10, 231), true, false),
            ((5, 14, 0), false, false),
            ((5, 15, 173), false, false),
            ((5, 15, 189), true, false),
            ((6, 0, 19), false, false),
            ((6, 1, 119), false, false),
            ((6, 1, 120), true, true),
            ((6, 8, 12), true, true),
            ((6, 12, 4), false, false),
            ((6, 12, 43), true, true),
            ((6, 18, 44), true, true),
            ((7, 2, 13), true, true),
        ] {
            let verdict = verdict(Some(version));
            assert_eq!((verdict.http1.is_ok(), verdict.http2.is_ok()), (http1, http2), "{version:?}");
        }
        assert!(verdict(None).http1.is_err());
    }
}
