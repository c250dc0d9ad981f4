//! What an emulated kernel starts from: an archive of files in memory, its only file system.
//!
//! In: programs of the machine and of the workspace. Out: cpio archives, which the kernel unpacks one behind
//! the other.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::child;

/// The first process.
const INIT: &str = include_str!("../../../tests/kernels/init");
/// What nodes are built with, and what tells of them when a test fails.
const MACHINES_PROGRAMS: [&str; 5] = ["ip", "tc", "ss", "nft", "conntrack"];
/// Places where file systems are mounted, and the first process's folders.
const FOLDERS: [&str; 9] = ["bin", "dev", "proc", "sys", "tmp", "run", "root", "usr/sbin", "programs"];

/// What is the same for all kernels: the programs, with the libraries of those that are not static.
pub(crate) fn base(folder: &Path, programs: &[(String, PathBuf)]) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for inner in FOLDERS {
        fs::create_dir_all(root.join(inner))?;
    }
    let busybox = child::on_path("busybox").context("there is no busybox")?;
    install(&root, &busybox, "bin/busybox")?;
    for name in MACHINES_PROGRAMS {
        let program = child::on_path(name).with_context(|| format!("there is no {name}"))?;
        install(&root, &program, &format!("usr/sbin/{name}"))?;
    }
    for (name, file) in programs {
        let to = format!("programs/{name}");
        install(&root, file, &to)?;
        // What the compiler says of them for debuggers is most of their size.
        child::run(Command::new("strip").arg("--strip-debug").arg(root.join(to)), Duration::from_secs(120))?;
    }
    fs::write(root.join("init"), INIT)?;
    let mut executable = Command::new("chmod");
    child::run(executable.arg("+x").arg(root.join("init")), Duration::from_secs(60))?;
    pack(&root, ".", &folder.join("base.cpio"))
}

/// That archive with a kernel's own behind it: its modules, and the commands to run.
pub(crate) fn with_modules(base: &Path, modules: &Path, checks: &str, to: &Path) -> Result<()> {
    let folder = modules.parent().context("the modules have no folder")?;
    fs::write(folder.join("checks"), checks)?;
    let archives = [
        pack(folder, "modules", &folder.join("modules.cpio"))?,
        pack(folder, "checks", &folder.join("checks.cpio"))?,
    ];
    let mut whole = File::create(to)?;
    for part in [base, &archives[0], &archives[1]] {
        std::io::copy(&mut File::open(part)?, &mut whole)?;
    }
    archives.iter().try_for_each(fs::remove_file).context("remove the archives' parts")
}

/// Copies a program, and the libraries that it needs to where it looks for them.
fn install(root: &Path, program: &Path, to: &str) -> Result<()> {
    let target = root.join(to);
    fs::copy(program, &target).with_context(|| format!("copy {}", program.display()))?;
    // A static program has none, and says so by failing.
    let libraries = child::answer(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        if !target.exists() {
            fs::create_dir_all(target.parent().context("a library is in a folder")?)?;
            fs::copy(library, &target).with_context(|| format!("copy {library}"))?;
        }
    }
    Ok(())
}

/// Packs `what` below `folder` as an archive of the form that kernels read.
fn pack(folder: &Path, what: &str, to: &Path) -> Result<PathBuf> {
    let list = child::answer(Command::new("find").arg(what).current_dir(folder)).context("list the files")?;
    ensure!(!list.is_empty(), "there is nothing to pack in {}", folder.display());
    let names = to.with_extension("names");
    fs::write(&names, list)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"]).current_dir(folder);
    cpio.stdin(File::open(&names)?).stdout(File::create(to)?).stderr(Stdio::inherit());
    child::run(&mut cpio, Duration::from_secs(300))?;
    fs::remove_file(names)?;
    Ok(to.to_owned())
}
