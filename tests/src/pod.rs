//! A pod: a network namespace that the node knows by name, the app in it, and its object in the API.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::conn::Server;
use crate::host::Host;
use crate::manifest::{Container, Hook, PodObject, Port};
use crate::netns::Netns;
use crate::node::{Family, Node};
use crate::process::{Process, binary};
use crate::program;

/// What is not so by then will never be.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pod on a node. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    family: Family,
    host: Arc<Host>,
    cluster: Arc<Cluster>,
    /// By container. Declared before the namespace: processes go first.
    processes: Vec<(String, Process)>,
    netns: Mutex<Option<Netns>>,
}

impl Pod {
    /// Its name, in its object and in the node's netns directory.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// An address in the family of the node's tests.
    pub fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(ips(self.0.number, self.0.family, 0x77)[0], port)
    }

    /// Its two addresses, the primary one first.
    pub fn ips(&self) -> [IpAddr; 2] {
        ips(self.0.number, self.0.family, 0x77)
    }

    /// An address on its second link, if it has one.
    pub fn second_addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(ips(self.0.number, self.0.family, 0x79)[0], port)
    }

    /// Runs `f` in the pod's network namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match self.netns() {
            Some(netns) => netns.run(f),
            None => panic!("pod {} has no network namespace any more", self.name()),
        }
    }

    /// Its network namespace, unless it has been torn down.
    pub fn netns(&self) -> Option<Netns> {
        self.0.netns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Listens in the pod on IPv4 and IPv6, with the test as the server.
    pub fn listen(&self, port: u16) -> Result<Server> {
        let netns = self.netns().context("the pod is gone")?;
        Server::listen(&netns, port).with_context(|| format!("listen on {port} in {}", self.name()))
    }

    /// How many TCP sockets with this port of the pod's are in a state, as `ss` calls it.
    pub fn sockets(&self, port: u16, state: &str) -> Result<usize> {
        let netns = self.netns().context("the pod is gone")?;
        let filter = format!("sport = :{port}");
        Ok(netns.command("ss", &["-tnH", "state", state, &filter], "")?.lines().count())
    }

    /// Waits until that many are, or more: nothing announces it.
    pub fn has_sockets(&self, port: u16, state: &str, at_least: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.sockets(port, state)?;
            if found >= at_least {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{found} sockets at {port} are {state}, not {at_least}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts one more process in the pod.
    pub fn start_process(&self, command: Command) -> Result<Process> {
        let netns = self.netns().context("the pod is gone")?;
        self.0.host.start(command, &netns, &format!("pods/{}", self.name()))
    }

    /// Starts one more program in the pod, and waits until it listens.
    pub fn start_program(&self, command: &[String], port: u16) -> Result<Process> {
        let netns = self.netns().context("the pod is gone")?;
        let (host, cgroup) = (&self.0.host, format!("pods/{}", self.name()));
        program::start(host, &netns, &cgroup, command, port, &log_of(host, self.name()))
    }

    /// What the program of a pod that runs one has said ([`PodBuilder::program`]).
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_of(&self.0.host, self.name())).unwrap_or_default()
    }

    /// The process of a container.
    pub fn pid_of(&self, container: &str) -> Result<u32> {
        let process = self.0.processes.iter().find(|(name, _)| name == container);
        process.map(|(_, process)| process.pid()).with_context(|| format!("no container {container}"))
    }

    /// Kills the app without a word, as a crash does.
    pub fn kill_app(&self) {
        for (_, process) in &self.0.processes {
            process.signal(Signal::SIGKILL);
            process.exited_within(PATIENCE);
        }
    }

    /// Changes the pod's object and writes it: a shorter grace, another UID.
    pub fn update(&self, change: impl FnOnce(&mut PodObject)) -> Result<()> {
        self.0.cluster.update_pod(self.name(), change)
    }

    /// Takes the pod's object away, while the pod itself goes on.
    pub fn forget(&self) -> Result<()> {
        self.0.cluster.remove_pod(self.name())
    }

    /// Takes the pod's first link away and makes it again, with the same addresses.
    pub fn recreate_link(&self) -> Result<()> {
        let netns = self.netns().context("the pod is gone")?;
        netns.ip("link del eth0")?;
        plug_first(self.0.host.netns(), &netns, self.0.number)
    }

    /// Removes what the container runtime made: processes, links, the namespace.
    pub fn tear_down(&self) -> Result<()> {
        let Some(netns) = self.0.netns.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.kill_app();
        self.0.host.unpublish(self.name())?;
        netns.ip("link del eth0")?;
        Ok(())
    }
}

