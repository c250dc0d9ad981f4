//! `cargo xtask e2e`: makes what the cluster needs, and hands over to `lastcall-cluster`, as root.

pub(crate) mod go;
mod programs;

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Error, Result};

use crate::{apt, build::build, ebpf, root, workspace::Workspace};

/// What the node is made of beside Kubernetes, and Debian's packages of it.
const NODE_TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("containerd", "containerd"),
    ("runc", "runc"),
];

/// Does not return but with an error: the driver takes this process's place, so that Ctrl-C reaches it
/// alone and it can clean up.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    root::ensure_possible("the cluster is made of namespaces, which")?;
    let home = workspace.target.join("e2e");
    // What only looks or ends needs nothing that is not there already.
    let first = arguments.first().map(|a| a.to_string_lossy());
    if !matches!(first.as_deref(), Some("down" | "shell")) {
        apt::install_missing(&NODE_TOOLS, "the cluster's node")?;
        programs::build(workspace, &home)?;
        ebpf::run(workspace, false)?;
    }
    let packages = ["build", "--package", "lastcall-agent", "--package", "lastcall-tests"];
    let built = build(workspace.cargo().args(packages).arg("--bins"))?;
    let program = |name: &str| {
        let found = built.iter().find(|b| b.kind == "bin" && b.name == name);
        found.map(|b| &b.file).with_context(|| format!("the workspace has no program `{name}`"))
    };
    let script = workspace.root.join("tests/cluster/node.sh");
    let variables = [
        ("LASTCALL_E2E_DIR", home.as_os_str()),
        ("LASTCALL_E2E_NODE", script.as_os_str()),
        ("LASTCALL_BIN", program("lastcall")?.as_os_str()),
    ];
    let mut driver = root::command(program("lastcall-cluster")?, &variables);
    Err(Error::new(driver.args(arguments).exec()).context("cannot start the driver"))
}
