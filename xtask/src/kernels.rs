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
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use release::Release;

use self::{
    archive::Archives,
    checks::{Check, Outcome},
    fetch::Kernel,
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

/// Runs these checks on these kernels, or all on all.
pub(crate) fn run(
    workspace: &Workspace,
    releases: &[Release],
    only: &[String],
    json: Option<&Path>,
) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels are fetched and emulated for x86-64 alone");
    let started = Instant::now();
    apt::install_missing(&[&TOOLS[..], &NODE_TOOLS[..]].concat(), "the emulated kernels")?;
    ebpf::run(workspace, false)?;
    let programs = programs(workspace)?;
    let folder = workspace.target.join("kernels");
    fs::create_dir_all(&folder)?;
    let base = initrd::base(&folder, &programs)?;
    let mut archives = Archives::default();
    let (mut guests, mut rows) = (Vec::new(), Vec::new());
    for release in Release::ALL.into_iter().filter(|r| releases.is_empty() || releases.contains(r)) {
        let checks = checks::on(release, only);
        match Guest::prepare(release, &checks, &folder.join(release.name()), &base, &mut archives) {
            Ok(guest) => guests.push(guest),
            // One that cannot be had keeps the others from nothing.
            Err(e) => {
                println!("{:<7} FAILED: {e:#}", release.name());
                let bad = Outcome::Bad(format!("{e:#}"));
                rows.extend(
                    checks.iter().map(|c| Row::new((release.name(), ""), c.name, &bad, Duration::ZERO)),
                );
            }
        }
    }
    rows.extend(run_all(&guests)?);
    ensure!(!rows.is_empty(), "no such check; there are: {}", checks::names());
    rows.sort_by_key(|row| Release::ALL.iter().position(|r| r.name() == row.kernel));
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

/// Runs as many at a time as there are processors: a guest has one, and its clock does not mind the others.
fn run_all(guests: &[Guest]) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some(guest) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let of_guest = guest.run()?;
            rows.lock().unwrap_or_else(PoisonError::into_inner).extend(of_guest);
        }
        Ok(())
    };
    let at_a_time = thread::available_parallelism().map_or(2, |n| n.get()).min(guests.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| bail!("a worker panicked")))
    })?;
    Ok(rows.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A kernel, ready to start.
struct Guest {
    release: Release,
    checks: Vec<&'static Check>,
    kernel: Kernel,
    folder: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    fn prepare(
        release: Release,
        checks: &[&'static Check],
        folder: &Path,
        base: &Path,
        archives: &mut Archives,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let kernel = fetch::kernel(release, folder, archives)?;
        let initrd = folder.join("initrd");
        initrd::with_modules(base, &kernel.modules, &checks::script(checks), &initrd)?;
        println!("{:<7} is {}", release.name(), kernel.version);
        Ok(Self { release, checks: checks.to_vec(), kernel, folder: folder.to_owned(), initrd })
    }

    /// A row for each check, also for those that it did not come to.
    fn run(&self) -> Result<Vec<Row>> {
        let (checks, name) = (&self.checks, self.release.name());
        let shown = guest::run(&self.kernel, &self.initrd, &self.folder, checks, |number, shown| {
            let (word, found, said) = match &shown.outcome {
                Outcome::Good(found) => ("ok", found, ""),
                Outcome::Bad(found) => ("FAILED", found, shown.said.trim_end()),
            };
            let seconds = shown.took.as_secs_f32();
            // One call, so that the words of two guests do not mix.
            let gap = if said.is_empty() { "" } else { "\n" };
            println!("{name:<7} {:<16} {word:<6} {seconds:>6.1} s  {found}{gap}{said}", checks[number].name);
        })?;
        fs::remove_file(&self.initrd)?;
        let kernel = (name, self.kernel.version.as_str());
        let mut rows: Vec<Row> =
            checks.iter().zip(&shown).map(|(c, s)| Row::new(kernel, c.name, &s.outcome, s.took)).collect();
        let why = format!("not reached, see {}", self.folder.join("console").display());
        for check in &checks[rows.len()..] {
            rows.push(Row::new(kernel, check.name, &Outcome::Bad(why.clone()), Duration::ZERO));
        }
        Ok(rows)
    }
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
const TESTS: [(&str, &str); 7] = [
    ("lastcall-agent", "packets"),
    ("lastcall-tests", "nobody_home"),
    ("lastcall-tests", "kernel"),
    ("lastcall-tests", "last_call"),
    ("lastcall-tests", "last_call_http2"),
    ("lastcall-tests", "last_call_busy"),
    ("lastcall-tests", "last_call_large"),
];
