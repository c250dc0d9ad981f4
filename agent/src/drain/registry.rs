//! One drain a pod, whoever asks for it first.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Drain, Services, Verdict,
    policy::{self, Outcome},
    task,
};
use crate::{
    cluster::{PodFacts, PodName},
    contract::{self, Contract},
    moment::Moment,
};

/// Every drain of this node.
pub struct Drains {
    services: Arc<Services>,
    running: Arc<Mutex<Vec<Arc<Drain>>>>,
    /// UIDs of Terminating pods whose drains are over. Their objects stay until the kubelet has cleaned up,
    /// and with a finalizer for longer.
    over: Arc<Mutex<BTreeSet<String>>>,
}

/// What a hook says of its pod.
pub struct Asked {
    /// The address that was dialled, if one was.
    pub address: Option<IpAddr>,
    /// The pod's name, where it was named, or the sources know the address.
    pub facts: Option<Arc<PodFacts>>,
    /// The contract of its path.
    pub contract: Contract,
    /// When it came.
    pub began: Moment,
    /// By when an earlier agent had promised an answer.
    pub deadline: Option<Moment>,
}

impl Drains {
    /// None yet.
    pub fn new(services: Arc<Services>) -> Self {
        Self { services, running: Arc::default(), over: Arc::default() }
    }

    /// What they share.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// All of them, also those that are decided and whose pods are not gone yet.
    pub fn list(&self) -> Vec<Arc<Drain>> {
        self.lock().clone()
    }

