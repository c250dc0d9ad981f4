//! The node: one handle for all that a test needs.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::agent::{Agent, AgentBuilder, HOOK_PORT, agent_binary};
use crate::api::ApiServer;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::conn::Conn;
use crate::host::{Host, MANIFESTS_DIR};
use crate::kubelet::{self, Kubelet};
use crate::pod::{Pod, PodBuilder};
use crate::proxy::Proxy;
use crate::service::ServiceBuilder;

/// The address family that a node's pods have first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/24
    Ipv4,
    /// `fd00:77::/64`
    Ipv6,
}

/// A simulated node with its cluster. It goes, and all of it with it, when the handle goes away.
#[derive(Debug)]
pub struct Node {
    // In the order in which they have to go: whoever uses something goes before it.
    agents: Mutex<Vec<Arc<Agent>>>,
    kubelet: Kubelet,
    pods: Mutex<Vec<Pod>>,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    family: Family,
    pod_numbers: AtomicU8,
    client_numbers: AtomicU8,
    service_numbers: AtomicU8,
    second_bridge: OnceLock<()>,
    api: OnceLock<Arc<ApiServer>>,
}

/// Where a node has the kubeconfig of its agent.
const KUBECONFIG: &str = "/run/lastcall/kubeconfig";

/// The API server's own Service, as `kubectl get services -o yaml` always prints it.
const KUBERNETES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default, labels: {component: apiserver, provider: kubernetes}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{name: https, port: 443, protocol: TCP, targetPort: 6443}]
";

impl Node {
    /// A node with a bridge, a proxy and a kubelet, whose pods have IPv4 addresses first. Needs root.
    pub fn new() -> Result<Self> {
        Self::with_family(Family::Ipv4)
    }

    /// The same with the family that pods have first, and that hooks and tests therefore use.
    pub fn with_family(family: Family) -> Result<Self> {
        allow_many_sockets()?;
        let host = Arc::new(Host::new()?);
        host.netns().sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        bridge(&host, "br0", (77, 0x77))?;
        let proxy = Proxy::new(host.netns().clone());
        let cluster = Arc::new(Cluster::new(host.outside(MANIFESTS_DIR), proxy));
        // Every cluster has it, and it tells a pod without a Service from a source without Services.
        cluster.write("service-kubernetes.yaml", KUBERNETES)?;
        let kubelet = Kubelet::start(&host, &cluster, kubelet::NAME, kubelet::API_PORT)?;
        Ok(Self {
            agents: Mutex::default(),
            kubelet,
            pods: Mutex::default(),
            cluster,
            host,
            family,
            // .1 is the bridge.
            pod_numbers: AtomicU8::new(2),
            client_numbers: AtomicU8::new(1),
            service_numbers: AtomicU8::new(10),
            second_bridge: OnceLock::new(),
            api: OnceLock::new(),
        })
    }

