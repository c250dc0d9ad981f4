//! A pod as meshes make it: what comes to a port is redirected to a proxy in the pod, which passes it on.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pod::Pod;
use crate::process::{Process, binary};

/// Where Istio's proxy takes what comes in.
pub const INBOUND: u16 = 15006;

/// Where the proxy listens, and so how packets get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// On every address: REDIRECT, as Istio and Linkerd do.
    Everywhere,
    /// On 127.0.0.1: DNAT, and `route_localnet`. There is no such thing in IPv6.
    Loopback,
}

/// A proxy before a port of a pod; it ends when its handle goes away.
#[derive(Debug)]
pub struct Mesh {
    _proxy: Process,
}

impl Mesh {
    /// Puts a proxy before `port` of the pod, for connections that come from now on.
    pub fn before(pod: &Pod, port: u16, front: Front) -> Result<Self> {
        let netns = pod.netns().context("the pod is gone")?;
        let (listen, to) = match front {
            Front::Everywhere => ("[::]", format!("redirect to :{INBOUND}")),
            Front::Loopback => ("127.0.0.1", format!("dnat ip to 127.0.0.1:{INBOUND}")),
        };
        let mut command = Command::new(binary("lastcall-app")?);
        command.args(["--forward-from", &format!("{listen}:{INBOUND}"), "--forward-to", &port.to_string()]);
        let proxy = pod.start_process({
            command.stdout(Stdio::piped());
            command
        })?;
        let mut line = String::new();
        BufReader::new(proxy.stdout()?).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the proxy did not start");
        netns.sysctl(&[("ipv4/conf/all/route_localnet", "1")])?;
        let rules = format!(
            "table inet mesh {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    \
             iifname \"eth*\" tcp dport {port} {to}\n  }}\n}}\n"
        );
        netns.command("nft", &["-f", "-"], &rules)?;
        Ok(Self { _proxy: proxy })
    }
}
