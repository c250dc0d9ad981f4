//! What needs root: through sudo, and only for those who are not root already.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, ensure};

/// Whether we are root.
pub(crate) fn am_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A command run as root; with `keep`, given the variables that steer tests and logs, which sudo drops.
pub(crate) fn command(program: impl AsRef<OsStr>, keep: bool) -> Command {
    if am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    if keep {
        command.arg("env");
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["LASTCALL_", "RUST_", "INSTA_", "PROPTEST_", "NO_COLOR"].iter().any(|k| text.starts_with(k)) {
                let mut word = name.clone();
                word.push("=");
                word.push(value);
                command.arg(word);
            }
        }
    }
    command.arg(program);
    command
}

/// Fails with what to do where there is neither root nor a way to it.
pub(crate) fn ensure_possible(what: &str) -> Result<()> {
    ensure!(
        am_root() || crate::child::on_path("sudo").is_some(),
        "{what} needs root, and there is no sudo: run it again as root"
    );
    Ok(())
}