    /// A pod in the making.
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(self, name)
    }

    /// A new client outside, with a link of its own.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.host, self.client_numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// The cluster's API server, started when it is asked for first.
    pub fn api(&self) -> Result<&ApiServer> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let api = Arc::new(ApiServer::start(Some(self.host.netns()), 6443)?);
        std::fs::write(self.host.outside(KUBECONFIG), api.kubeconfig())?;
        self.cluster.mirror(Arc::clone(&api))?;
        Ok(self.api.get_or_init(|| api))
    }

    /// An agent that has its pods from the API server, in the making.
    pub fn agent_of_cluster(&self) -> Result<RememberedAgent<'_>> {
        self.api()?;
        let builder = AgentBuilder::new(&self.host, &self.kubelet).without("--endpoints");
        let builder = builder.flag("--kubeconfig", KUBECONFIG).flag("--node-name", "node");
        Ok(RememberedAgent { node: self, builder })
    }

    /// An agent in the making.
    pub fn agent(&self) -> RememberedAgent<'_> {
        RememberedAgent { node: self, builder: AgentBuilder::new(&self.host, &self.kubelet) }
    }

    /// A Service in the making, for the pods of the app `name`.
    pub fn service(&self, name: &str) -> ServiceBuilder<'_> {
        ServiceBuilder::new(self, name, self.service_numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits until the proxy's rules say what the endpoints say.
    pub fn proxy_synced(&self) -> Result<()> {
        self.cluster.proxy().synced().then_some(()).context("the proxy did not catch up")
    }

    /// Somebody on the node who calls hooks as the kubelet does, and is not the kubelet: another process
    /// of another name, in another cgroup below the node's.
    pub fn stranger(&self) -> Result<Kubelet> {
        Kubelet::start(&self.host, &self.cluster, "stranger", 0)
    }

    /// Runs `lastcall ARGS…` on the node, to its end.
    pub fn lastcall(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(agent_binary()?);
        command.args(args).stdin(Stdio::null());
        self.host.netns().run(|| command.output()).context("run lastcall")
    }

    /// Calls the hook's port on the node's own loopback, as a person or a script does.
    pub fn dial(&self, to: Ipv4Addr) -> Result<Conn> {
        let to = SocketAddr::from((to, HOOK_PORT));
        let stream = self.host.netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)));
        Conn::new(stream.with_context(|| format!("connect to {to}"))?)
    }

    /// The kubelet.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// Pods, EndpointSlices and Services, and the directory they are written to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The namespaces, the cgroup, and how to start more processes.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Which family pods have first.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What the agents, the kernel and the sockets say, for a test that has failed.
    pub fn diagnostics(&self) -> String {
        let mut text = format!("== node {}\n", self.host.name());
        for agent in lock(&self.agents).iter() {
            let _ = writeln!(text, "== agent, the end of its log\n{}", agent.log_tail(60).join("\n"));
            match agent.status() {
                Ok(status) => drop(writeln!(text, "== agent, /status\n{status:#}")),
                Err(error) => drop(writeln!(text, "== agent, /status: {error:#}")),
            }
            for (pod, connections) in agent.tables() {
                let _ = writeln!(text, "== agent, what the kernel's table and the sockets say of {pod}");
                let _ = writeln!(text, "{connections}");
            }
        }
        let _ = writeln!(text, "== kubelet\n{}", self.kubelet.last_events(40).join("\n"));
        for pod in lock(&self.pods).iter() {
            let Some(netns) = pod.netns() else {
                let _ = writeln!(text, "== pod {} is gone", pod.name());
                continue;
            };
            let sockets = netns.command("ss", &["-tuanieO"], "").unwrap_or_else(|error| format!("{error:#}"));
            let _ = writeln!(text, "== pod {} {:?}\n{}", pod.name(), pod.ips(), sockets.trim_end());
        }
        let rules = self.host.netns().command("nft", &["list", "ruleset"], "");
        let _ = write!(text, "== nftables\n{}", rules.unwrap_or_else(|error| format!("{error:#}")));
        text
    }

    pub(crate) fn next_pod(&self) -> Result<u8> {
        let number = self.pod_numbers.fetch_add(1, Ordering::Relaxed);
        (number < 255).then_some(number).context("a node has room for 253 pods")
    }

    pub(crate) fn second_bridge(&self) -> Result<()> {
        if self.second_bridge.set(()).is_ok() {
            bridge(&self.host, "br1", (79, 0x79))?;
        }
        Ok(())
    }

    pub(crate) fn remember(&self, pod: &Pod) {
        lock(&self.pods).push(pod.clone());
    }
}

/// An agent in the making whose end the node waits for, and whose log it shows when a test fails.
#[derive(Debug)]
#[must_use]
pub struct RememberedAgent<'n> {
    node: &'n Node,
    builder: AgentBuilder,
}

impl RememberedAgent<'_> {
    /// Sets a flag; one that is set already gets the new value.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.flag(name, value);
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.variable(name, value);
        self
    }

    /// Has it executed by another program, such as `setpriv` with its flags.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.builder = self.builder.under(command);
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Result<Arc<Agent>> {
        let node = self.node;
        let agent = self.start_unready()?;
        agent.ready_within(crate::agent::START).inspect_err(|_| drop(lock(&node.agents).pop()))?;
        Ok(agent)
    }

    /// Starts it and does not wait.
    pub fn start_unready(self) -> Result<Arc<Agent>> {
        let agent = self.builder.start_unready()?;
        lock(&self.node.agents).push(Arc::clone(&agent));
        Ok(agent)
    }
}

/// Thousands of connections are a scenario, and both ends of them need a descriptor.
fn allow_many_sockets() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).context("raise the limit of open files")
}

/// A bridge that forwards at once, with the node's address on it. Its MAC address is its own: else it
/// would be a port's, and change with the ports while the pods still send to the old one.
fn bridge(host: &Host, name: &str, (net4, net6): (u8, u16)) -> Result<()> {
    host.netns().ip(&format!(
        "link add {name} address 02:00:00:00:00:{net4:x} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         addr add 10.{net4}.0.1/24 dev {name}\n\
         addr add fd00:{net6:x}::1/64 dev {name} nodad\n\
         link set {name} up\n"
    ))?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
