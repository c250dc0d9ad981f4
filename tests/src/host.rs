//! The namespaces of a node, and how processes are started in them.
//!
//! A thread owns the node's network and mount namespaces and starts all of its processes. They die with
//! it (`PR_SET_PDEATHSIG`), and the namespaces, with every link, mount, pin and rule in them, go when the
//! last process has gone. So there is nothing to undo, and nothing to forget.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{io, panic};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cgroup::{self, Cgroup};
use crate::netns::Netns;
use crate::process::Process;

/// Environment variable that marks every process of a node with the node's name.
pub const MARK: &str = "LASTCALL_TEST_NODE";
/// Where a node has its pods' network namespaces, as containerd does.
pub const NETNS_DIR: &str = "/run/netns";
/// Where a node has the manifests that the agent watches.
pub const MANIFESTS_DIR: &str = "/run/lastcall/manifests";
/// Where a node has its own bpffs.
pub const BPF_DIR: &str = "/run/lastcall/bpf";

/// A machine made of namespaces: no bridge, no pods yet.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    root: PathBuf,
    // Declared before the cgroup: processes are told to end first, the cgroup goes last.
    starter: Mutex<Option<Starter>>,
    cgroup: Cgroup,
}

#[derive(Debug)]
struct Starter {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

impl Host {
    /// Makes the namespaces and the cgroup. Needs root.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let cgroup = Cgroup::new(&name)?;
        let (jobs, inbox) = channel();
        let (reply, made) = channel();
        let netns = Netns::new()?;
        let inside = netns.clone();
        let thread = thread::Builder::new().name(format!("node-{name}")).spawn(move || {
            let root = move_in(&inside);
            let ready = root.is_ok();
            if reply.send(root).is_ok() && ready {
                start_processes(&inbox);
            }
        })?;
        let root = made.recv().context("the node's thread died")??;
        Ok(Self { name, netns, root, cgroup, starter: Mutex::new(Some(Starter { jobs, thread })) })
    }

    /// Unique on this machine while the process lives.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's own network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node's cgroup, which is "the root" to an agent that is tested here.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// `path` as the node's processes see it, in a form that works from outside too.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Binds `netns` to a name in the node's [`NETNS_DIR`], as a container runtime does.
    pub fn publish(&self, netns: &Netns, name: &str) -> Result<()> {
        let target = self.outside(&format!("{NETNS_DIR}/{name}"));
        File::create(&target)?;
        self.in_mounts(|| {
            mount(
                Some(netns.path().as_str()),
                &inside_path(name),
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        })?
        .with_context(|| format!("bind {} to {}", netns.path(), target.display()))
    }

    /// Takes a name out of [`NETNS_DIR`] again.
    pub fn unpublish(&self, name: &str) -> Result<()> {
        self.in_mounts(|| nix::mount::umount2(&inside_path(name), nix::mount::MntFlags::MNT_DETACH))??;
        Ok(fs::remove_file(self.outside(&format!("{NETNS_DIR}/{name}")))?)
    }

    /// Starts `command` in the node's mount namespace, in `netns`, and in the cgroup `cgroup` below the
    /// node's own.
    pub fn start(&self, mut command: Command, netns: &Netns, cgroup: &str) -> Result<Process> {
        let procs = cgroup::procs(&self.cgroup.child(cgroup)?)?;
        let (netns, fd) = (netns.clone(), procs.as_raw_fd());
        let what = format!("{command:?}");
        command.env(MARK, &self.name);
        // SAFETY: between fork and exec the closure makes four system calls and allocates nothing; the
        // descriptors it uses are owned by it or by `procs`, which lives until the child was started.
        unsafe { command.pre_exec(move || prepare(netns.raw_fd(), fd)) };
        let (reply, started) = channel();
        {
            let starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
            let starter = starter.as_ref().context("the node is gone")?;
            starter.jobs.send(Job { command, reply }).ok().context("the node's thread is gone")?;
        }
        let child =
            started.recv().context("the node's thread is gone")?.with_context(|| format!("start {what}"))?;
        drop(procs);
        Process::new(child)
    }

    /// Runs `f` on a fresh thread in the node's mount namespace.
    fn in_mounts<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let mounts = File::open(self.root.with_file_name("ns/mnt"))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                // A thread that shares its root directory with others may not change its mounts.
                unshare(CloneFlags::CLONE_FS)?;
                nix::sched::setns(&mounts, CloneFlags::CLONE_NEWNS)?;
                Ok(f())
            });
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let starter = self.starter.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Starter { jobs, thread }) = starter {
            drop(jobs);
            let _ = thread.join();
        }
    }
}

fn inside_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Moves the calling thread into the node's network namespace and into mounts of its own: a fresh `/run`
/// with the directories of a node, and a bpffs. Returns the path of that tree for others.
fn move_in(netns: &Netns) -> Result<PathBuf> {
    nix::sched::setns(std::os::fd::AsFd::as_fd(&File::open(netns.path())?), CloneFlags::CLONE_NEWNET)?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mounts")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make the mounts private")?;
    mount(Some("node"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mount /run")?;
    for dir in [NETNS_DIR, MANIFESTS_DIR, BPF_DIR] {
        fs::create_dir_all(dir)?;
    }
    mount(Some("bpf"), BPF_DIR, Some("bpf"), MsFlags::empty(), none).context("mount a bpffs")?;
    Ok(PathBuf::from(format!("/proc/{}/task/{}/root", process::id(), nix::unistd::gettid())))
}

fn start_processes(inbox: &Receiver<Job>) {
    for mut job in inbox {
        let _ = job.reply.send(job.command.spawn());
    }
}

/// In the child, before it executes: die with the thread that started us, move house.
fn prepare(netns: RawFd, procs: RawFd) -> io::Result<()> {
    // SAFETY: system calls with plain values, and a static buffer of the given length.
    let done = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::write(procs, c"0".as_ptr().cast(), 1) == 1
            && libc::setns(netns, libc::CLONE_NEWNET) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
