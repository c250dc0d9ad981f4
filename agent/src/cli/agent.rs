//! `lastcall agent`: its flags, by what they are about.
//!
//! Each flag's help says what it is, its unit, and why one would change it; clap adds the default and
//! the variable.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::{DEFAULT_HOOK_PORT, parse, path};
use crate::contract::{Calls, Until};

/// `lastcall agent`, as typed.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "each group's type is documented")]
pub struct AgentArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub hook: HookArgs,
    #[command(flatten)]
    pub contract: ContractArgs,
    #[command(flatten)]
    pub observer: ObserverArgs,
    #[command(flatten)]
    pub kubelet: KubeletArgs,
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Where the agent learns of pods.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pods")]
pub struct SourceArgs {
    /// Manifests of Pods, EndpointSlices and Services, instead of a cluster: a file, or a directory
    ///
    /// YAML or JSON as `kubectl get pods,endpointslices,services -o yaml` prints them, a List or
    /// single documents. Watched: a change counts at once, and a file that cannot be read keeps what
    /// it said last.
    #[arg(long, value_name = "DIR|FILE", env = "LASTCALL_ENDPOINTS", value_parser = path)]
    pub endpoints: Option<PathBuf>,

    /// How to reach the API server [default: as a pod of the cluster, by its service account]
    ///
    /// A kubeconfig; its current context counts. For an agent that does not run in a pod.
    #[arg(long, value_name = "FILE", env = "LASTCALL_KUBECONFIG", value_parser = path,
          conflicts_with = "endpoints")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of this node
    ///
    /// Only pods whose spec.nodeName is this one are tracked. Needed with a cluster. With --endpoints,
    /// leave it out where the manifests hold nothing but this node's pods.
    #[arg(long, value_name = "NAME", env = "LASTCALL_NODE_NAME")]
    pub node_name: Option<String>,

    /// Which EndpointSlices of the cluster are watched
    ///
    /// They inform: ports, protocols, the kind of Service. `all` spares a drain the few milliseconds in
    /// which its namespace is listed, and costs the API server every slice to every node: not for more
    /// than 200 nodes. With `none`, every drain settles as behind a Service of unknown kind (10 s).
    #[arg(long, value_name = "WHICH", env = "LASTCALL_ENDPOINT_SLICES", default_value = "draining")]
    pub endpoint_slices: EndpointSlices,
}

/// The preStop hook, and what bounds it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Hook")]
pub struct HookArgs {
    /// TCP port that preStop hooks name
    ///
    /// The agent listens on it on loopback, and the kubelet's calls to this port of any pod are led
    /// there. Change it where pods use the port themselves; every hook must name the same one.
    #[arg(long, value_name = "PORT", env = "LASTCALL_HOOK_PORT", default_value_t = DEFAULT_HOOK_PORT,
          value_parser = parse::port)]
    pub hook_port: u16,

    /// How long a hook sleeps while no agent runs on the node
    ///
    /// Kept in the kernel, so it also holds while the agent is being upgraded or has crashed. Never
    /// longer than the pod's grace less its reserve. Longer is safer for clients, and makes each
    /// replacement of a pod slower for as long as the agent is away.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_NOBODY_HOME_WAIT", default_value = "20s",
          value_parser = parse::duration)]
    pub nobody_home_wait: Duration,

    /// How long to wait for another agent of this node to end, instead of ending at once
    ///
    /// An update with maxSurge starts a node's next agent before it ends the last one. The next one
    /// touches nothing until the last one's --metrics-address is free.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_HAND_OVER_WAIT", default_value = "0s",
          value_parser = parse::duration)]
    pub hand_over_wait: Duration,

    /// Grace of a pod of which nothing says how long it is
    ///
    /// Kubernetes' own default. Change it where most pods set another
    /// terminationGracePeriodSeconds and the agent cannot see it.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_DEFAULT_GRACE", default_value = "30s",
          value_parser = parse::duration)]
    pub default_grace: Duration,

    /// Longest drain of any pod, whatever its grace [default: the grace alone]
    ///
    /// Set it to bound how long a rollout or the draining of a node can take in a cluster where pods
    /// have very long graces.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_MAX_DRAIN", value_parser = parse::duration)]
    pub max_drain: Option<Duration>,

    /// Time that a shutdown of the node leaves to ordinary pods [default: the grace alone]
    ///
    /// The kubelet's shutdownGracePeriod less shutdownGracePeriodCriticalPods. Nothing in the API says
    /// that it shortens a pod's grace.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_NODE_SHUTDOWN_GRACE", value_parser = parse::duration)]
    pub node_shutdown_grace: Option<Duration>,
}

