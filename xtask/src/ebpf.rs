//! `cargo xtask ebpf`: the kernel object, at `target/ebpf/lastcall-ebpf`.
//!
//! In: `agent-ebpf`. Out: the object, and beside it a stamp by which the agent's build knows whether
//! the object is older than its sources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    btf, child,
    kernel_object::{self, NAME, PREBUILT, State},
    linker,
    paths::Paths,
    toolchain::Toolchain,
    workspace::Workspace,
};

/// Makes the object if there is none for these sources; says what it does.
pub(crate) fn run(workspace: &Workspace, force: bool) -> Result<PathBuf> {
    let directory = kernel_object::directory(&workspace.target);
    let object = directory.join(NAME);
    // Before the build: what is edited meanwhile makes the result stale, as it should.
    let inputs = kernel_object::inputs_hash(&workspace.root).context("cannot read agent-ebpf's sources")?;
    let state = if force { State::Missing } else { kernel_object::state(&directory, inputs) };
    if let Some(from) = env::var_os(PREBUILT) {
        return prebuilt(Path::new(&from), &directory, inputs).map(|()| object);
    }
    match state {
        State::Fresh(maker) if !maker.starts_with(PREBUILT) => {
            eprintln!("the kernel object is up to date: {}", object.display());
            return Ok(object);
        }
        _ => {}
    }
    let started = Instant::now();
    let toolchain = Toolchain::find_or_install()?;
    let tools = directory.join("tools");
    fs::create_dir_all(&tools)?;
    let built = build(workspace, &toolchain, &directory, &tools)?;
    let mut bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    btf::settle(&mut bytes)?;
    put(&directory, inputs, &bytes, &toolchain.rustc)?;
    eprintln!(
        "built the kernel object with {} in {:.0} s: {}",
        toolchain.rustc,
        started.elapsed().as_secs_f32(),
        object.display()
    );
    Ok(object)
}

fn prebuilt(from: &Path, directory: &Path, inputs: u64) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {PREBUILT}={}", from.display()))?;
    if let Some(why) = kernel_object::refuse(&bytes) {
        bail!("{PREBUILT}={} is no kernel object: {why}", from.display());
    }
    put(directory, inputs, &bytes, &format!("{PREBUILT}={}", from.display()))?;
    eprintln!("took the kernel object from {}", from.display());
    Ok(())
}

/// Builds with the linker at hand; if that one cannot link, with one made for the compiler.
fn build(workspace: &Workspace, toolchain: &Toolchain, directory: &Path, tools: &Path) -> Result<PathBuf> {
    eprintln!("building the kernel object with {}", toolchain.rustc);
    if let Some(linker) = linker::made_for(toolchain, tools) {
        return match try_build(workspace, toolchain, &linker, directory)? {
            Built::Yes(object) => Ok(object),
            Built::No | Built::NotLinked => bail!("agent-ebpf does not build, see above"),
        };
    }
    if let Some(linker) = linker::on_path() {
        match try_build(workspace, toolchain, &linker, directory)? {
            Built::Yes(object) => return Ok(object),
            Built::No => bail!("agent-ebpf does not build, see above"),
            Built::NotLinked => eprintln!(
                "{} does not link for {} (LLVM {})",
                linker.display(),
                toolchain.rustc,
                toolchain.llvm
            ),
        }
    }
    let linker = linker::install(toolchain, tools)?;
    match try_build(workspace, toolchain, &linker, directory)? {
        Built::Yes(object) => Ok(object),
        Built::No | Built::NotLinked => bail!("agent-ebpf does not build, see above"),
    }
}

enum Built {
    Yes(PathBuf),
    No,
    /// Compiled, but the linker failed: perhaps its LLVM is older than the compiler's.
    NotLinked,
}

fn try_build(workspace: &Workspace, toolchain: &Toolchain, linker: &Path, directory: &Path) -> Result<Built> {
    let target = if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };
    let build = directory.join("build");
    // BTF is what maps, aya-log and the verifier's messages live on; it is made of debug information.
    let mut flags =
        vec![format!("-Clinker={}", linker.display()), "-Clink-arg=--btf".into(), "-Cdebuginfo=2".into()];
    flags.extend(Paths::of(workspace, None)?.rustc());
    let flags = flags.join("\x1f");
    let mut command = toolchain.cargo()?;
    command
        .args(["build", "--locked", "--release", "--package", NAME, "--bin", NAME])
        .args(["--target", target, "-Z", "build-std=core", "--color", child::colour()])
        .arg("--target-dir")
        .arg(&build)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .current_dir(&workspace.root);
    let built = child::run_watched(&mut command, child::Stream::Err, Duration::from_secs(1800))?;
    if built.status.is_some_and(|s| s.success()) {
        return Ok(Built::Yes(build.join(target).join("release").join(NAME)));
    }
    Ok(if built.said.contains("linking with `") { Built::NotLinked } else { Built::No })
}

/// Object first, stamp last: an interrupted run leaves no stamp that lies.
fn put(directory: &Path, inputs: u64, object: &[u8], maker: &str) -> Result<()> {
    if let Some(why) = kernel_object::refuse(object) {
        bail!("the build's result is no kernel object: {why}");
    }
    let stamp = kernel_object::stamp_path(directory);
    let text = format!("{}\n{maker}\n", kernel_object::hashes_line(inputs, object));
    let file = directory.join(NAME);
    // An unchanged file keeps its time, so that cargo does not build the agent again.
    if fs::read(&file).is_ok_and(|old| old == object)
        && fs::read(&stamp).is_ok_and(|old| old == text.as_bytes())
    {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    let _ = fs::remove_file(&stamp);
    let new = directory.join(format!("{NAME}.new"));
    fs::write(&new, object)?;
    fs::rename(&new, &file)?;
    fs::write(&stamp, text).with_context(|| format!("cannot write {}", stamp.display()))
}
