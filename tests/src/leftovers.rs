//! What a node can leave on the machine, and whether one did.

use std::fs;
use std::process;

use crate::cgroup::{PREFIX, mount_point};
use crate::host::MARK;

/// Everything of the node `name` that is still there; of all of this process's nodes where it is empty.
///
/// A node's links, mounts, pins and rules live in namespaces that no name outside points to, so what
/// can stay is: a cgroup, a process (it carries a mark), or a mount that escaped to the machine's own.
pub fn leftovers(name: &str) -> Vec<String> {
    let name = if name.is_empty() { format!("{}-", process::id()) } else { name.to_owned() };
    let whole =
        |text: &str| text.strip_prefix(&name).is_some_and(|rest| name.ends_with('-') || rest.is_empty());
    let mut found = Vec::new();
    if let Ok(entries) = mount_point().and_then(|root| Ok(fs::read_dir(root)?)) {
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().strip_prefix(PREFIX).is_some_and(whole) {
                found.push(format!("cgroup {}", entry.path().display()));
            }
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        if variables
            .any(|text| text.strip_prefix(MARK).and_then(|text| text.strip_prefix('=')).is_some_and(whole))
        {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("process {} {}", entry.file_name().to_string_lossy(), command.trim()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        mounts.lines().filter(|line| line.contains("/run/lastcall")).map(|line| format!("mount {line}")),
    );
    found
}
