//! The agent as one static file that runs in an empty image.
//!
//! Built for musl: glibc, linked statically, loads its resolver from files that an empty image does not
//! have, and ends the process where it does not find them.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    apt,
    build::build as cargo_build,
    child::{self, answer},
    paths::Paths,
    workspace::Workspace,
};

/// What the agent is built for, and with.
pub(crate) struct Target {
    /// `x86_64-unknown-linux-musl`, …
    pub triple: String,
    /// The compiler's version and commit: its standard library is part of the agent.
    pub rustc: String,
    sysroot: PathBuf,
}

impl Target {
    /// The musl target of this machine's processor; what is missing is installed, and said.
    pub(crate) fn find_or_install() -> Result<Self> {
        let triple = format!("{}-unknown-linux-musl", env::consts::ARCH);
        let said = answer(Command::new("rustc").arg("-vV")).context("there is no rustc")?;
        let field = |name| said.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
        let sysroot =
            answer(Command::new("rustc").args(["--print", "sysroot"])).context("rustc has no sysroot")?;
        let target = Self {
            rustc: field("release: ").context("rustc does not tell its version")?,
            sysroot: PathBuf::from(sysroot.trim()),
            triple,
        };
        if !target.sysroot.join("lib/rustlib").join(&target.triple).join("lib").is_dir() {
            let remedy =
                format!("the image's agent is built for {}, which this compiler lacks", target.triple);
            ensure!(child::on_path("rustup").is_some(), "{remedy}, and there is no rustup to add it");
            eprintln!("adding {} by rustup", target.triple);
            let mut rustup = Command::new("rustup");
            rustup.args(["target", "add", &target.triple]);
            child::fetched("rustup", || child::run(&mut rustup, Duration::from_secs(300))).context(remedy)?;
        }
        // For ring, which is C in part.
        apt::install_missing(&[("musl-gcc", "musl-tools")], "the C in a static agent")?;
        Ok(target)
    }
}

/// Builds the agent; makes sure that it needs nothing but the kernel.
pub(crate) fn build(workspace: &Workspace, target: &Target) -> Result<Vec<u8>> {
    // The registry's sources have to lie there before their paths can be replaced.
    let mut fetch = workspace.cargo();
    fetch.args(["fetch", "--locked", "--quiet"]);
    child::fetched("cargo fetch", || child::run(&mut fetch, Duration::from_secs(600)))?;
    let paths = Paths::of(workspace, Some(&target.sysroot))?;
    // Names of functions stay, for the traces of a panic; lines are a third of the file.
    let mut flags = vec!["-Cstrip=debuginfo".to_owned(), "-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(paths.rustc());
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--locked", "--release", "--package", "lastcall-agent", "--bin", "lastcall"])
        // Which is stripped, and takes its time to make.
        .args(["--config", "profile.release.debug=false"])
        .args(["--target", &target.triple, "--target-dir"])
        .arg(workspace.target.join("image/build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_INCREMENTAL", "0")
        .env(format!("CFLAGS_{}", target.triple.replace('-', "_")), paths.cc());
    let built = cargo_build(&mut cargo)?;
    let Some(agent) = built.iter().find(|b| b.kind == "bin" && b.name == "lastcall") else {
        bail!("the workspace has no program `lastcall`");
    };
    let bytes = fs::read(&agent.file).with_context(|| format!("cannot read {}", agent.file.display()))?;
    if let Some(interpreter) = interpreter(&bytes)? {
        bail!("{} is not static: it wants {interpreter}", agent.file.display());
    }
    if let Some(path) = paths.told_in(&bytes) {
        bail!("{} tells of {}, a path of this machine", agent.file.display(), path.display());
    }
    Ok(bytes)
}

/// The loader that a 64-bit ELF program asks for (`PT_INTERP`), if it does.
fn interpreter(elf: &[u8]) -> Result<Option<String>> {
    const PT_INTERP: usize = 3;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at + bytes)?;
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(field);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    let table = || -> Option<Option<String>> {
        ensure_elf(elf)?;
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for header in (0..count).map(|i| start + i * size) {
            if number(header, 4)? == PT_INTERP {
                let (at, length) = (number(header + 8, 8)?, number(header + 32, 8)?);
                return Some(Some(String::from_utf8_lossy(elf.get(at..at + length)?).into_owned()));
            }
        }
        Some(None)
    };
    table().context("the build's result is no 64-bit ELF program")
}

fn ensure_elf(elf: &[u8]) -> Option<()> {
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_known_by_its_loader() {
        let own = fs::read(env::current_exe().expect("we run from a file")).expect("it can be read");
        let loader = interpreter(&own).expect("we are ELF");
        assert!(loader.is_some_and(|l| l.contains("ld-")), "the tests are linked dynamically");
        assert!(interpreter(b"#!/bin/sh").is_err());
    }
}
