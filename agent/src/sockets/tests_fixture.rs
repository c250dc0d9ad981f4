//! A node of one's own: a directory of namespaces that exist for one test.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};
use tempfile::TempDir;

/// Where a kernel or a machine at work has had time enough, and then some.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the test can run. Says so where not, past libtest, which hides the output of tests that
/// pass.
pub(super) fn can_run(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        writeln!(io::stderr(), "SKIPPED: {test}: making network namespaces takes root").unwrap();
    }
    root
}

/// Returns from the test, loudly, where it is not run by root.
macro_rules! needs_root {
    () => {
        if !crate::sockets::tests_fixture::can_run(std::any::type_name_of_val(&|| ())) {
            return;
        }
    };
}
pub(super) use needs_root;

/// Waits for what should come by itself.
pub(super) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, event).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Held while a program is started: until it runs it has all descriptors of this process, and what another test
/// closes meanwhile stays open.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a program, the way for all tests that do.
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut its, ours) = io::pipe()?;
    let child = command.spawn()?;
    drop(ours);
    // The kernel lets us go on before it closes what the program must not have (`begin_new_exec`, fs/exec.c).
    its.read_to_end(&mut Vec::new())?;
    Ok(child)
}

/// Closes what has to be closed when this returns.
pub(crate) fn close<T>(open: T) {
    let _nobody_starts = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(open);
}

/// A directory as container runtimes keep it.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        Self(TempDir::with_prefix("lc-sockets-").unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new namespace, with loopback up.
    pub(super) fn pod(&self, name: &str) -> Pod {
        Pod::new(self.path().join(name))
    }
}

/// A network namespace bound to a file, until it is dropped.
pub(super) struct Pod {
    pub(super) path: PathBuf,
}

impl Pod {
    pub(super) fn new(path: PathBuf) -> Self {
        File::create(&path).unwrap();
        let pod = Self { path };
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let none = None::<&str>;
                mount(Some("/proc/thread-self/ns/net"), &pod.path, none, MsFlags::MS_BIND, none).unwrap();
            });
            made.join().unwrap();
        });
        pod.ip("link set lo up");
        pod
    }

    /// Runs `f` on a thread inside. Sockets that it returns stay inside.
    pub(super) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(&self.path).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            thread.join().unwrap()
        })
    }

    /// `ip` with these arguments, inside.
    pub(super) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// A command with arguments that have no spaces in them, inside.
    pub(super) fn run(&self, command: &str, arguments: &str) -> String {
        let mut program = Command::new(command);
        program.args(arguments.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.inside(|| start(&mut program).unwrap()).wait_with_output().unwrap();
        assert!(output.status.success(), "{command} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Lends `eth0` to the pod, whose other end is `peer` in the same namespace.
    pub(super) fn add_eth0(&self, addresses: &[&str]) {
        self.ip("link add eth0 type veth peer name peer");
        self.ip("link set eth0 up");
        self.ip("link set peer up");
        for address in addresses {
            let no_dad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address add {address} dev eth0{no_dad}"));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Both fail where the test has taken the namespace away itself.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}
