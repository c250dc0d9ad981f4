//! The cluster's life: up, down, and whether it is there.
//!
//! Several may run side by side, each with its number. A cluster's namespaces are held by one process, their
//! init. It holds the lock file too, so the lock is taken for exactly as long as there is a cluster, whoever
//! started it and however that one ended. When the init is killed, the kernel ends every process of its PID
//! namespace; mounts, interfaces, rules and pinned programs go with the other namespaces. Only cgroups have to
//! be removed by hand.

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

/// A boot takes 10 s on an idle machine; a loaded one is given a lot more.
const BOOT: Duration = Duration::from_secs(600);

/// The init of this cluster, if it runs on this machine.
pub(crate) fn init(home: &Home) -> Result<Option<Pid>> {
    let lock = home.lock();
    let Ok(mut file) = File::open(&lock) else { return Ok(None) };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let pid = text
                .trim()
                .parse()
                .with_context(|| format!("{} says {text:?}: a cluster is just starting", lock.display()))?;
            Ok(Some(Pid::from_raw(pid)))
        }
        Err(TryLockError::Error(error)) => Err(error).context(lock.display().to_string()),
    }
}

/// Fails if a cluster runs.
pub(crate) fn ensure_none(home: &Home) -> Result<()> {
    ensure!(init(home)?.is_none(), "a cluster runs already on this machine: `cargo xtask e2e down` ends it");
    Ok(())
}

/// Boots clusters, side by side.
pub(crate) fn up(homes: &[Home], script: &Path, proxy_mode: &str) -> Result<()> {
    // One after the other: a process that is started meanwhile would take the lock with it.
    let inits = homes.iter().map(|home| claim(home, script, proxy_mode)).collect::<Result<Vec<Pid>>>()?;
    thread::scope(|scope| {
        let boots: Vec<_> =
            homes.iter().zip(inits).map(|(home, init)| scope.spawn(move || boot(home, init))).collect();
        let booted: Vec<Result<()>> = boots
            .into_iter()
            .map(|boot| boot.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            .collect();
        booted.into_iter().collect()
    })
}

/// Takes the lock, and starts the init that holds it from then on.
fn claim(home: &Home, script: &Path, proxy_mode: &str) -> Result<Pid> {
    let path = home.lock();
    let said = || path.display().to_string();
    let mut lock =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).with_context(said)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("a cluster runs already on this machine: `cargo xtask e2e down` ends it")
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(said),
    }
    lock.set_len(0)?;
    sweep(home);
    let node = home.node();
    if node.exists() {
        fs::remove_dir_all(&node).with_context(|| format!("remove {}", node.display()))?;
    }
    fs::create_dir_all(node.join("log"))?;
    fs::write(node.join("proxy-mode"), proxy_mode)?;
    fs::write(node.join("cgroup"), home.cgroup())?;
    fs::copy(script, node.join("node.sh")).with_context(|| script.display().to_string())?;
    let init = hold(home, &lock)?;
    lock.rewind()?;
    writeln!(lock, "{init}")?;
    Ok(init)
}

/// Makes a node of the init's namespaces.
fn boot(home: &Home, init: Pid) -> Result<()> {
    let node = home.node();
    let mut command = enter(init, &["--pid", "--mount", "--net", "--uts", "--ipc"]);
    command.arg("bash").arg(node.join("node.sh")).arg("boot");
    command.env("E2E", home.root()).env("E2E_NODE", home.label());
    if let Err(error) = run(&mut command, BOOT) {
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
    let until = Instant::now() + Duration::from_secs(60);
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
    if let Some(init) = init(home)? {
        let exe = fs::read_link(format!("/proc/{init}/exe")).unwrap_or_default();
        ensure!(exe.ends_with("pause"), "process {init} is not the cluster's init but {}", exe.display());
        let gone = pidfd_open(init.as_raw() as u32)?;
        kill(init, Signal::SIGKILL).with_context(|| format!("kill {init}"))?;
        ensure!(wait_for_exit(&gone, Duration::from_secs(60)), "process {init} does not end");
        // The init's parent has the lock too, and a moment longer.
        let until = Instant::now() + Duration::from_secs(60);
        while File::open(home.lock())?.try_lock_shared().is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
    sweep(home);
    if !keep && home.node().exists() {
        fs::remove_dir_all(home.node()).with_context(|| format!("remove {}", home.node().display()))?;
    }
    let left = leftovers(home);
    ensure!(left.is_empty(), "left on this machine: {}", left.join(", "));
    Ok(())
}

/// Removes our cgroups. Their last processes are being reaped, which takes a moment.
fn sweep(home: &Home) {
    let until = Instant::now() + Duration::from_secs(60);
    while folders(home).iter().any(|folder| !removed(folder)) && Instant::now() < until {
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

/// Its folders in the cgroup hierarchies.
fn folders(home: &Home) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| Path::new(place).join(home.cgroup()))
    });
    mounts.filter(|folder| folder.exists()).collect()
}

/// What a cluster that has ended left on the machine.
pub(crate) fn leftovers(home: &Home) -> Vec<String> {
    folders(home).iter().map(|folder| format!("cgroup {}", folder.display())).collect()
}

/// What commands in the cluster find in their environment: its programs and its administrator's rights.
pub(crate) fn surroundings(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{INSIDE}/bin:{path}:/usr/sbin:/sbin"));
    command.env("HOME", format!("{INSIDE}/node/home"));
    command.env("KUBECONFIG", format!("{INSIDE}/node/pki/admin.kubeconfig"));
    command.env("CONTAINERD_NAMESPACE", "k8s.io");
}
