//! One cgroup per node, with the kubelet, the agent and the pods below it, as on a real machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result};

/// What the names of all cgroups made here start with; the process id follows.
pub const PREFIX: &str = "lastcall-test-";

/// Where the machine has cgroup2: `/sys/fs/cgroup`, or below it on hybrid ones.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1)).map(PathBuf::from).context("no cgroup2 is mounted")
}

/// A cgroup that kills what is still in it, and is removed, when its handle goes away.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `lastcall-test-<suffix>` below the cgroup2 root.
    pub fn new(suffix: &str) -> Result<Self> {
        start_reaper();
        let path = mount_point()?.join(format!("{PREFIX}{suffix}"));
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes (or finds) a cgroup below this one, such as `kubelet` or `pods/web-0`.
    pub fn child(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cgroup {} stays behind: {error}", self.path.display());
        }
    }
}

/// The file through which a process moves itself into `cgroup` by writing "0".
pub fn procs(cgroup: &Path) -> Result<File> {
    let path = cgroup.join("cgroup.procs");
    File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))
}

/// Kills everything in `cgroup` and removes it with all below. Dying processes leave late, hence the retry.
fn remove(cgroup: &Path) -> io::Result<()> {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match remove_tree(cgroup) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Cgroups are the one thing here that outlives a process. A shell in a session of its own waits for the
/// end of a pipe that closes with this process, even at `kill -9` and Ctrl-C, and removes them then.
fn start_reaper() {
    static REAPER: LazyLock<Mutex<Option<ChildStdin>>> = LazyLock::new(|| Mutex::new(None));
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    if reaper.is_some() {
        return;
    }
    let Ok(root) = mount_point() else { return };
    let script = r#"
        cat >/dev/null
        for cgroup in "$0"*; do [ -d "$cgroup" ] && echo 1 >"$cgroup/cgroup.kill"; done
        for _ in $(seq 150); do
            for cgroup in "$0"*; do [ -d "$cgroup" ] || exit; done
            find "$0"* -depth -type d -exec rmdir {} + && exit
            sleep 0.2
        done"#;
    let started = Command::new("setsid")
        .args(["sh", "-c", script])
        .arg(root.join(format!("{PREFIX}{}-", process::id())))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(mut child) => *reaper = child.stdin.take(),
        Err(error) => drop(writeln!(io::stderr(), "no reaper for cgroups: {error}")),
    }
}
