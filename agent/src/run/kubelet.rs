//! Who is the kubelet on this node.

use crate::{
    causes,
    config::{Config, Kubelet},
    sockets::{Filter, Namespaces, Ports},
};

/// The kubelet's usual name, where its cgroup cannot be found.
const USUAL: &str = "kubelet";

/// As configured, or by its listener's cgroup.
pub(super) async fn find(config: &Config, namespaces: &Namespaces) -> Kubelet {
    let configured = &config.kubelet;
    if configured.cgroup.is_some() || configured.process.is_some() {
        return configured.clone();
    }
    let filter = Filter::listeners().on(Ports::Local(vec![configured.port]));
    let cgroup = match namespaces.node().dump_async(filter).await {
        Ok(dump) => dump.sockets.iter().map(|s| s.cgroup).find(|c| *c != 0),
        Err(e) => {
            tracing::warn!(error = %causes(&e), "looking for the kubelet's listener");
            None
        }
    };
    match cgroup {
        // Where the kubelet shares the root cgroup, its name tells it from the rest.
        Some(1) | None => {
            tracing::info!(
                port = configured.port,
                "the kubelet's cgroup is not known: its calls are known by the process name {USUAL:?}"
            );
            Kubelet { process: Some(USUAL.to_owned()), ..configured.clone() }
        }
        cgroup => Kubelet { cgroup, ..configured.clone() },
    }
}
