//! Which kernels carry the fixes that the last call rests on: a list by name, because what they cure shows only
//! under load, as bytes missing from a stream.
//!
//! In: what the running kernel says of itself. Out: whether its clients may be told, over what, and why not.
//! A vendor's kernel that does not say which stable version it is made of is not known, and so off.
//!
//! What else old kernels do to sockets in a map needs no list, because nothing here rests on it: results of map
//! helpers that are 32 bits wide (before 6.4) are compared as such; a socket that is there already is no error; a
//! segment that comes twice puts none in; nothing is put at a message's very end, which is refused by some up to
//! 6.8. What FIONREAD says is tried (`kernel/unread.rs`).

use std::fmt;

/// A stable version: 6.1.120.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stable(u32, u32, u32);

/// Each series' first release with both fixes that a stream's bytes depend on: the number of bytes that a send has
/// taken (CVE-2024-46783, of September 2024), and the bytes put into a message ("Several fixes to
/// bpf_msg_push_data", "Fix sk_msg_reset_curr"). 5.10 and 6.1 by Debian's changelogs; the others are the stable
/// releases of the same day, 2024-12-14, and a fix comes to no series later than to an older one.
const FIXED: [Stable; 5] =
    [Stable(5, 10, 231), Stable(5, 15, 174), Stable(6, 1, 120), Stable(6, 6, 66), Stable(6, 12, 5)];
/// Series from here on had them from their beginning.
const LATER: Stable = Stable(6, 13, 0);
/// Ubuntu's packages with them, of a series that stable has given up, or where no signature tells the version.
const UBUNTU: [(u32, u32, u32); 2] = [(5, 15, 198), (6, 8, 146)];

/// Fixes of what the last call does not do: it puts in a few bytes of its own at a message's beginning, and takes
/// no socket that has not sent yet. They are only said.
const OTHERS: [(&str, &[Stable]); 3] = [
    ("bpf_msg_push_data at a message's tail", &[Stable(5, 10, 259), Stable(6, 1, 176), Stable(6, 12, 93)]),
    ("bpf_msg_push_data of huge lengths", &[Stable(5, 10, 261), Stable(6, 12, 97)]),
    ("MPTCP before accept()", &[Stable(6, 1, 159), Stable(6, 12, 60)]),
];

/// From here on a socket may stay in the map for longer than from a request to its answer, as HTTP/2 needs: in
/// older ones a send into a full buffer loses bytes then (seen on 5.10 and 5.15).
const LONGER: Stable = Stable(6, 1, 0);

/// What may be told on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockmapFixes {
    /// Clients of HTTP/1 may be told.
    pub http1: bool,
    /// Clients of HTTP/2 may be told.
    pub http2: bool,
    /// What it is, and what it lacks.
    pub found: String,
}

impl SockmapFixes {
    /// Of the running kernel.
    pub fn of_this_kernel() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let (release, version) = (read("/proc/sys/kernel/osrelease"), read("/proc/sys/kernel/version"));
        // Ubuntu's alone.
        let signature = read("/proc/version_signature");
        Self::of(&release, &version, &signature)
    }

    /// Of a kernel by `uname -r`, `uname -v`, and Ubuntu's `/proc/version_signature`, which others have not.
    pub fn of(release: &str, version: &str, signature: &str) -> Self {
        let release = release.trim();
        if ubuntu(release).is_some_and(|(a, b, n)| UBUNTU.iter().any(|u| (u.0, u.1) == (a, b) && n >= u.2)) {
            let http2 = ubuntu(release) >= Some((6, 0, 0));
            return Self { http1: true, http2, found: format!("{release}, by its package") };
        }
        let Some(stable) = stable(release, version, signature) else {
            return Self::no(format!("{release}: not known which stable version it is made of"));
        };
        match FIXED.iter().find(|f| f.series() == stable.series()) {
            Some(fixed) if stable < *fixed => {
                return Self::no(format!("{stable}, and bytes of streams are safe from {fixed} on"));
            }
            None if stable < LATER => {
                return Self::no(format!("{stable}: its series has not got the fixes of December 2024"));
            }
            _ => {}
        }
        let http2 = stable >= LONGER;
        let mut found = stable.to_string();
        if !http2 {
            found += ", HTTP/1 alone: HTTP/2 needs 6.1";
        }
        for (what, since) in OTHERS {
            if since.iter().any(|s| s.series() == stable.series() && stable < *s) {
                found += &format!("; without the fix of {what}, which it does not use");
            }
        }
        Self { http1: true, http2, found }
    }

    fn no(found: String) -> Self {
        Self { http1: false, http2: false, found }
    }
}

impl Stable {
    fn series(self) -> (u32, u32) {
        (self.0, self.1)
    }
}

impl fmt::Display for Stable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The stable version that a kernel is made of, where it says so.
fn stable(release: &str, version: &str, signature: &str) -> Option<Stable> {
    // "Ubuntu 5.15.0-198.208-generic 5.15.189": the package's name, then the stable version.
    if let Some(base) = signature.split_whitespace().nth(2) {
        return numbers(base);
    }
    // "#1 SMP Debian 5.10.262-1 (2026-07-31)", where the release is 5.10.0-46-amd64.
    if let Some((_, debian)) = version.split_once("Debian ") {
        return numbers(debian);
    }
    // The others name it, but those that keep a version for years and bring fixes back (RHEL's 5.14.0-503.el9).
    let own = numbers(release)?;
    let vendors = own.2 == 0 && release.contains(".el");
    (!vendors && !release.contains("-generic")).then_some(own)
}

