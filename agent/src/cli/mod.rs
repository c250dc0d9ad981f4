//! The command line: what was typed, and nothing of what it means.
//!
//! In: arguments and `LASTCALL_…` variables. Out: [`Cli`], each value well formed by itself; whether
//! they fit together and what they stand for is the configuration's business.

pub mod agent;
pub mod check;
pub mod parse;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use agent::AgentArgs;
pub use check::CheckArgs;

use crate::report::doctor::Plan;

/// `lastcall`, as typed.
#[derive(Debug, Parser)]
#[command(
    name = "lastcall",
    version,
    about = "Holds a pod's preStop hook until its connections have drained",
    long_about = "Holds a pod's preStop hook until its connections have drained.\n\n\
        One agent runs on each node. It sees in the kernel which connections to a Terminating pod are \
        still live, and answers the pod's preStop hook when none is left that matters. The other \
        commands ask the agent of this node, the node itself or the cluster; only `uninstall` changes anything.",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node's agent
    ///
    /// Watches the pods of this node, holds the preStop hooks of those that are Terminating and
    /// answers each when its pod has drained. Needs root, or the capabilities that `lastcall doctor`
    /// lists.
    Agent(Box<AgentArgs>),

    /// Show which pods drain on this node, and what each waits for
    Status(StatusArgs),

    /// Show every connection of one draining pod, and how it is known
    Connections(ConnectionsArgs),

    /// Say what would break a zero-downtime rolling update, and which lines mend it
    ///
    /// Reads manifests, or a cluster, and changes nothing. Ends with 0 when nothing was found at or
    /// above --fail-on, with 1 when something was, with 65 when an input cannot be read or understood,
    /// and with 69 when the cluster does not answer.
    Check(Box<CheckArgs>),

    /// Check whether this node gives the agent what it needs
    ///
    /// Tries each thing for real in the kernel (nothing is guessed from a version), removes what it
    /// made for that, and says what to do about what is missing. Ends with 0 when lastcall can work
    /// here, with all it has or with less, and with 1 when something is missing that it cannot do
    /// without.
    Doctor(DoctorArgs),

    /// Remove the pinned programs and maps from this node
    ///
    /// They are left behind on purpose when an agent ends: without an agent they make hooks sleeps.
    /// After this, hooks that still name the port fail at once. Refuses while an agent runs here.
    Uninstall(UninstallArgs),
}

/// `lastcall uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Remove them even while an agent runs here, or may run
    #[arg(long)]
    pub force: bool,

    /// Do not end afterwards, but when told to: for a DaemonSet, whose pods may not end
    #[arg(long)]
    pub stay: bool,

    /// Directory of the pins
    ///
    /// As given to the agent.
    #[arg(long, value_name = "DIR", env = "LASTCALL_BPF_DIR", default_value = "/sys/fs/bpf/lastcall",
          value_parser = path)]
    pub bpf_dir: PathBuf,

    /// TCP port of the preStop hooks, where the pins do not tell
    #[arg(long, value_name = "PORT", env = "LASTCALL_HOOK_PORT", default_value_t = DEFAULT_HOOK_PORT,
          value_parser = parse::port)]
    pub hook_port: u16,
}

/// `lastcall status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Ask again every second until interrupted; on a terminal, redraw
    #[arg(long, short)]
    pub watch: bool,

    /// How to print it
    ///
    /// With --watch, `json` is one document a line.
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Output,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields are documented")]
    pub agent: AgentAddress,
}

/// `lastcall connections`.
#[derive(Debug, Args)]
pub struct ConnectionsArgs {
    /// The pod's name
    #[arg(value_name = "POD")]
    pub pod: String,

    /// The pod's namespace; may be left out where only one draining pod has the name
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// How to print it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Output,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields are documented")]
    pub agent: AgentAddress,
}

/// `lastcall doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How to print it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Output,

    /// TCP port of the preStop hooks
    ///
    /// As given to the agent.
    #[arg(long, value_name = "PORT", env = "LASTCALL_HOOK_PORT", default_value_t = DEFAULT_HOOK_PORT,
          value_parser = parse::port)]
    pub hook_port: u16,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields are documented")]
    pub node: agent::NodeArgs,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields are documented")]
    pub kubelet: agent::KubeletArgs,
}

impl From<&DoctorArgs> for Plan {
    fn from(args: &DoctorArgs) -> Self {
        Self {
            bpf_dir: args.node.bpf_dir.clone(),
            netns_dir: args.node.netns_dir.clone(),
            cgroup_root: args.node.cgroup_root.clone(),
            kubelet_port: args.kubelet.kubelet_port,
            kubelet_cgroup: args.kubelet.kubelet_cgroup.clone(),
            kubelet_process: args.kubelet.kubelet_process.clone(),
            hook_port: args.hook_port,
        }
    }
}

/// Where the agent of this node answers.
#[derive(Debug, Args)]
pub struct AgentAddress {
    /// Address and port of this node's agent
    ///
    /// It answers questions about clients on loopback only. Change it where the agent runs with
    /// another --hook-port.
    #[arg(long, value_name = "ADDRESS:PORT", env = "LASTCALL_ADDRESS", default_value = "127.0.0.1:9902",
          value_parser = parse::socket_address)]
    pub address: std::net::SocketAddr,
}

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The hook's port wherever none is given: the one in every example of a pod spec.
pub const DEFAULT_HOOK_PORT: u16 = 9902;

/// A path that must not be empty, which clap would otherwise take from an empty variable.
fn path(typed: &str) -> Result<PathBuf, String> {
    if typed.is_empty() { Err("an empty path".to_owned()) } else { Ok(PathBuf::from(typed)) }
}

#[cfg(test)]
mod tests;
