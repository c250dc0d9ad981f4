//! How long each pod's hook sleeps while nobody is home, kept in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    causes,
    cluster::{Cluster, PodFacts, PodName},
    drain::{Services, policy},
    kernel::Hook,
};

pub(super) struct Waits {
    hook: Option<Arc<Hook>>,
    longest: Duration,
    default_grace: Duration,
    reserve: Duration,
    known: BTreeMap<PodName, BTreeSet<IpAddr>>,
}

/// min(`--nobody-home-wait`, grace − reserve).
pub(super) fn wait(longest: Duration, grace: Duration, reserve: Duration) -> Duration {
    longest.min(grace.saturating_sub(policy::reserve(reserve, grace)))
}

impl Waits {
    pub(super) fn new(hook: Option<Arc<Hook>>, longest: Duration, services: &Services) -> Self {
        Self {
            hook,
            longest,
            default_grace: services.bounds.default_grace,
            reserve: services.contract.reserve,
            known: BTreeMap::new(),
        }
    }

    /// For each address of the pod.
    pub(super) fn set(&mut self, facts: &PodFacts) {
        let Some(hook) = &self.hook else { return };
        if facts.host_network || facts.finished {
            return;
        }
        let grace = facts.termination_grace.unwrap_or(self.default_grace);
        let wait = wait(self.longest, grace, self.reserve);
        let before = self.known.insert(facts.name.clone(), facts.addresses.clone()).unwrap_or_default();
        for address in before.difference(&facts.addresses) {
            hook.remove_wait(*address);
        }
        for address in &facts.addresses {
            if let Err(e) = hook.set_wait(*address, wait, facts.listens_on_hook_port) {
                tracing::warn!(pod = %facts.name, error = %causes(&e), "without an agent its hook sleeps as an unknown pod's");
            }
        }
    }

    pub(super) fn remove(&mut self, name: &PodName) {
        let (Some(hook), Some(addresses)) = (&self.hook, self.known.remove(name)) else { return };
        for address in addresses {
            hook.remove_wait(address);
        }
    }

    /// Addresses that an earlier agent knew and no source names any more.
    pub(super) fn forget_strangers(&self, cluster: &Cluster) {
        let Some(hook) = &self.hook else { return };
        for address in hook.waits() {
            if cluster.by_address(address).is_none() {
                hook.remove_wait(address);
            }
        }
    }
}
