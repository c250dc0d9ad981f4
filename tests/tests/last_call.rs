//! The last call: clients of a draining pod are told to leave, and nothing else of what they hear changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Agent, Client, Conn, Hook, Node, Pod, Server, Stop, scenarios};

const PORT: u16 = 8080;
const CLOSE: &str = "Connection: close\r\n";

scenarios! {
    /// A client that stays is told with the answer after the first whole exchange that was seen.
    fn a_keep_alive_client_is_told(node) {
        let stage = Stage::start(node, "http", "/drain?settle=30s&last-call=http")?;
        let (mut conn, mut served) = stage.accepted()?;
        exchanged(&mut conn, &mut served, "")?;
        let _stop = stage.delete(node)?;
        exchanged(&mut conn, &mut served, "")?;
        exchanged(&mut conn, &mut served, CLOSE)?;
        exchanged(&mut conn, &mut served, "")?;
        Ok(())
    }
}

/// A whole exchange, byte for byte, with `told` in it.
fn exchanged(conn: &mut Conn, served: &mut Conn, told: &str) -> Result<()> {
    conn.get("/")?;
    served.request()?;
    served.respond("hello")?;
    conn.expect(format!("HTTP/1.1 200 OK\r\n{told}Content-Length: 5\r\n\r\nhello"))
}

/// A pod with one port that the test serves, an agent on its node, and a client outside.
struct Stage {
    agent: Arc<Agent>,
    pod: Pod,
    server: Server,
    client: Client,
}

impl Stage {
    fn start(node: &Node, port_name: &str, hook: &str) -> Result<Self> {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port(port_name, PORT).hook(Hook::http(hook)).grace(60).start()?;
        let server = pod.listen(PORT)?;
        Ok(Self { agent, pod, server, client: node.client()? })
    }

    /// Deletes the pod, and waits until its clients are told.
    fn delete(&self, node: &Node) -> Result<Stop> {
        let stop = node.kubelet().delete(&self.pod)?;
        self.agent.watches(&self.pod)?;
        Ok(stop)
    }

    /// A new connection, both ends of it.
    fn accepted(&self) -> Result<(Conn, Conn)> {
        let conn = self.client.connect(&self.pod, PORT)?;
        Ok((conn, self.server.accept()?))
    }
}
