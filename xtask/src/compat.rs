//! `cargo xtask compat`: fetches and builds other people's servers and clients, then hands over to
//! `lastcall-compat`, as root.

mod kits;
mod stamp;

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Error, Result};

use crate::{apt, build::build, ebpf, root, tiers::NODE_TOOLS, workspace::Workspace};

/// Does not return but with an error: the run takes this process's place, so that Ctrl-C reaches it alone
/// and it can clean up. What cannot be had is no error: its rows say so.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    root::ensure_possible("the run builds simulated nodes, which")?;
    apt::install_missing(&NODE_TOOLS, "the simulated nodes")?;
    ebpf::run(workspace, false)?;
    let packages = ["build", "--package", "lastcall-agent", "--package", "lastcall-tests"];
    let built = build(workspace.cargo().args(packages).arg("--bins"))?;
    let program = |name: &str| {
        let found = built.iter().find(|b| b.kind == "bin" && b.name == name);
        found.map(|b| &b.file).with_context(|| format!("the workspace has no program `{name}`"))
    };
    let agent = program("lastcall")?;
    let runner = program("lastcall-compat")?;
    let missing = kits::prepare(workspace)?;
    let mut compat = root::command(runner, &[("LASTCALL_BIN", agent.as_os_str())]);
    compat.arg("--built").arg(workspace.target.join(kits::FOLDER));
    for (kit, reason) in missing {
        compat.arg("--missing").arg(format!("{kit}={reason}"));
    }
    Err(Error::new(compat.args(arguments).exec()).context("cannot start the run"))
}
