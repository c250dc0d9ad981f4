//! Where a pod is: its network namespace, or why nobody can tell.
//!
//! A hook that waits is the kubelet's word that the pod is there. Where it cannot be found all the same
//! (another folder of namespaces, two that claim its address), the hook is held as long as it would have
//! slept without an agent: an answer at once would be worse than no agent at all.

use std::time::Duration;

use super::{Drain, Services, policy};
use crate::{causes, moment::Moment, sockets::Namespace};

/// How long a pod that nobody knows may stay so: its namespace is on its way, or it has none.
const UNKNOWN_POD: Duration = Duration::from_secs(5);

/// Where a pod is.
pub(super) enum Place {
    /// In this namespace; hostNetwork pods in the node's.
    Here(Namespace),
    /// Nowhere on this node.
    Gone,
    /// Nobody can tell, and its hook has been held for as long as without an agent.
    Unknown(String),
}

/// Looks for the pod by every address it is known by.
pub(super) async fn find(drain: &Drain, services: &Services) -> Place {
    loop {
        let identity = drain.identity();
        if let Some(facts) = identity.facts.as_ref().filter(|f| f.host_network) {
            if !facts.ports.is_empty() {
                return Place::Here(services.namespaces.node());
            }
            let why =
                "it shares the node's network and declares no port: its connections cannot be told apart";
            return held(drain, services, why.to_owned()).await;
        }
        let mut trouble = None;
        for address in &identity.addresses {
            match services.namespaces.find(*address).await {
                Ok(Some(namespace)) => return Place::Here(namespace),
                Ok(None) => {}
                Err(e) => trouble = Some(causes(&e)),
            }
        }
        if let Some(why) = trouble {
            tracing::warn!("{drain}: its network namespace cannot be told: {why}");
            return held(drain, services, format!("its network namespace cannot be told: {why}")).await;
        }
        let by = drain.began + UNKNOWN_POD;
        // The watch is mostly a few milliseconds earlier than the hook: none yet is not none.
        let called = drain.hooks_waiting() > 0;
        if Moment::now() >= by {
            return match identity.facts {
                Some(_) if called => {
                    let why = "no network namespace of this node has its address (--netns-dir)";
                    held(drain, services, why.to_owned()).await
                }
                _ => Place::Gone,
            };
        }
        tokio::select! {
            () = services.namespaces.changed() => {}
            () = drain.wake.removed.notified() => {}
            () = tokio::time::sleep_until(by.instant()) => {}
        }
    }
}

/// Holds the hook for as long as it would have slept without an agent, counted from its start.
async fn held(drain: &Drain, services: &Services, why: String) -> Place {
    let grace =
        drain.identity().facts.and_then(|f| f.termination_grace).unwrap_or(services.bounds.default_grace);
    let most = grace.saturating_sub(policy::reserve(drain.contract.reserve, grace));
    tokio::time::sleep_until((drain.began + services.bounds.nobody_home_wait.min(most)).instant()).await;
    Place::Unknown(why)
}
