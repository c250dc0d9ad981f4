//! The cluster's life: up, down, and whether it is there.
//!
//! Its namespaces are held by one process, their init. It holds the lock file too, so the lock is taken
//! for exactly as long as there is a cluster, whoever started it and however that one ended. When the
//! init is killed, the kernel ends every process of its PID namespace; mounts, interfaces, rules and
//! pinned programs go with the other namespaces. Only cgroups have to be removed by hand.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lastcall_tests::process::{pidfd_open, wait_for_exit};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::home::{Home, INSIDE};
use crate::run::run;

/// One cluster at a time on a machine: its cgroups have fixed names.
const LOCK: &str = "/run/lock/lastcall-e2e.lock";
/// Its folder in each of the machine's cgroup hierarchies.
const CGROUP: &str = "lastcall-e2e";
/// A boot takes 10 s on an idle machine; a loaded one is given a lot more.
const BOOT: Duration = Duration::from_secs(300);

/// The init of the cluster that runs on this machine, if there is one.
pub(crate) fn init() -> Result<Option<Pid>> {
    let Ok(mut file) = File::open(LOCK) else { return Ok(None) };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let pid = text
                .trim()
                .parse()
                .with_context(|| format!("{LOCK} says {text:?}: a cluster is just starting"))?;
            Ok(Some(Pid::from_raw(pid)))
        }
        Err(TryLockError::Error(error)) => Err(error).context(LOCK),
    }
}

/// Fails if a cluster runs.
pub(crate) fn ensure_none() -> Result<()> {
    ensure!(init()?.is_none(), "a cluster runs already on this machine: `cargo xtask e2e down` ends it");
    Ok(())
}

/// Boots a cluster.
pub(crate) fn up(home: &Home, script: &Path, proxy_mode: &str) -> Result<()> {
    let mut lock =
        File::options().create(true).truncate(false).read(true).write(true).open(LOCK).context(LOCK)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("a cluster runs already on this machine: `cargo xtask e2e down` ends it")
        }
        Err(TryLockError::Error(error)) => return Err(error).context(LOCK),
    }
    lock.set_len(0)?;
    sweep();
    let node = home.node();
    if node.exists() {
        fs::remove_dir_all(&node).with_context(|| format!("remove {}", node.display()))?;
    }
    fs::create_dir_all(node.join("log"))?;
    fs::write(node.join("proxy-mode"), proxy_mode)?;
    fs::copy(script, home.root().join("node.sh")).with_context(|| script.display().to_string())?;
    let init = hold(home, &lock)?;
    lock.rewind()?;
    writeln!(lock, "{init}")?;
    // From here on the init alone has the lock.
    drop(lock);
    let booted = {
        let mut command = enter(init, &["--pid", "--mount", "--net", "--uts", "--ipc"]);
        command.arg("bash").arg(home.root().join("node.sh")).arg("boot");
        command.env("E2E", home.root());
        run(&mut command, BOOT)
    };
    if let Err(error) = booted {
        down(home, true)?;
        return Err(error).with_context(|| {
            format!("the cluster does not come up; its logs are in {}", node.join("log").display())
        });
    }
    Ok(())
}

/// Starts the init: a process that does nothing, in namespaces of its own, with the lock in its hands.
fn hold(home: &Home, lock: &File) -> Result<Pid> {
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("hand the lock on")?;
    let log = File::create(home.log("init"))?;
    let mut command = Command::new("setsid");
    command.args([
        "unshare",
        "--pid",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--propagation",
        "private",
        "--fork",
    ]);
    command.arg(home.program("pause")).current_dir("/");
    let child =
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("run unshare")?;
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("keep the lock")?;
    // setsid becomes unshare, which has the init as its only child.
    let parent = child.id();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let text = fs::read_to_string(&children).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            let exe = fs::read_link(format!("/proc/{pid}/exe"));
            if exe.is_ok_and(|exe| exe.ends_with("pause")) {
                return Ok(Pid::from_raw(pid));
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("no namespaces: {}", fs::read_to_string(home.log("init")).unwrap_or_default().trim())
}

/// A command that goes on in the init's namespaces.
pub(crate) fn enter(init: Pid, namespaces: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string()]).args(namespaces).arg("--").current_dir("/");
    command
}

/// Ends the cluster; `keep` leaves its logs and data.
pub(crate) fn down(home: &Home, keep: bool) -> Result<()> {
    if let Some(init) = init()? {
        let exe = fs::read_link(format!("/proc/{init}/exe")).unwrap_or_default();
        ensure!(exe.ends_with("pause"), "process {init} is not the cluster's init but {}", exe.display());
        let gone = pidfd_open(init.as_raw() as u32)?;
        kill(init, Signal::SIGKILL).with_context(|| format!("kill {init}"))?;
        ensure!(wait_for_exit(&gone, Duration::from_secs(60)), "process {init} does not end");
        // The init's parent has the lock too, and a moment longer.
        let until = Instant::now() + Duration::from_secs(10);
        while File::open(LOCK)?.try_lock_shared().is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
    sweep();
    if !keep && home.node().exists() {
        fs::remove_dir_all(home.node()).with_context(|| format!("remove {}", home.node().display()))?;
    }
    let left = leftovers();
    ensure!(left.is_empty(), "left on this machine: {}", left.join(", "));
    Ok(())
}

/// Removes our cgroups. Their last processes are being reaped, which takes a moment.
fn sweep() {
    let until = Instant::now() + Duration::from_secs(20);
    while folders().iter().any(|folder| !removed(folder)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(100));
    }
}

fn removed(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}

/// Our folders in the cgroup hierarchies.
fn folders() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| Path::new(place).join(CGROUP))
    });
    mounts.filter(|folder| folder.exists()).collect()
}

/// What a cluster that has ended left on the machine.
pub(crate) fn leftovers() -> Vec<String> {
    folders().iter().map(|folder| format!("cgroup {}", folder.display())).collect()
}

/// What commands in the cluster find in their environment: its programs and its administrator's rights.
pub(crate) fn surroundings(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{INSIDE}/bin:{path}:/usr/sbin:/sbin"));
    command.env("HOME", format!("{INSIDE}/node/home"));
    command.env("KUBECONFIG", format!("{INSIDE}/node/pki/admin.kubeconfig"));
    command.env("CONTAINERD_NAMESPACE", "k8s.io");
}
