//! bpf-linker: found, or built for exactly the compiler that it has to go with.
//!
//! It reads the compiler's bitcode with an LLVM of its own, which must not be older than the
//! compiler's. So where one has to be built, it is linked with the library that the compiler itself
//! uses: no LLVM has to be installed, and the versions cannot differ.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{child, toolchain::Toolchain};

/// The version that is known to work, and the majors of LLVM that it knows.
const VERSION: (&str, std::ops::RangeInclusive<u32>) = ("0.13.0", 21..=23);

/// The linker that an earlier [`install`] made for this compiler.
pub(crate) fn made_for(toolchain: &Toolchain, tools: &Path) -> Option<PathBuf> {
    let file = tools.join(&toolchain.id).join("bin/bpf-linker");
    works(&file).then_some(file)
}

/// The user's own; whether it suits the compiler shows when it links.
pub(crate) fn on_path() -> Option<PathBuf> {
    child::on_path("bpf-linker").filter(|file| works(file))
}

/// Builds bpf-linker under `tools`, out of the way of any the user may have.
pub(crate) fn install(toolchain: &Toolchain, tools: &Path) -> Result<PathBuf> {
    let root = tools.join(&toolchain.id);
    let prefix = llvm_prefix(toolchain, &root)?;
    let feature = format!("llvm-{}", toolchain.llvm);
    let mut command = toolchain.cargo()?;
    command.args(["install", "bpf-linker", "--locked", "--force", "--no-default-features"]);
    command.args(["--features", &feature]);
    // An LLVM newer than our version knows: a newer bpf-linker may know it.
    let version = if VERSION.1.contains(&toolchain.llvm) {
        command.args(["--version", VERSION.0]);
        VERSION.0
    } else {
        "(the newest)"
    };
    command.arg("--root").arg(&root).env("LLVM_PREFIX", &prefix);
    command.env("CARGO_TARGET_DIR", tools.join("build")).current_dir(tools);
    eprintln!("installing bpf-linker {version} for {} into {}, about 90 s", toolchain.rustc, root.display());
    let started = Instant::now();
    child::run(command.arg("--quiet"), Duration::from_secs(900)).with_context(|| {
        format!(
            "cannot install bpf-linker: put one with LLVM {} on the PATH (its releases and \
             `cargo binstall bpf-linker` have it) and try again",
            toolchain.llvm
        )
    })?;
    // The artefacts are 200 MB that nobody needs again.
    let _ = fs::remove_dir_all(tools.join("build"));
    eprintln!("installed bpf-linker in {} s", started.elapsed().as_secs());
    made_for(toolchain, tools).context("the installed bpf-linker does not start")
}

/// A folder with the compiler's LLVM under the names that a build and a program look for.
fn llvm_prefix(toolchain: &Toolchain, root: &Path) -> Result<PathBuf> {
    fs::create_dir_all(root)?;
    let Some(library) = &toolchain.libllvm else {
        let installed = PathBuf::from(format!("/usr/lib/llvm-{}", toolchain.llvm));
        return match env::var_os("LLVM_PREFIX") {
            Some(prefix) => Ok(prefix.into()),
            None if installed.join("lib").exists() => Ok(installed),
            None => bail!(
                "{} has no shared LLVM to link bpf-linker with: install LLVM {} and set LLVM_PREFIX to it",
                toolchain.rustc,
                toolchain.llvm
            ),
        };
    };
    let lib = root.join("llvm/lib");
    let _ = fs::remove_dir_all(&lib);
    fs::create_dir_all(&lib)?;
    symlink(library, lib.join("libLLVM.so"))?;
    symlink(library, lib.join(library.file_name().context("a library has a name")?))?;
    Ok(root.join("llvm"))
}

fn works(file: &Path) -> bool {
    child::answer(child::without_our_cargo(Command::new(file).arg("--version"))).is_some()
}