/// Series and package of Ubuntu's own kernel: 5.15 and 203 of 5.15.0-203-generic.
fn ubuntu(release: &str) -> Option<(u32, u32, u32)> {
    let (series, package) = release.strip_suffix("-generic")?.split_once("-")?;
    let Stable(major, minor, _) = numbers(series)?;
    Some((major, minor, package.parse().ok()?))
}

/// The three numbers that a text begins with; the third may be missing.
fn numbers(text: &str) -> Option<Stable> {
    let numeric = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = numeric.split('.').map(str::parse);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some(Stable(major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: (bool, bool) = (false, false);
    const HTTP1: (bool, bool) = (true, false);
    const BOTH: (bool, bool) = (true, true);

    /// `uname -r`, `uname -v`, `/proc/version_signature`, and what may be told.
    const KERNELS: [(&str, &str, &str, (bool, bool)); 26] = [
        // Debian: the release's name says nothing.
        ("5.10.0-32-amd64", "#1 SMP Debian 5.10.223-1 (2024-08-10)", "", NO),
        ("5.10.0-46-amd64", "#1 SMP Debian 5.10.262-1 (2026-07-31)", "", HTTP1),
        ("6.1.0-50-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)", "", BOTH),
        ("6.1.0-26-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.112-1 (2024-09-30)", "", NO),
        ("6.12.107+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-09-01)", "", BOTH),
        ("7.2.13+deb14-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 7.2.13-1 (2026-11-01)", "", BOTH),
        // Ubuntu: the signature says it.
        ("5.15.0-72-generic", "#79-Ubuntu SMP", "Ubuntu 5.15.0-72.79-generic 5.15.98", NO),
        ("5.15.0-203-generic", "#213-Ubuntu SMP", "Ubuntu 5.15.0-203.213-generic 5.15.195", HTTP1),
        ("5.15.0-1075-azure", "#84-Ubuntu SMP", "Ubuntu 5.15.0-1075.84-azure 5.15.168", NO),
        ("6.8.0-149-generic", "#159-Ubuntu SMP", "Ubuntu 6.8.0-149.159-generic 6.8.12", BOTH),
        ("6.8.0-38-generic", "#38-Ubuntu SMP", "Ubuntu 6.8.0-38.38-generic 6.8.8", NO),
        ("5.15.0-203-generic", "#213-Ubuntu SMP", "", HTTP1),
        ("5.15.0-119-generic", "#129-Ubuntu SMP", "", NO),
        // Stable's own numbers: Amazon, Google, Flatcar, Talos, this.
        ("6.1.119-129.201.amzn2023.x86_64", "#1 SMP PREEMPT_DYNAMIC Tue Dec 3", "", NO),
        ("6.1.120-131.amzn2023.x86_64", "#1 SMP PREEMPT_DYNAMIC", "", BOTH),
        ("5.10.230-223.885.amzn2.x86_64", "#1 SMP", "", NO),
        ("6.6.65+", "#1 SMP PREEMPT_DYNAMIC", "", NO),
        ("6.6.66+", "#1 SMP PREEMPT_DYNAMIC", "", BOTH),
        ("6.12.4", "#1 SMP", "", NO),
        ("6.12.5-talos", "#1 SMP", "", BOTH),
        ("6.18.44", "#1 SMP", "", BOTH),
        ("6.9.3", "#1 SMP", "", NO),
        ("6.13.0-rc1", "#1 SMP", "", BOTH),
        // Vendors that keep a version for years.
        ("5.14.0-503.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC", "", NO),
        ("4.18.0-553.el8.x86_64", "#1 SMP", "", NO),
        ("", "", "", NO),
    ];

    #[test]
    fn each_kernel_by_name() {
        for (release, version, signature, expected) in KERNELS {
            let fixes = SockmapFixes::of(release, version, signature);
            assert_eq!((fixes.http1, fixes.http2), expected, "{release} {version}: {}", fixes.found);
        }
    }

    #[test]
    fn what_is_lacking_is_said() {
        let found = |release| SockmapFixes::of(release, "", "").found;
        assert!(found("6.1.112").contains("from 6.1.120 on"), "{}", found("6.1.112"));
        assert!(found("5.10.240").contains("HTTP/1 alone") && !found("6.1.176").contains("HTTP/1"));
        assert!(found("6.1.150").contains("MPTCP") && !found("6.1.159").contains("MPTCP"));
        assert!(found("5.14.0-503.el9").contains("not known"));
        assert_eq!((found("6.18.44"), found("6.12.107")), ("6.18.44".to_owned(), "6.12.107".to_owned()));
    }

    #[test]
    fn this_kernel_says_what_it_is() {
        let fixes = SockmapFixes::of_this_kernel();
        assert!(!fixes.found.is_empty() && (fixes.http1 || !fixes.http2), "{fixes:?}");
    }
}
