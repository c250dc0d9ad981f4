//! What needs root: through sudo, and only for those who are not root already.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use anyhow::{Result, ensure};

/// Variables of the caller that steer tests and logs, which sudo would drop.
const KEPT: [&str; 7] =
    ["LASTCALL_", "RUST_BACKTRACE", "RUST_LOG", "RUST_TEST_", "INSTA_", "PROPTEST_", "NO_COLOR"];

/// Whether we are root.
pub(crate) fn am_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A command run as root, with these variables beside the caller's own.
pub(crate) fn command(program: impl AsRef<OsStr>, variables: &[(&str, &OsStr)]) -> Command {
    if am_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in env::vars_os() {
        if KEPT.iter().any(|k| name.to_string_lossy().starts_with(k)) {
            command.arg(word(&name, &value));
        }
    }
    for (name, value) in variables {
        command.arg(word(OsStr::new(name), value));
    }
    command.arg(program);
    command
}

fn word(name: &OsStr, value: &OsStr) -> OsString {
    let mut word = name.to_owned();
    word.push("=");
    word.push(value);
    word
}

/// Fails with what to do where there is neither root nor a way to it.
pub(crate) fn ensure_possible(what: &str) -> Result<()> {
    ensure!(
        am_root() || crate::child::on_path("sudo").is_some(),
        "{what} needs root, and there is no sudo: run it again as root"
    );
    Ok(())
}
