//! What the kernel is, apart from what it can do.

use std::{fs, path::Path};

use super::{Check, Group};
use crate::kernel::floor;

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn checks() -> Vec<Check> {
    vec![release(&floor::release()), btf(Path::new(BTF))]
}

fn release(release: &str) -> Check {
    let check = Check::new(Group::Kernel, "release", "know what to search for where something below fails");
    match floor::too_old(release) {
        Some(why) => check.degraded(
            why,
            "a newer kernel; this one does if it has all that is asked for below, as some vendors' have",
        ),
        None if release.is_empty() => check.degraded("not told", "mind what is found below"),
        None => check.ok(release),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::doctor::Verdict;

    #[test]
    fn a_kernel_below_the_floor_hears_which_one_it_takes() {
        let old = release("5.4.0-150-generic");
        assert!(old.verdict == Verdict::Degraded && old.found.contains("older than 5.10"), "{old:?}");
        assert_eq!(release("5.10.0-46-amd64").verdict, Verdict::Ok);
    }
}