/// What a hook gets when its path does not say otherwise.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Defaults of a drain (a hook's path overrides them: /drain?until=closed&reserve=8s)"
)]
pub struct ContractArgs {
    /// What may remain of a pod's connections when its hook is answered
    ///
    /// Change it where most pods of the node are alike and `auto` does not suit them.
    #[arg(long, value_name = "WHAT", env = "LASTCALL_UNTIL", default_value = "auto")]
    pub until: Until,

    /// Shortest time that a pod must have been Terminating before routing counts as settled
    ///
    /// A lower bound for every pod, which no hook can go below. Raise it where something routes to
    /// pods that neither Kubernetes nor the traffic shows, such as a load balancer with a cache of
    /// its own.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_MIN_SETTLE", default_value = "0s",
          value_parser = parse::duration)]
    pub min_settle: Duration,

    /// Silence after which a connection that has no request in progress is idle
    ///
    /// Raise it for clients that pause within a request for longer than that.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_IDLE_AFTER", default_value = "1s",
          value_parser = parse::duration)]
    pub idle_after: Duration,

    /// How long a connection counts that is older than the drain and of which nothing is certain
    ///
    /// Lower it where pods drain with many old connections that are surely idle; raise it where
    /// requests take longer than that without a byte in either direction.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_DOUBT_AFTER", default_value = "10s",
          value_parser = parse::duration)]
    pub doubt_after: Duration,

    /// Silence after which a UDP flow is gone
    ///
    /// Ports that look like QUIC get 30 s in any case.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_UDP_IDLE", default_value = "5s",
          value_parser = parse::duration)]
    pub udp_idle: Duration,

    /// How long no client may have left before a busy drain is given up
    ///
    /// Clients in a closed loop send the next request as soon as they have the last answer: no
    /// waiting ends that. Raise it where single exchanges take longer.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_PATIENCE", default_value = "5s",
          value_parser = parse::duration)]
    pub patience: Duration,

    /// What is left of the grace for the app after its hook was answered
    ///
    /// At most a quarter of the grace. Raise it for apps that take long to stop on SIGTERM.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_RESERVE", default_value = "5s",
          value_parser = parse::duration)]
    pub reserve: Duration,

    /// Whose clients are told to leave when a pod ends
    ///
    /// A client that keeps its connection busy never leaves by itself, and whatever it has in flight at
    /// SIGTERM is cut. The last call is an HTTP `Connection: close`, or a GOAWAY, put into the pod's answers
    /// on the app's behalf, and for most clusters `auto` is right. A hook's own last-call=http asks for it
    /// at all of its pod's ports, last-call=off keeps it away; off always wins.
    #[arg(long, value_name = "WHEN", env = "LASTCALL_LAST_CALL", default_value = "asked")]
    pub last_call: Calls,

    /// Within what time of its end all of a pod's clients have had their turn to be told
    ///
    /// One after another, so that they do not all open new connections at once, and so that some are left
    /// whose staying away shows that routing has turned. At most an eighth of the pod's grace. 0s: all at
    /// once, with their next answers.
    #[arg(long, value_name = "DURATION", env = "LASTCALL_LAST_CALL_WITHIN", default_value = "2s",
          value_parser = parse::duration)]
    pub last_call_within: Duration,
}

/// What is seen of connections, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub struct ObserverArgs {
    /// Sources whose connections do not keep a pod from settling
    ///
    /// Address blocks, by comma: scrapers, scanners, health checks of load balancers. What they have
    /// in flight is still waited for.
    #[arg(long, value_name = "CIDR,…", env = "LASTCALL_IGNORE_SOURCES", value_delimiter = ',',
          value_parser = parse::network)]
    pub ignore_sources: Vec<IpNet>,

    /// Request paths that only health checks ask for
    ///
    /// By comma, in addition to those of the pods' own probes. At most 48 bytes of each count.
    #[arg(long, value_name = "PATH,…", env = "LASTCALL_HEALTH_PATHS", value_delimiter = ',',
          value_parser = parse::request_path)]
    pub health_paths: Vec<String>,

    /// How the kernel programs are attached to a Terminating pod's links
    ///
    /// Change it where another agent of the node does not get along with one of the ways.
    #[arg(long, value_name = "HOW", env = "LASTCALL_ATTACH", default_value = "auto")]
    pub attach: Attach,

    /// Connections of Terminating pods that the kernel's table holds, for the whole node
    ///
    /// About 220 bytes of kernel memory each. A pod whose connections find no place is judged by
    /// polling its sockets instead, which costs more and sees less.
    #[arg(long, value_name = "COUNT", env = "LASTCALL_TABLE_SIZE", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1_024..=4_194_304))]
    pub table_size: u32,
}

