//! `cargo xtask e2e`: makes what the cluster needs, and hands over to `lastcall-cluster`, as root.

pub(crate) mod go;
pub(crate) mod programs;

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Error, Result};

use crate::{apt, build::build, image, root, workspace::Workspace};

/// What the node is made of beside Kubernetes, and Debian's packages of it.
const NODE_TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("containerd", "containerd"),
    ("runc", "runc"),
];

/// What boots the cluster and works in it.
const DRIVER: &str = "lastcall-cluster";

/// Does not return but with an error: the driver takes this process's place, so that Ctrl-C reaches it
/// alone and it can clean up.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    root::ensure_possible("the cluster is made of namespaces, which")?;
    let home = workspace.target.join("e2e");
    // What only looks or ends needs nothing that is not there already.
    let first = arguments.first().map(|a| a.to_string_lossy());
    if !matches!(first.as_deref(), Some("down" | "shell" | "help" | "--help" | "-h")) {
        apt::install_missing(&NODE_TOOLS, "the cluster's node")?;
        // The network works while the processors do.
        let fetched = programs::fetch_ahead(workspace, &home)?;
        image::run(workspace, &image::Wanted::in_file(home.join("images/lastcall.tar")))?;
        drop(fetched.join());
        programs::build(workspace, &home)?;
    }
    let built = build(workspace.cargo().args(["build", "--package", "lastcall-tests", "--bin", DRIVER]))?;
    let driver = built.iter().find(|b| b.kind == "bin" && b.name == DRIVER);
    let driver = driver.with_context(|| format!("the workspace has no program `{DRIVER}`"))?;
    let script = workspace.root.join("tests/cluster/node.sh");
    let manifest = workspace.root.join("deploy/lastcall.yaml");
    let variables = [
        ("LASTCALL_E2E_DIR", home.as_os_str()),
        ("LASTCALL_E2E_NODE", script.as_os_str()),
        ("LASTCALL_E2E_MANIFEST", manifest.as_os_str()),
    ];
    let mut driver = root::command(&driver.file, &variables);
    Err(Error::new(driver.args(arguments).exec()).context("cannot start the driver"))
}
