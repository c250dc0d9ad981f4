//! `lastcall doctor`: does this node give the agent what it needs?
//!
//! In: where things are said to be ([`Plan`]). Out: [`Findings`], each with its verdict, its reason
//! and its remedy. Whatever can be tried is tried in the running kernel, because versions lie (RHEL's
//! 5.14 has a 6.11 BPF); what is made for that is gone when the probe ends, and network things are
//! tried in a fresh network namespace.

mod bpf;
mod diag;
mod findings;
mod kernel;
mod kubelet;
mod last_call;
mod mounts;
mod network;
mod rights;
mod scratch;
mod sys;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use findings::{Check, Findings, Group, Verdict};

use super::show;

/// Where things are said to be, as given to the agent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `--bpf-dir`
    pub bpf_dir: PathBuf,
    /// `--netns-dir`
    pub netns_dir: PathBuf,
    /// `--cgroup-root`, or found in /proc/mounts.
    pub cgroup_root: Option<PathBuf>,
    /// `--kubelet-port`
    pub kubelet_port: u16,
    /// `--kubelet-cgroup`
    pub kubelet_cgroup: Option<PathBuf>,
    /// `--kubelet-process`
    pub kubelet_process: Option<String>,
    /// `--hook-port`
    pub hook_port: u16,
}

/// Looks at everything and tries everything. Takes less than a second, and 5 s more where a stuck
/// agent holds the hook's port.
pub fn examine(plan: &Plan) -> Findings {
    let _alone = alone();
    let root = mounts::cgroup_root(plan.cgroup_root.as_deref());
    let mut checks = kernel::checks();
    let rights = rights::checks();
    let _raised = rights::Raised::now();
    checks.extend(last_call::checks());
    checks.extend(rights);
    checks.extend(mounts::checks(plan, root.as_deref()));
    checks.extend(bpf::checks());
    checks.extend(network::attaching(root.as_deref()));
    checks.extend(network::sockets(&plan.netns_dir));
    checks.extend(kubelet::checks(plan, root.as_deref()));
    Findings::of(checks)
}

/// One examination at a time: it changes limits that are the whole process's, and sets them back.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command: examines, prints, and says how the process should end.
pub fn doctor(plan: &Plan, json: bool) -> Result<u8, show::Error> {
    let findings = examine(plan);
    let text = if json { show::document(&findings, true)? } else { findings.text() };
    show::print(&text)?;
    Ok(findings.exit_code())
}

#[cfg(test)]
mod tests;
