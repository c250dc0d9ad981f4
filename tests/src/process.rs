//! Child processes that end with their handle.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::journal::Journal;

/// A child that is killed and reaped when its handle goes away.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes charge of `child`.
    pub fn new(child: Child) -> Result<Self> {
        let pid = child.id();
        Ok(Self { pidfd: pidfd_open(pid)?, pid, child: Mutex::new(child) })
    }

    /// The process id. Not reused as long as the handle lives, because nobody else reaps it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends `signal`; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if !self.has_exited() {
            let _ = kill(Pid::from_raw(self.pid as i32), signal);
        }
    }

    /// Waits for the exit, and says whether it came in time.
    pub fn exited_within(&self, timeout: Duration) -> bool {
        wait_for_exit(&self.pidfd, timeout) && {
            let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
            true
        }
    }

    /// The exit code, if the process ends within `timeout` and not by a signal.
    pub fn exit_code_within(&self, timeout: Duration) -> Option<i32> {
        if !self.exited_within(timeout) {
            return None;
        }
        self.child.lock().unwrap_or_else(PoisonError::into_inner).wait().ok()?.code()
    }

    /// Whether the process has ended, reaped or not.
    pub fn has_exited(&self) -> bool {
        wait_for_exit(&self.pidfd, Duration::ZERO)
    }

    /// Takes the pipe to the child's standard input.
    pub fn stdin(&self) -> Result<ChildStdin> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).stdin.take().context("stdin is not a pipe")
    }

    /// Takes the pipe from the child's standard output.
    pub fn stdout(&self) -> Result<ChildStdout> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stdout
            .take()
            .context("stdout is not a pipe")
    }

    /// Takes the pipe from the child's standard error.
    pub fn stderr(&self) -> Result<ChildStderr> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stderr
            .take()
            .context("stderr is not a pipe")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A descriptor that becomes readable when `pid` ends.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    // SAFETY: plain integers in; the kernel returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("pidfd_open({pid})"));
    }
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until the process behind `pidfd` has ended, and says whether it did in time.
pub fn wait_for_exit(pidfd: &OwnedFd, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(n) if n > 0 => return true,
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}

/// Copies a child's output into a journal, line by line, on a thread that ends with the pipe.
pub fn collect(from: impl Read + Send + 'static, into: Arc<Journal<String>>, echo: Option<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some(name) = &echo {
                eprintln!("{name}: {line}");
            }
            into.push(line);
        }
    });
}

/// The path of one of this workspace's binaries: beside the running one, as cargo builds them.
pub fn binary(name: &str) -> Result<PathBuf> {
    let exe = env::current_exe().context("where am I")?;
    for dir in exe.ancestors().skip(1).take(2) {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("no binary {name} beside {}: build it first", exe.display())
}

/// Runs a short command to its end and returns what it printed; its complaint is the error.
pub fn output(command: &mut Command, input: &str) -> Result<String> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {what}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{what}: {}\ninput was:\n{input}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
