//! What the kernel is, apart from what it can do.

use std::{fs, path::Path};

use super::{Check, Group};

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn checks() -> Vec<Check> {
    vec![release(), btf(Path::new(BTF))]
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
