//! Who is the kubelet on this node.

use std::{sync::Arc, time::Duration};

use crate::{
    causes,
    config::{Config, Kubelet},
    kernel::Hook,
    sockets::{Filter, Namespaces, Ports},
};

/// The kubelet's usual name, where its cgroup cannot be found.
const USUAL: &str = "kubelet";
/// The id of the root cgroup.
const ROOT: u64 = 1;

/// How often its listener is looked for: a restarted kubelet has a new cgroup, and nothing announces it.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the hook programs informed, where the kubelet is known by its listener.
pub(super) async fn follow(config: Config, namespaces: Namespaces, hook: Arc<Hook>) {
    if config.kubelet.cgroup.is_some() || config.kubelet.process.is_some() {
        return;
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        // While it restarts, nobody listens, and it is still the one before.
        if let Some(cgroup) = listener_cgroup(&config, &namespaces).await {
            let found = known_by(cgroup, &config.kubelet);
            if let Err(e) = hook.set_kubelet(found.cgroup, found.process) {
                tracing::warn!(error = %causes(&e), "the kubelet's new cgroup could not be written down");
            }
        }
    }
}

async fn listener_cgroup(config: &Config, namespaces: &Namespaces) -> Option<u64> {
    let filter = Filter::listeners().on(Ports::Local(vec![config.kubelet.port]));
    match namespaces.node().dump_async(filter).await {
        Ok(dump) => dump.sockets.iter().map(|s| s.cgroup).find(|c| *c != 0),
        Err(e) => {
            tracing::warn!(error = %causes(&e), "looking for the kubelet's listener");
            None
        }
    }
}

/// Where the kubelet shares the root cgroup, its name tells it from the rest.
fn known_by(cgroup: u64, configured: &Kubelet) -> Kubelet {
    if cgroup == ROOT {
        Kubelet { process: Some(USUAL.to_owned()), ..configured.clone() }
    } else {
        Kubelet { cgroup: Some(cgroup), ..configured.clone() }
    }
}

/// As configured, or by its listener's cgroup.
pub(super) async fn find(config: &Config, namespaces: &Namespaces) -> Kubelet {
    let configured = &config.kubelet;
    if configured.cgroup.is_some() || configured.process.is_some() {
        return configured.clone();
    }
    match listener_cgroup(config, namespaces).await {
        Some(cgroup) => known_by(cgroup, configured),
        None => {
            tracing::info!(
                port = configured.port,
                "nobody listens on the kubelet's port: its calls are known by the process name {USUAL:?}"
            );
            Kubelet { process: Some(USUAL.to_owned()), ..configured.clone() }
        }
    }
}
