//! What was typed, resolved: what it means on this node, and whether it fits together.
//!
//! In: [`AgentArgs`]. Out: [`Config`], or one error that names the flag and says what to do. Nothing is
//! loaded or bound before this is known to be good.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::{
    cli::agent::{AgentArgs, Attach, EndpointSlices, EventLevel, LogFormat, SourceArgs},
    cluster::api::Scope,
    contract::{Calls, Contract, LastCall},
    drain::Bounds,
    report::events::Level,
};

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup2 file system.
    #[error(
        "no cgroup2 is mounted (/proc/mounts): mount one (mount -t cgroup2 none /sys/fs/cgroup/unified), \
         or name it with --cgroup-root"
    )]
    NoCgroup2,
    /// A path that has to be there is not.
    #[error("{flag} {}: {what}", path.display())]
    Path {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// What it has to be.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither files nor a cluster.
    #[error(
        "this is no pod of a cluster (no KUBERNETES_SERVICE_HOST): give --kubeconfig FILE, or manifests with \
         --endpoints DIR|FILE"
    )]
    NoSource,
    /// A cluster has many nodes.
    #[error("--node-name is needed with a cluster: the name of this node, as spec.nodeName has it")]
    NoNodeName,
    /// Two values that exclude each other.
    #[error("{0}")]
    Contradiction(String),
    /// A log filter that cannot be read.
    #[error("--log {value:?}: {reason}")]
    Log {
        /// What was typed.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How the kubelet is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// Its cgroup's id.
    pub cgroup: Option<u64>,
    /// Its process's name.
    pub process: Option<String>,
    /// Where it listens: tells its cgroup where neither is given.
    pub port: u16,
}

/// Where the agent learns of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Manifests.
    Files {
        /// A file or a directory.
        path: PathBuf,
        /// Whose pods count; all, where it is not said.
        node: Option<String>,
    },
    /// An API server.
    Cluster {
        /// How to reach it; `None`: as a pod.
        kubeconfig: Option<PathBuf>,
        /// Whose pods count.
        node: String,
        /// Which slices.
        slices: Scope,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { path, .. } => write!(f, "{}", path.display()),
            Self::Cluster { kubeconfig: Some(path), node, .. } => {
                write!(f, "cluster of {}, node {node}", path.display())
            }
            Self::Cluster { kubeconfig: None, node, .. } => write!(f, "cluster, node {node}"),
        }
    }
}

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Manifests or a cluster.
    pub source: Source,
    /// The hook's port.
    pub hook_port: u16,
    /// How long to wait for another agent to end.
    pub hand_over_wait: std::time::Duration,
    /// The operator's bounds.
    pub bounds: Bounds,
    /// The contract of a hook that asks for nothing.
    pub contract: Contract,
    /// Whose clients may be told to leave.
    pub last_call: Calls,
    /// How long it takes until each of a pod's clients has had its turn to be told.
    pub told_within: std::time::Duration,
    /// Sources that do not keep a pod unsettled.
    pub ignore_sources: Vec<IpNet>,
    /// Paths of health checks.
    pub health_paths: Vec<String>,
    /// How to attach.
    pub attach: Attach,
    /// Entries of the connection table.
    pub table_size: u32,
    /// Who is the kubelet.
    pub kubelet: Kubelet,
    /// Where namespaces are.
    pub netns_dir: PathBuf,
    /// Where pins go.
    pub bpf_dir: PathBuf,
    /// The root cgroup.
    pub cgroup_root: PathBuf,
    /// Which Kubernetes Events are written.
    pub events: Level,
    /// Where metrics and health are.
    pub metrics_address: SocketAddr,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
}

/// Paths that health checks ask for nearly everywhere.
const HEALTH_PATHS: [&str; 8] =
    ["/health", "/healthz", "/livez", "/readyz", "/live", "/ready", "/-/healthy", "/-/ready"];