/// The addresses of pod `number` on the network 10.`net`: decimal in IPv4, spelled alike in IPv6.
fn ips(number: u8, family: Family, net: u16) -> [IpAddr; 2] {
    let ipv4: IpAddr = [10, if net == 0x77 { 77 } else { 79 }, 0, number].into();
    let ipv6: IpAddr = Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, number.into()).into();
    match family {
        Family::Ipv4 => [ipv4, ipv6],
        Family::Ipv6 => [ipv6, ipv4],
    }
}

/// A pod in the making; see [`Node::pod`].
#[derive(Debug)]
#[must_use]
pub struct PodBuilder<'n> {
    node: &'n Node,
    object: PodObject,
    app: Vec<String>,
    program: Option<(Vec<String>, u16)>,
    family: Option<Family>,
    second_link: bool,
}

impl<'n> PodBuilder<'n> {
    pub(crate) fn new(node: &'n Node, name: &str) -> Self {
        let container = Container {
            name: "app".to_owned(),
            hook: Hook::http("/drain"),
            ports: Vec::new(),
            readiness: None,
        };
        let object = PodObject {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: String::new(),
            app: name.to_owned(),
            node: "node".to_owned(),
            ips: Vec::new(),
            containers: vec![container],
            grace: 30,
            readiness_gates: Vec::new(),
            ready: true,
            deleted: None,
        };
        let app = vec!["--name".to_owned(), name.to_owned()];
        Self { node, object, app, program: None, family: None, second_link: false }
    }

    /// Makes it a pod of the Service `app`; otherwise it is one of a Service with its own name.
    pub fn of(mut self, app: &str) -> Self {
        app.clone_into(&mut self.object.app);
        self
    }

    /// The app serves HTTP here, and the port says so by its name.
    pub fn http(mut self, port: u16) -> Self {
        self.app.extend(["--port".to_owned(), port.to_string()]);
        self.port("http", port)
    }

    /// The app sends back whatever comes here: an unknown protocol.
    pub fn echo(mut self, port: u16) -> Self {
        self.app.extend(["--echo-port".to_owned(), port.to_string()]);
        self.port("echo", port)
    }

    /// The app sends every datagram back.
    pub fn udp(mut self, port: u16) -> Self {
        self.app.extend(["--udp-port".to_owned(), port.to_string()]);
        self.declare("datagrams", port, "UDP")
    }

    /// Declares a port by name, and leaves serving it to the test ([`Pod::listen`]).
    pub fn port(self, name: &str, number: u16) -> Self {
        self.declare(name, number, "TCP")
    }

    /// Another program in place of the app: any server that listens on `port` when it is ready. What it
    /// says is in [`Pod::log`].
    pub fn program(mut self, command: &[String], name: &str, port: u16) -> Self {
        self.program = Some((command.to_vec(), port));
        self.port(name, port)
    }

    fn declare(mut self, name: &str, number: u16, protocol: &'static str) -> Self {
        let port = Port { name: name.to_owned(), number, protocol, app_protocol: None };
        self.object.containers[0].ports.push(port);
        self
    }

    /// A readinessProbe of the app's container. Nobody calls it but who is asked to
    /// ([`crate::Kubelet::probe`]).
    pub fn readiness(mut self, path: &str, port: u16) -> Self {
        self.object.containers[0].readiness = Some((path.to_owned(), port));
        self
    }

    /// A readinessGate, by its condition's type.
    pub fn readiness_gate(mut self, condition: &str) -> Self {
        self.object.readiness_gates.push(condition.to_owned());
        self
    }

    /// The app ends its requests before it ends itself.
    pub fn graceful(mut self) -> Self {
        self.app.push("--graceful".to_owned());
        self
    }

