//! Somebody outside: a network namespace behind a link of its own to the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::conn::{Conn, Server};
use crate::host::Host;
use crate::load::{Kind, Load};
use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::Process;
use crate::program;

/// A dial that takes longer has failed.
const DIAL: Duration = Duration::from_secs(20);

/// A client. The node routes between it and the pods; it knows nothing of Services but their addresses.
#[derive(Clone, Debug)]
pub struct Client {
    host: Arc<Host>,
    netns: Netns,
    number: u8,
}

impl Client {
    /// Makes client `number` of the node: 10.78.N.2 and `fd00:78:N::2`, the node being `.1` and `::1`.
    pub(crate) fn new(host: &Arc<Host>, number: u8) -> Result<Self> {
        let netns = Netns::new()?;
        let link = format!("client{number}");
        host.netns().ip(&format!(
            "link add {link} type veth peer name eth0 netns {}\n\
             addr add 10.78.{number}.1/24 dev {link}\n\
             addr add fd00:78:{number}::1/64 dev {link} nodad\n\
             link set {link} up\n",
            netns.path()
        ))?;
        netns.ip(&format!(
            "addr add 10.78.{number}.2/24 dev eth0\n\
             addr add fd00:78:{number}::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.78.{number}.1\n\
             route add default via fd00:78:{number}::1\n"
        ))?;
        netns.wait_until_up(&["eth0"])?;
        host.netns().wait_until_up(&[&link])?;
        Ok(Self { host: Arc::clone(host), netns, number })
    }

    /// Its own addresses.
    pub fn ips(&self) -> [IpAddr; 2] {
        let number = self.number.into();
        [
            Ipv4Addr::new(10, 78, self.number, 2).into(),
            Ipv6Addr::new(0xfd00, 0x78, number, 0, 0, 0, 0, 2).into(),
        ]
    }

    /// The node's address as this client sees it, where NodePorts are.
    pub fn node_ips(&self) -> [IpAddr; 2] {
        let number = self.number.into();
        [
            Ipv4Addr::new(10, 78, self.number, 1).into(),
            Ipv6Addr::new(0xfd00, 0x78, number, 0, 0, 0, 0, 1).into(),
        ]
    }

    /// Connects to the pod itself, past all Services.
    pub fn connect(&self, pod: &Pod, port: u16) -> Result<Conn> {
        self.connect_to(pod.addr(port))
    }

    /// Connects to any address.
    pub fn connect_to(&self, to: SocketAddr) -> Result<Conn> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, DIAL));
        Conn::new(stream.with_context(|| format!("connect to {to}"))?)
    }

    /// Connects from a port of its own choice, which other connections may have too.
    pub fn connect_from(&self, port: u16, to: SocketAddr) -> Result<Conn> {
        let socket = self.run(|| -> Result<Socket> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(self.ips()[usize::from(to.is_ipv6())], port).into())?;
            socket.connect_timeout(&to.into(), DIAL)?;
            Ok(socket)
        });
        Conn::new(socket.with_context(|| format!("connect to {to} from port {port}"))?.into())
    }

    /// One request on a connection of its own, as clients without keep-alive make it.
    pub fn fetch(&self, to: SocketAddr, path: &str) -> Result<()> {
        let mut conn = self.connect_to(to)?;
        conn.get(path)?;
        conn.response().map(drop)
    }

    /// Connects to the pod many times.
    pub fn connect_many(&self, pod: &Pod, port: u16, count: usize) -> Result<Vec<Conn>> {
        let to = pod.addr(port);
        let streams =
            self.run(|| (0..count).map(|_| TcpStream::connect_timeout(&to, DIAL)).collect::<Vec<_>>());
        streams
            .into_iter()
            .map(|stream| Conn::new(stream.with_context(|| format!("connect to {to}"))?))
            .collect()
    }

    /// Listens outside, for connections that a pod opens.
    pub fn listen(&self, port: u16) -> Result<Server> {
        Server::listen(&self.netns, port)
    }

    /// Starts one of the demo's loads.
    pub fn load(&self, kind: Kind, target: SocketAddr) -> Result<Load> {
        Load::start(self, kind, target)
    }

    /// Runs `f` inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f)
    }

    /// Starts a process inside.
    pub fn start(&self, command: Command) -> Result<Process> {
        self.host.start(command, &self.netns, "clients")
    }

    /// Starts a server inside, as a proxy for other clients, and waits until it listens.
    pub fn start_program(&self, program: &[String], listens: SocketAddr, log: &Path) -> Result<Process> {
        program::start(&self.host, &self.netns, "clients", program, listens.port(), log)
    }

    /// Takes the client's cable out: packets to it and from it vanish without a word.
    pub fn unplug(&self) -> Result<()> {
        self.netns.ip("link set eth0 down").map(drop)
    }

    /// Its namespace, for `tc`, `nft` and the like.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}