/// How the agent knows the kubelet.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubelet")]
pub struct KubeletArgs {
    /// Port on which the kubelet listens
    ///
    /// Its listener names its cgroup, and so its calls and probes. Change it with the kubelet's own
    /// `port` setting.
    #[arg(long, value_name = "PORT", env = "LASTCALL_KUBELET_PORT", default_value_t = 10_250,
          value_parser = parse::port)]
    pub kubelet_port: u16,

    /// The kubelet's cgroup (v2), instead of finding it by its port
    ///
    /// A directory under the cgroup root, such as /sys/fs/cgroup/system.slice/kubelet.service. Only
    /// what runs there can call hooks.
    #[arg(long, value_name = "PATH", env = "LASTCALL_KUBELET_CGROUP", value_parser = path)]
    pub kubelet_cgroup: Option<PathBuf>,

    /// Name of the kubelet's process, at most 15 bytes
    ///
    /// Only processes of that name can call hooks. Weaker than the cgroup, since any process of the
    /// node can choose its name; for nodes where the kubelet shares its cgroup with others.
    #[arg(long, value_name = "NAME", env = "LASTCALL_KUBELET_PROCESS", value_parser = parse::process_name)]
    pub kubelet_process: Option<String>,
}

/// Where things of the node are mounted.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// Directory of the pods' network namespaces
    ///
    /// The container runtime's. In a container: where the node's /run/netns is mounted, with
    /// mountPropagation HostToContainer.
    #[arg(long, value_name = "DIR", env = "LASTCALL_NETNS_DIR", default_value = "/run/netns",
          value_parser = path)]
    pub netns_dir: PathBuf,

    /// Directory for what must outlive the agent: programs, links and maps
    ///
    /// On a bpf file system of the node. Give each agent its own where several run on one node.
    #[arg(long, value_name = "DIR", env = "LASTCALL_BPF_DIR", default_value = "/sys/fs/bpf/lastcall",
          value_parser = path)]
    pub bpf_dir: PathBuf,

    /// Mount point of the root cgroup (v2) [default: found in /proc/mounts]
    ///
    /// In a container: where the node's /sys/fs/cgroup is mounted, since the container's own shows
    /// only a part of the tree.
    #[arg(long, value_name = "DIR", env = "LASTCALL_CGROUP_ROOT", value_parser = path)]
    pub cgroup_root: Option<PathBuf>,
}

/// What the agent tells.
#[derive(Debug, Args)]
#[command(next_help_heading = "Metrics and logs")]
pub struct ReportArgs {
    /// Where /metrics, /healthz and /readyz answer
    ///
    /// They name no clients. Change it where the port is taken or only one address may serve it.
    #[arg(long, value_name = "ADDRESS:PORT", env = "LASTCALL_METRICS_ADDRESS", default_value = "0.0.0.0:9903",
          value_parser = parse::socket_address)]
    pub metrics_address: SocketAddr,

    /// Which Kubernetes Events are written about pods and this node
    ///
    /// A few for each pod at most. `all` adds one for each drain that ended well, which is more than a
    /// tenth of what a rollout writes anyway.
    #[arg(long, value_name = "WHICH", env = "LASTCALL_EVENTS", default_value = "warnings")]
    pub events: EventLevel,

    /// How log lines look
    ///
    /// Change it where standard error is a terminal and still read by a program, or the reverse.
    #[arg(long, value_name = "FORMAT", env = "LASTCALL_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// What is logged: a level, or levels by module
    ///
    /// error, warn, info, debug, trace; or for example `info,lastcall_agent::hook=debug`.
    #[arg(long, value_name = "FILTER", env = "LASTCALL_LOG", default_value = "info")]
    pub log: String,
}

/// How the kernel programs reach a pod's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// TCX links (kernel 6.6).
    Tcx,
    /// A clsact qdisc and a filter: every kernel.
    Clsact,
    /// Not at all: sockets are polled, every 100 ms.
    None,
}

/// Which Kubernetes Events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventLevel {
    /// None.
    None,
    /// What went wrong: a deadline, busy clients, cut connections, an agent that was absent.
    Warnings,
    /// Each drain's end as well.
    All,
}

/// Which EndpointSlices are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EndpointSlices {
    /// Those of namespaces in which a pod of this node drains, for a minute longer than it does.
    Draining,
    /// All of the cluster.
    All,
    /// None.
    None,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}
