//! What makes sure that a cluster ends with the command that booted it, also after Ctrl-C: the command
//! runs as a child of a process that only waits and then takes the cluster down.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// Set in the child's environment.
const CHILD: &str = "LASTCALL_E2E_CHILD";

/// Whether this process is the child, which then is free to die by signals.
pub(crate) fn is_child() -> Result<bool> {
    if env::var_os(CHILD).is_none() {
        return Ok(false);
    }
    set_pdeathsig(Signal::SIGTERM).context("end with the supervisor")?;
    SigSet::all().thread_unblock().context("hear signals")?;
    Ok(true)
}

/// Runs this same command as a child, to its end or to the first signal that asks for one.
pub(crate) fn run_as_child() -> Result<ExitStatus> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().context("hold signals back")?;
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.args(env::args_os().skip(1)).env(CHILD, "1").spawn().context("run myself")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if signals.wait()? != Signal::SIGCHLD {
            // Ctrl-C has reached the child too; a second request does no harm.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            child.wait()?;
            return Ok(ExitStatus::from_raw(Signal::SIGINT as i32));
        }
    }
}