    /// The preStop hook of the app's container; `GET /drain` unless set.
    pub fn hook(mut self, hook: Hook) -> Self {
        self.object.containers[0].hook = hook;
        self
    }

    /// One more container, with a process that waits for its SIGTERM.
    pub fn container(mut self, name: &str, hook: Hook) -> Self {
        self.object.containers.push(Container {
            name: name.to_owned(),
            hook,
            ports: Vec::new(),
            readiness: None,
        });
        self
    }

    /// terminationGracePeriodSeconds; 30 unless set.
    pub fn grace(mut self, seconds: u32) -> Self {
        self.object.grace = seconds;
        self
    }

    /// An address of this family only.
    pub fn only(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// A second link, on a network of its own.
    pub fn second_link(mut self) -> Self {
        self.second_link = true;
        self
    }

    /// Starts the pod, waits until its app serves, and enters it into the API and its Services.
    pub fn start(mut self) -> Result<Pod> {
        let node = self.node;
        let (host, number) = (node.host(), node.next_pod()?);
        let family = self.family.unwrap_or(node.family());
        let netns = Netns::new()?;
        plug_first(host.netns(), &netns, number)?;
        if self.second_link {
            node.second_bridge()?;
            plug(host.netns(), &netns, "br1", "eth1", (79, 0x79), number)?;
        }
        host.publish(&netns, &self.object.name)?;
        self.object.uid = format!("00000000-0000-4000-8000-{:012x}", number);
        self.object.ips = ips(number, family, 0x77)[..if self.family.is_some() { 1 } else { 2 }].to_vec();
        let mut processes = Vec::new();
        for container in &self.object.containers {
            let cgroup = format!("pods/{}", self.object.name);
            let process = if let (Some((program, port)), true) = (&self.program, processes.is_empty()) {
                let log = log_of(host, &self.object.name);
                program::start(host, &netns, &cgroup, program, *port, &log)?
            } else {
                let mut command = Command::new(binary("lastcall-app")?);
                if processes.is_empty() {
                    command.args(&self.app);
                }
                command.stdout(Stdio::piped());
                let process = host.start(command, &netns, &cgroup)?;
                wait_until_ready(&process)?;
                process
            };
            processes.push((container.name.clone(), process));
        }
        let name = self.object.name.clone();
        let (host, cluster) = (Arc::clone(host), Arc::clone(node.cluster()));
        cluster.put_pod(self.object)?;
        cluster.sync()?;
        let netns = Mutex::new(Some(netns));
        let pod = Pod(Arc::new(Inner { name, number, family, host, cluster, processes, netns }));
        node.remember(&pod);
        Ok(pod)
    }
}

fn log_of(host: &Host, pod: &str) -> std::path::PathBuf {
    host.outside(&format!("/run/{pod}.log"))
}

fn wait_until_ready(process: &Process) -> Result<()> {
    let mut line = String::new();
    BufReader::new(process.stdout()?).read_line(&mut line)?;
    if line.trim() != "ready" {
        bail!("the app did not start");
    }
    Ok(())
}

/// Connects the pod to the node's first bridge, and by it to everybody.
fn plug_first(node: &Netns, pod: &Netns, number: u8) -> Result<()> {
    plug(node, pod, "br0", "eth0", (77, 0x77), number)?;
    pod.ip("route add default via 10.77.0.1\nroute add default via fd00:77::1").map(drop)
}

/// Connects the pod to a bridge of the node, as a CNI plugin does.
fn plug(
    node: &Netns,
    pod: &Netns,
    bridge: &str,
    link: &str,
    (net4, net6): (u8, u16),
    number: u8,
) -> Result<()> {
    let veth = format!("{bridge}-pod{number}");
    node.ip(&format!(
        "link add {veth} type veth peer name {link} netns {}\nlink set {veth} master {bridge} up\n",
        pod.path()
    ))?;
    pod.ip(&format!(
        "addr add 10.{net4}.0.{number}/24 dev {link}\n\
         addr add fd00:{net6:x}::{number:x}/64 dev {link} nodad\n\
         link set {link} up\n"
    ))?;
    pod.wait_until_up(&[link])?;
    node.wait_until_up(&[&veth, bridge])
}
