//! `lastcall check`: what was typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DEFAULT_HOOK_PORT, parse, path};
use crate::check::{Format, Plan, Rule, Settings, Severity, Source};

/// `lastcall check`, as typed.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifests: files, directories of them, or `-` for standard input
    ///
    /// YAML or JSON, one or more documents, Lists. Give the Services, and the Namespace, with the
    /// workloads: how slowly traffic turns away from a pod depends on them.
    #[arg(value_name = "FILE", value_parser = path, required_unless_present_any = ["namespace", "all_namespaces"],
          conflicts_with_all = ["namespace", "all_namespaces", "kubeconfig"])]
    pub files: Vec<PathBuf>,

    /// Look at what runs in a namespace of a cluster, instead of files
    #[arg(long, short, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,

    /// Look at what runs in all namespaces of a cluster
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,

    /// The cluster's kubeconfig [default: as kubectl finds it, or the pod's own account]
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub kubeconfig: Option<PathBuf>,

    /// The least that makes the command end with 1
    #[arg(long, value_name = "SEVERITY", default_value = "error")]
    pub fail_on: FailOn,

    /// Rules to leave out, by comma
    ///
    /// For one workload write them into its annotation `lastcall.dev/check-ignore` instead.
    #[arg(long, value_name = "RULE,…", value_delimiter = ',', hide_possible_values = true)]
    pub ignore: Vec<Rule>,

    /// Take namespaces whose manifest is not given as labelled `lastcall.dev/inject=true`
    #[arg(long)]
    pub injected: bool,

    /// TCP port of the preStop hooks
    ///
    /// As given to the agents.
    #[arg(long, value_name = "PORT", env = "LASTCALL_HOOK_PORT", default_value_t = DEFAULT_HOOK_PORT,
          value_parser = parse::port)]
    pub hook_port: u16,

    /// How to print it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// The least severity that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// What breaks a rolling update.
    Error,
    /// What may.
    Warning,
    /// Anything found.
    Note,
    /// Nothing.
    Never,
}

impl From<&CheckArgs> for Plan {
    fn from(args: &CheckArgs) -> Self {
        let source = if args.files.is_empty() {
            Source::Cluster { namespace: args.namespace.clone(), kubeconfig: args.kubeconfig.clone() }
        } else {
            Source::Files(args.files.clone())
        };
        let settings = Settings {
            hook_port: args.hook_port,
            injected: args.injected,
            ignore: args.ignore.iter().copied().collect(),
        };
        let fail_on = match args.fail_on {
            FailOn::Error => Some(Severity::Error),
            FailOn::Warning => Some(Severity::Warning),
            FailOn::Note => Some(Severity::Note),
            FailOn::Never => None,
        };
        Self { source, settings, fail_on, format: args.output }
    }
}
