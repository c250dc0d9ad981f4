//! A Service: where clients find the pods of an app.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use crate::manifest::{Port, ServiceKind, ServiceObject};
use crate::node::{Family, Node};

/// Where clients find a Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// The first port of its virtual address, in the node's family.
    pub address: SocketAddr,
    /// Its port on the node, if it has one.
    pub node_port: Option<u16>,
}

/// A Service in the making; see [`Node::service`].
#[derive(Debug)]
#[must_use]
pub struct ServiceBuilder<'n> {
    node: &'n Node,
    object: ServiceObject,
}

impl<'n> ServiceBuilder<'n> {
    /// Service `number` of the node, for the pods of the app `name`.
    pub(crate) fn new(node: &'n Node, name: &str, number: u8) -> Self {
        let ips = vec![[10, 96, 0, number].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()].into()];
        let object = ServiceObject {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            kind: ServiceKind::ClusterIp,
            ips,
            ports: Vec::new(),
            node_port: None,
        };
        Self { node, object }
    }

    /// Sends TCP from `port` of the Service to `target` of the pods; the name may say the protocol.
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        let to = Port { name: name.to_owned(), number: target, protocol: "TCP", app_protocol: None };
        self.object.ports.push((port, to));
        self
    }

    /// Sends UDP from `port` of the Service to `target` of the pods.
    pub fn udp_port(mut self, name: &str, port: u16, target: u16) -> Self {
        let to = Port { name: name.to_owned(), number: target, protocol: "UDP", app_protocol: None };
        self.object.ports.push((port, to));
        self
    }

    /// The appProtocol of the port named last.
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        if let Some((_, port)) = self.object.ports.last_mut() {
            port.app_protocol = Some(protocol.to_owned());
        }
        self
    }

    /// Headless, NodePort, … instead of ClusterIP.
    pub fn kind(mut self, kind: ServiceKind) -> Self {
        self.object.kind = kind;
        self
    }

    /// Enters the Service into the cluster. The rules follow; [`Node::proxy_synced`] waits for them.
    pub fn start(mut self) -> Result<Service> {
        let number = self.object.ips[0];
        if let (ServiceKind::NodePort { .. }, IpAddr::V4(ip)) = (self.object.kind, number) {
            self.object.node_port = Some(30_000 + u16::from(ip.octets()[3]));
        }
        let ip = self.object.ips[usize::from(self.node.family() == Family::Ipv6)];
        let port = self.object.ports.first().context("a Service without a port")?.0;
        let service = Service { address: SocketAddr::new(ip, port), node_port: self.object.node_port };
        self.node.cluster().put_service(self.object)?;
        Ok(service)
    }
}
