//! Debian's packages, for what is missing and only with its name said first.

use std::{process::Stdio, time::Duration};

use anyhow::{Result, ensure};

use crate::{child, root};

/// Whether this machine has Debian's package manager.
pub(crate) fn exists() -> bool {
    child::on_path("apt-get").is_some()
}

/// Installs packages, after a fresh look at what there is.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    ensure!(exists(), "{why} needs {}, and there is no apt-get to install it", packages.join(" "));
    root::ensure_possible("installing packages")?;
    eprintln!("installing {} by apt-get, for {why}", packages.join(" "));
    let apt = |arguments: &[&str], limit| {
        let mut command = root::command("env", false);
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]).args(arguments);
        child::run(command.stdout(Stdio::null()), Duration::from_secs(limit))
    };
    // A failed update may still leave lists that are good enough: the installation decides.
    if let Err(e) = apt(&["update"], 180) {
        eprintln!("{e:#}; going on with the lists that are there");
    }
    apt(&[&["install", "--no-install-recommends"], packages].concat(), 900)
}
