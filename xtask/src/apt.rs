//! Debian's packages, for what is missing and only with its name said first.

use std::{ffi::OsStr, process::Stdio, time::Duration};

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
    child::fetched("apt-get", || {
        // A failed update may still leave lists that are good enough: the installation decides.
        if let Err(e) = update() {
            eprintln!("{e:#}; going on with the lists that are there");
        }
        run(&[&["install", "--no-install-recommends"], packages].concat(), 900)
    })
}

/// For archives that have their moments, and for who else installs something now.
pub(crate) const PATIENTLY: [&str; 4] = ["-o", "Acquire::Retries=5", "-o", "DPkg::Lock::Timeout=300"];

/// A fresh look at what there is.
pub(crate) fn update() -> Result<()> {
    root::ensure_possible("reading the lists of packages")?;
    run(&["update"], 300)
}

fn run(arguments: &[&str], limit: u64) -> Result<()> {
    let quietly = [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))];
    let mut command = root::command("apt-get", &quietly);
    command.args(["-q", "-y"]).args(PATIENTLY).args(arguments);
    child::run(command.stdout(Stdio::null()), Duration::from_secs(limit))
}

/// Installs the packages of those programs that are not there, `(program, package)`.
pub(crate) fn install_missing(programs: &[(&str, &str)], why: &str) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| child::on_path(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages, why) }
}
