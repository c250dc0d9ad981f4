//! Puts the kernel object where the agent embeds it from: `OUT_DIR/lastcall-ebpf`.
//!
//! The object needs another compiler target and a linker of its own; `cargo xtask ebpf` sees to both.
//! This script only takes the result, and refuses one that is older than its sources.

#[path = "../xtask/src/kernel_object.rs"]
mod kernel_object;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use kernel_object::{NAME, PREBUILT, State, directory, inputs, inputs_hash, refuse, stamp_path, state};

const REMEDY: &str = "the kernel object is missing (or older than agent-ebpf/src): \
                      run `cargo xtask ebpf` first";

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../xtask/src/kernel_object.rs");
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    // Documentation needs the types, not the bytes, and docs.rs has no eBPF toolchain.
    if env::var_os("DOCS_RS").is_some() {
        return fs::write(out.join(NAME), []);
    }
    if let Some(object) = env::var_os(PREBUILT) {
        let object = PathBuf::from(object);
        println!("cargo::rerun-if-changed={}", object.display());
        match fs::read(&object).map(|bytes| refuse(&bytes)) {
            Err(e) => println!("cargo::error={PREBUILT}={}: {e}", object.display()),
            Ok(Some(why)) => println!("cargo::error={PREBUILT}={}: {why}", object.display()),
            Ok(None) => copy(&object, &out)?,
        }
        return Ok(());
    }
    // Asked when it runs, not when it was compiled: a checkout may have been copied with its target directory.
    let workspace = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    for input in inputs(&workspace) {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    // The target directory is not told to build scripts; it is one of OUT_DIR's ancestors, unless
    // build and target directories are apart.
    let targets = out.ancestors().map(Path::to_owned).chain([workspace.join("target")]);
    let hash = inputs_hash(&workspace)?;
    for place in targets.map(|t| directory(&t)).filter(|d| stamp_path(d).exists()) {
        println!("cargo::rerun-if-changed={}", place.join(NAME).display());
        println!("cargo::rerun-if-changed={}", stamp_path(&place).display());
        if let State::Fresh(_) = state(&place, hash) {
            return copy(&place.join(NAME), &out);
        }
    }
    println!("cargo::error={REMEDY}");
    Ok(())
}

fn copy(object: &Path, out: &Path) -> io::Result<()> {
    fs::copy(object, out.join(NAME)).map(drop)
}
