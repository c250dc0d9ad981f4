//! `cargo xtask kernels`: what is promised of Debian's kernels, tried on each of them, in QEMU without KVM.
//!
//! In: the workspace, and Debian's archive as the machine's own apt knows it. Out: a table of kernels and
//! checks; an error if one of them is bad.

mod archive;
mod checks;
mod fetch;
mod guest;
mod initrd;
mod modules;
mod release;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

pub(crate) use release::Release;

use self::{
    archive::Archives,
    checks::{CHECKS, Outcome},
    table::Row,
};
use crate::{
    apt,
    build::{Built, build},
    ebpf,
    tiers::NODE_TOOLS,
    workspace::Workspace,
};

/// What it takes beside the nodes' tools, and Debian's packages of it.
const TOOLS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("ldd", "libc-bin"),
    ("strip", "binutils"),
];
/// What the checks run, and what those start.
const BINARIES: [&str; 4] = ["lastcall", "lastcall-app", "lastcall-kubelet", "lastcall-load"];

/// Runs all checks on these kernels, or on all.
pub(crate) fn run(workspace: &Workspace, releases: &[Release], json: Option<&Path>) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels are fetched and emulated for x86-64 alone");
    let started = Instant::now();
    apt::install_missing(&[&TOOLS[..], &NODE_TOOLS[..]].concat(), "the emulated kernels")?;
    ebpf::run(workspace, false)?;
    let programs = programs(workspace)?;
    let folder = workspace.target.join("kernels");
    fs::create_dir_all(&folder)?;
    let base = initrd::base(&folder, &programs, &checks::script(CHECKS))?;
    let mut archives = Archives::default();
    let mut rows = Vec::new();
    for release in Release::ALL.into_iter().filter(|r| releases.is_empty() || releases.contains(r)) {
        rows.extend(on(release, &folder.join(release.name()), &base, &mut archives)?);
    }
    println!("\n{}", table::text(&rows));
    println!("{} checks in {:.0} s", rows.len(), started.elapsed().as_secs_f32());
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&rows)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let bad = rows.iter().filter(|r| !r.good).count();
    ensure!(bad == 0, "{bad} of {} checks are bad", rows.len());
    Ok(())
}

/// One kernel: a row for each check, also for those that it did not come to.
fn on(release: Release, folder: &Path, base: &Path, archives: &mut Archives) -> Result<Vec<Row>> {
    fs::create_dir_all(folder)?;
    let kernel = fetch::kernel(release, folder, archives)?;
    println!("\n== {} ({})", release.name(), kernel.version);
    let initrd = folder.join("initrd");
    initrd::with_modules(base, &kernel.modules, &initrd)?;
    let shown = guest::run(&kernel, &initrd, folder, CHECKS, |number, shown| {
        let (word, found) = match &shown.outcome {
            Outcome::Good(found) => ("ok", found),
            Outcome::Bad(found) => ("FAILED", found),
        };
        println!("{:<12} {word:<6} {:>6.1} s  {found}", CHECKS[number].name, shown.took.as_secs_f32());
        if matches!(shown.outcome, Outcome::Bad(_)) {
            println!("{}", shown.said.trim_end());
        }
    })?;
    fs::remove_file(initrd)?;
    let name = (release.name(), kernel.version.as_str());
    let mut rows: Vec<Row> =
        CHECKS.iter().zip(&shown).map(|(c, s)| Row::new(name, c.name, &s.outcome, s.took)).collect();
    let why = format!("not reached, see {}", folder.join("console").display());
    for check in &CHECKS[rows.len()..] {
        rows.push(Row::new(name, check.name, &Outcome::Bad(why.clone()), std::time::Duration::ZERO));
    }
    Ok(rows)
}

/// The programs to put into the guest, by the names that they have there.
fn programs(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let others = ["--workspace", "--exclude", "xtask"];
    let mut built = build(workspace.cargo().arg("build").args(others).arg("--bins"))?;
    let mut tests = workspace.cargo();
    tests.arg("test").arg("--no-run");
    for (package, test) in TESTS {
        tests.args(["--package", package, "--test", test]);
    }
    built.extend(build(&mut tests)?);
    let wanted = |b: &Built| {
        if b.test { TESTS.iter().any(|(_, t)| *t == b.name) } else { BINARIES.contains(&&*b.name) }
    };
    Ok(built.into_iter().filter(wanted).map(|b| (b.name, b.file)).collect())
}

/// Test programs that the checks run, with their packages.
const TESTS: [(&str, &str); 4] = [
    ("lastcall-agent", "packets"),
    ("lastcall-tests", "nobody_home"),
    ("lastcall-tests", "kernel"),
    ("lastcall-tests", "last_call"),
];
