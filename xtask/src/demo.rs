//! `cargo xtask demo`: builds everything and hands over to `lastcall-demo`, as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Error, Result};

use crate::{apt, build::build, ebpf, root, tiers::NODE_TOOLS, workspace::Workspace};

/// Does not return but with an error: the demo takes this process's place, so that Ctrl-C reaches it
/// alone and it can clean up.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    root::ensure_possible("the demo builds a simulated node, which")?;
    apt::install_missing(&NODE_TOOLS, "the simulated node")?;
    ebpf::run(workspace, false)?;
    // Not optimised: the demo shows what happens when, which is the same either way, and a newcomer
    // waits one minute for it instead of five. The tests use the same build.
    let packages = ["build", "--package", "lastcall-agent", "--package", "lastcall-tests"];
    let built = build(workspace.cargo().args(packages).arg("--bins"))?;
    let program = |name: &str| {
        let found = built.iter().find(|b| b.kind == "bin" && b.name == name);
        found.map(|b| &b.file).with_context(|| format!("the workspace has no program `{name}`"))
    };
    let agent = program("lastcall")?;
    let mut demo = root::command(program("lastcall-demo")?, &[("LASTCALL_BIN", agent.as_os_str())]);
    Err(Error::new(demo.args(arguments).exec()).context("cannot start the demo"))
}
