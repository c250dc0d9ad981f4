//! What many scenarios begin with: a pod with one port that the test serves, an agent on its node, and a client
//! outside.

use std::sync::Arc;

use anyhow::Result;

use crate::{Agent, Client, Conn, Held, Hook, Node, Pod, Server, Stop};

/// The pod's port.
pub const PORT: u16 = 8080;

/// All of them; dropped together.
#[derive(Debug)]
pub struct Stage {
    /// It watches the pod from [`Stage::delete`] on.
    pub agent: Arc<Agent>,
    /// `web`, with a grace that is long enough for any scenario.
    pub pod: Pod,
    /// In the pod.
    pub server: Server,
    /// Elsewhere.
    pub client: Client,
}

impl Stage {
    /// By the port's name the agent knows what is spoken at it.
    pub fn start(node: &Node, port_name: &str, hook: &str) -> Result<Self> {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port(port_name, PORT).hook(Hook::http(hook)).grace(90).start()?;
        let server = pod.listen(PORT)?;
        Ok(Self { agent, pod, server, client: node.client()? })
    }

    /// Deletes the pod, and waits until its packets are watched and its clients are told.
    pub fn delete(&self, node: &Node) -> Result<Stop> {
        let stop = node.kubelet().delete(&self.pod)?;
        self.agent.watches(&self.pod)?;
        Ok(stop)
    }

    /// The same while somebody waits for an answer: the drain is not over before he has left, however long a test
    /// takes to begin.
    pub fn delete_held(&self, node: &Node) -> Result<(Stop, Held)> {
        let (conn, served) = self.accepted()?;
        let held = Held::ask(conn, served)?;
        Ok((self.delete(node)?, held))
    }

    /// A new connection, both ends of it.
    pub fn accepted(&self) -> Result<(Conn, Conn)> {
        let conn = self.client.connect(&self.pod, PORT)?;
        Ok((conn, self.server.accept()?))
    }
}
