//! The oldest kernel that lastcall is made for: said where an older one refuses the programs.
//!
//! In: a kernel's release. Out: a sentence. It decides nothing, because a vendor's 4.18 may have what others have
//! in 5.10; what there is is tried.

/// Debian 11's, the oldest that `cargo xtask kernels` runs.
pub const OLDEST: (u32, u32) = (5, 10);

/// What to say of a kernel of this release (`uname -r`): nothing, unless it is older, and says so.
pub fn too_old(release: &str) -> Option<String> {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let (major, minor) = OLDEST;
    (version < OLDEST).then(|| {
        format!("Linux {release} is older than {major}.{minor}, the oldest that lastcall is made for")
    })
}

/// `uname -r`; empty where the kernel does not say it.
pub fn release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_hear_the_floor() {
        for old in ["5.4.0-150-generic", "4.18.0-553.el8_10.x86_64", "5.9.16\n", "2.6.78"] {
            let said = too_old(old).expect(old);
            assert!(said.contains("5.10") && said.contains(old.trim()), "{said}");
        }
        for other in ["5.10.0-46-amd64", "5.15.0", "6.1.176", "10.0", "", "a kernel", "5"] {
            assert_eq!(too_old(other), None, "{other}");
        }
    }
}