    /// The pods that drain at the moment of asking and are not decided, as far as they have names.
    pub fn draining(&self) -> impl Fn() -> BTreeSet<PodName> + Send + Sync + 'static {
        let running = Arc::clone(&self.running);
        move || {
            let running = running.lock().unwrap_or_else(PoisonError::into_inner);
            let undecided = running.iter().filter(|drain| drain.progress.borrow().verdict.is_none());
            undecided.filter_map(|drain| drain.name()).collect()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Drain>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The drain of a pod, by whatever is known of it.
    pub fn find(
        &self,
        name: Option<&PodName>,
        uid: &str,
        addresses: &BTreeSet<IpAddr>,
    ) -> Option<Arc<Drain>> {
        self.lock().iter().find(|d| same(d, name, uid, addresses)).cloned()
    }

    /// The sources say that a pod is Terminating: starts its drain, or tells the one that a hook started.
    pub fn terminating(&self, facts: &Arc<PodFacts>) {
        let Some(end) = &facts.terminating else { return };
        let mut running = self.lock();
        if let Some(drain) = running.iter().find(|d| same(d, Some(&facts.name), &facts.uid, &facts.addresses))
        {
            drain.learn(Some(Arc::clone(facts)), []);
            drain.wake.removed.notify_one();
            return;
        }
        if self.over.lock().unwrap_or_else(PoisonError::into_inner).contains(&facts.uid) {
            return;
        }
        let contract = self.contract_of(facts).unwrap_or_else(|| self.services.contract.clone());
        self.start(&mut running, end.first_seen, contract, Some(Arc::clone(facts)), None);
    }

    /// A hook came: starts its pod's drain, or joins it.
    pub fn asked(&self, asked: Asked) -> Arc<Drain> {
        let mut addresses: BTreeSet<IpAddr> = asked.address.into_iter().collect();
        addresses.extend(asked.facts.iter().flat_map(|f| f.addresses.iter().copied()));
        let (name, uid) = match &asked.facts {
            Some(facts) => (Some(&facts.name), facts.uid.as_str()),
            None => (None, ""),
        };
        let mut running = self.lock();
        if let Some(drain) = running.iter().find(|d| same(d, name, uid, &addresses)) {
            drain.learn(asked.facts.clone(), asked.address);
            asked.deadline.into_iter().for_each(|d| drain.promise(d));
            return Arc::clone(drain);
        }
        // The whole contract stands in the pod's spec; a request says only what its caller wrote.
        let contract = asked.facts.as_ref().and_then(|f| self.contract_of(f)).unwrap_or(asked.contract);
        let began = match asked.facts.as_ref().and_then(|f| f.terminating.as_ref()) {
            Some(end) => end.first_seen.min(asked.began),
            None => asked.began,
        };
        let drain = self.start(&mut running, began, contract, asked.facts, asked.address);
        asked.deadline.into_iter().for_each(|d| drain.promise(d));
        drain
    }

    /// The strictest of the pod's hooks; `None` where it has none.
    fn contract_of(&self, facts: &PodFacts) -> Option<Contract> {
        let contracts = facts.hooks.iter().map(|(container, path)| {
            let query = path.split_once('?').map_or("", |(_, query)| query);
            let (contract, warnings) = contract::read(query, &self.services.contract);
            for warning in warnings {
                tracing::warn!(pod = %facts.name, container, "{warning}");
            }
            contract
        });
        contracts.reduce(|a, b| a.strictest(&b, policy::floor(facts.exposure)))
    }

    fn start(
        &self,
        running: &mut Vec<Arc<Drain>>,
        began: Moment,
        contract: Contract,
        facts: Option<Arc<PodFacts>>,
        address: Option<IpAddr>,
    ) -> Arc<Drain> {
        let addresses: BTreeSet<IpAddr> =
            address.iter().chain(facts.iter().flat_map(|f| &f.addresses)).copied().collect();
        // Pods that share the node's addresses have nothing else of each other's.
        let on_node = |facts: Option<&PodFacts>| facts.is_some_and(|facts| facts.host_network);
        let shared = on_node(facts.as_deref());
        let earlier = |d: &Arc<Drain>| {
            let other = d.identity();
            let by_name = facts
                .as_ref()
                .is_some_and(|facts| other.facts.as_ref().is_some_and(|others| others.name == facts.name));
            by_name || !shared && !on_node(other.facts.as_deref()) && !other.addresses.is_disjoint(&addresses)
        };
        let before = running.iter().rev().find(|d| earlier(d)).cloned();
        let drain = Arc::new(Drain::new(began, contract, Arc::clone(&self.services.listener), before));
        drain.learn(facts, address);
        running.push(Arc::clone(&drain));
        let (services, list) = (Arc::clone(&self.services), Arc::clone(&self.running));
        let (over, task) = (Arc::clone(&self.over), Arc::clone(&drain));
        tokio::spawn(async move {
            task::run(&task, Arc::clone(&services)).await;
            let ended = task.identity().facts.filter(|f| f.terminating.is_some() && !f.uid.is_empty());
            if let Some(pod) = ended {
                let mut over = over.lock().unwrap_or_else(PoisonError::into_inner);
                over.retain(|uid| services.cluster.by_uid(uid).is_some());
                over.insert(pod.uid.clone());
            }
            list.lock().unwrap_or_else(PoisonError::into_inner).retain(|d| !Arc::ptr_eq(d, &task));
            task.progress.send_modify(|p| p.over = true);
        });
        drain
    }
}

/// The hooks of one stop come together; one that comes later than this after the verdict is of another.
const ONE_STOP: Duration = Duration::from_secs(2);

/// Is this drain that pod's? One that was decided while the pod was not Terminating may have been of a
/// container's restart: what comes later is another stop, with traffic of its own.
fn same(drain: &Drain, name: Option<&PodName>, uid: &str, addresses: &BTreeSet<IpAddr>) -> bool {
    let past =
        |v: &Verdict| v.outcome == Outcome::Restart || !v.terminating && Moment::now() > v.at + ONE_STOP;
    if drain.progress.borrow().verdict.as_deref().is_some_and(past) {
        return false;
    }
    let identity = drain.identity();
    match (&identity.facts, name) {
        (Some(facts), Some(name)) => {
            facts.name == *name && (facts.uid.is_empty() || uid.is_empty() || facts.uid == uid)
        }
        // One side has only an address: pods of one node share none, but for the node's own.
        (Some(facts), None) if facts.host_network => false,
        _ => !identity.addresses.is_disjoint(addresses),
    }
}