impl Config {
    /// Resolves what was typed.
    pub fn resolve(args: &AgentArgs) -> Result<Self, Error> {
        let cgroup_root = match &args.node.cgroup_root {
            Some(path) => path.clone(),
            None => cgroup2_mount().ok_or(Error::NoCgroup2)?,
        };
        inode("--cgroup-root", &cgroup_root)?;
        let cgroup =
            args.kubelet.kubelet_cgroup.as_deref().map(|p| inode("--kubelet-cgroup", p)).transpose()?;
        if args.hook.hook_port == args.report.metrics_address.port() {
            return Err(Error::Contradiction(format!(
                "--hook-port and --metrics-address are both on port {}: give one another",
                args.hook.hook_port
            )));
        }
        tracing_subscriber::EnvFilter::try_new(&args.report.log)
            .map_err(|e| Error::Log { value: args.report.log.clone(), reason: e.to_string() })?;
        let source = source(&args.source)?;
        let typed = &args.contract;
        let mut health_paths: Vec<String> = HEALTH_PATHS.map(str::to_owned).into();
        health_paths.extend(args.observer.health_paths.iter().cloned());
        Ok(Self {
            source,
            hook_port: args.hook.hook_port,
            hand_over_wait: args.hook.hand_over_wait,
            bounds: Bounds {
                default_grace: args.hook.default_grace,
                max_drain: args.hook.max_drain,
                node_shutdown: args.hook.node_shutdown_grace,
                min_settle: typed.min_settle,
                nobody_home_wait: args.hook.nobody_home_wait,
            },
            contract: Contract {
                until: typed.until,
                settle: None,
                idle_after: typed.idle_after,
                doubt_after: typed.doubt_after,
                udp_idle: typed.udp_idle,
                patience: typed.patience,
                reserve: typed.reserve,
                last_call: LastCall::Default,
            },
            last_call: typed.last_call,
            told_within: typed.last_call_within,
            ignore_sources: args.observer.ignore_sources.clone(),
            health_paths,
            attach: args.observer.attach,
            table_size: args.observer.table_size,
            kubelet: Kubelet {
                cgroup,
                process: args.kubelet.kubelet_process.clone(),
                port: args.kubelet.kubelet_port,
            },
            netns_dir: args.node.netns_dir.clone(),
            bpf_dir: args.node.bpf_dir.clone(),
            cgroup_root,
            events: match args.report.events {
                EventLevel::None => Level::None,
                EventLevel::Warnings => Level::Warnings,
                EventLevel::All => Level::All,
            },
            metrics_address: args.report.metrics_address,
            log_format: args.report.log_format,
            log: args.report.log.clone(),
        })
    }
}

fn source(typed: &SourceArgs) -> Result<Source, Error> {
    let Some(path) = &typed.endpoints else {
        if let Some(path) = &typed.kubeconfig {
            let what = "it cannot be read";
            fs::metadata(path).map_err(|source| Error::Path {
                flag: "--kubeconfig",
                path: path.clone(),
                what,
                source,
            })?;
        } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            return Err(Error::NoSource);
        }
        let node = typed.node_name.clone().filter(|name| !name.is_empty()).ok_or(Error::NoNodeName)?;
        let slices = match typed.endpoint_slices {
            EndpointSlices::Draining => Scope::Draining,
            EndpointSlices::All => Scope::All,
            EndpointSlices::None => Scope::None,
        };
        return Ok(Source::Cluster { kubeconfig: typed.kubeconfig.clone(), node, slices });
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|p| !p.exists() && !path.exists()) {
        return Err(Error::Path {
            flag: "--endpoints",
            path: path.clone(),
            what: "neither it nor the directory it would be in exists",
            source: fs::metadata(parent).err().unwrap_or_else(|| io::ErrorKind::NotFound.into()),
        });
    }
    Ok(Source::Files { path: path.clone(), node: typed.node_name.clone() })
}

/// A cgroup's id is its directory's inode.
fn inode(flag: &'static str, path: &Path) -> Result<u64, Error> {
    let what = "not a directory of a cgroup2 file system";
    let error = |source| Error::Path { flag, path: path.to_owned(), what, source };
    if !path.join("cgroup.procs").exists() {
        return Err(error(io::ErrorKind::NotFound.into()));
    }
    fs::metadata(path).map(|m| m.ino()).map_err(error)
}

fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|f| f.get(2) == Some(&"cgroup2")).and_then(|f| Some(PathBuf::from(f.get(1)?)))
}
