//! The answering side of the hook: which drain a call waits for, and what it is told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;

use super::pages::Node;
use crate::{
    cluster::PodFacts,
    contract::{Audience, Contract},
    drain::{Drain, Drains, Verdict, policy, registry},
    hook::{
        answer::{Answer, Outcome, Remained, Reply, Told},
        desk::{Call, Callee, Desk, StatusRequest},
        fault::Fault,
        identity::Workload,
    },
    kernel::Hook,
    moment::Moment,
    report::{labels::BadRequest, metrics::Metrics},
};

/// How long a dialled pod that nobody knows is waited for before the hook is sent away: what the
/// hook would have slept without an agent.
const UNKNOWN_POD: Duration = super::UNKNOWN_WAIT;

pub(super) struct NodeDesk {
    drains: Arc<Drains>,
    hook: Option<Arc<Hook>>,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
}

impl NodeDesk {
    pub(super) fn new(
        drains: Arc<Drains>,
        hook: Option<Arc<Hook>>,
        node: Arc<Node>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { drains, hook, node, metrics }
    }

    /// Which drains the call waits for; `Err` says why there is none.
    fn find(&self, call: &Call) -> Result<Vec<Arc<Drain>>, String> {
        let cluster = &self.drains.services().cluster;
        match &call.callee {
            Callee::Dialled { pod: Some(address), .. } => {
                Ok(vec![self.drains.asked(asked(call, Some(*address), cluster.by_address(*address)))])
            }
            Callee::Dialled { pod: None, .. } => {
                Err("which pod was dialled is not known any more".to_owned())
            }
            Callee::Named(name) => {
                let facts = cluster.pod(name);
                let uid = facts.as_ref().map_or("", |f| f.uid.as_str());
                let addresses = facts.as_ref().map(|f| f.addresses.clone()).unwrap_or_default();
                if let Some(drain) = self.drains.find(Some(name), uid, &addresses) {
                    return Ok(vec![drain]);
                }
                match facts {
                    Some(facts) if call.from_kubelet && facts.host_network && !facts.hooks.is_empty() => {
                        Ok(vec![self.drains.asked(asked(call, None, Some(facts)))])
                    }
                    Some(_) => Err(format!("{name} does not drain, and only its own hook starts its drain")),
                    None => Err(format!("no pod {name} on this node")),
                }
            }
            Callee::Workload(workload) => {
                let drains = self.drains_of(workload, call, &BTreeSet::new());
                if drains.is_empty() {
                    return Err(format!(
                        "no hostNetwork pod of {workload} with the hook drains on this node"
                    ));
                }
                Ok(drains)
            }
        }
    }
}

impl NodeDesk {
    /// The drains of a workload's pods here that stop, but of those `without`, by UID. Where none is
    /// Terminating, one of them stops and nobody can tell which: all.
    fn drains_of(&self, workload: &Workload, call: &Call, without: &BTreeSet<String>) -> Vec<Arc<Drain>> {
        let mut pods = self.drains.services().cluster.snapshot();
        pods.retain(|pod| workload.has(pod) && pod.host_network && !pod.hooks.is_empty() && !pod.finished);
        if pods.iter().any(|pod| pod.terminating.is_some()) {
            pods.retain(|pod| pod.terminating.is_some());
        }
        pods.retain(|pod| !without.contains(&pod.uid));
        let drain_of = |pod: Arc<PodFacts>| match self.drains.find(Some(&pod.name), &pod.uid, &pod.addresses)
        {
            None if call.from_kubelet => Some(self.drains.asked(asked(call, None, Some(pod)))),
            running => running,
        };
        pods.into_iter().filter_map(drain_of).collect()
    }

    /// The same, where the caller is the kubelet with patience: an answer at once would be SIGTERM at once
    /// for some pod, and the source may not have told of it yet. Least of all of a hook that this agent has
    /// only just taken back, so its patience is counted from here, however old the hook is.
    async fn found(&self, call: &Call) -> Result<Vec<Arc<Drain>>, String> {
        let mut changes = self.drains.services().cluster.subscribe();
        let by = Moment::now() + UNKNOWN_POD;
        loop {
            let why = match self.find(call) {
                Ok(drains) => return Ok(drains),
                Err(why) => why,
            };
            if !call.from_kubelet || Moment::now() >= by {
                return Err(why);
            }
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep_until(by.instant()) => {}
            }
        }
    }

    /// Waits for all of them, and for those that a workload has got meanwhile: of two pods that go at once
    /// the source may have told of the other first. The one that ended worst tells how it went.
    async fn slowest(&self, call: &Call, mut drains: Vec<Arc<Drain>>) -> Arc<Drain> {
        let mut worst: Option<(Arc<Drain>, u8)> = None;
        let mut waited_for = BTreeSet::new();
        while let Some(drain) = drains.pop() {
            let verdict = drain.verdict();
            tokio::pin!(verdict);
            let verdict = tokio::select! {
                verdict = &mut verdict => verdict,
                // Known once somebody has looked, which is after the first hook has come.
                deadline = drain.deadline() => {
                    call.book.deadline(deadline);
                    verdict.await
                }
            };
            waited_for.extend(drain.identity().facts.map(|pod| pod.uid.clone()));
            let badness = match verdict.outcome {
                policy::Outcome::Deadline => 4,
                policy::Outcome::Busy => 3,
                policy::Outcome::Forced => 2,
                policy::Outcome::Drained => 1,
                policy::Outcome::Gone | policy::Outcome::Restart => 0,
            };
            if worst.as_ref().is_none_or(|(_, before)| badness > *before) {
                worst = Some((Arc::clone(&drain), badness));
            }
            if let (true, Callee::Workload(workload)) = (drains.is_empty(), &call.callee) {
                drains = self.drains_of(workload, call, &waited_for);
                drains.retain(|drain| drain.identity().facts.is_some_and(|pod| pod.terminating.is_some()));
            }
        }
        match worst {
            Some((drain, _)) => drain,
            // Whoever calls has found some.
            None => std::future::pending().await,
        }
    }
}

impl Desk for NodeDesk {
    fn defaults(&self) -> Contract {
        self.drains.services().contract.clone()
    }

    fn dialled(&self, bits: u32) -> Option<IpAddr> {
        self.hook.as_ref()?.dialled(bits)
    }

    fn is_kubelet(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        self.hook.as_ref().is_some_and(|h| h.is_kubelets(local, peer))
    }

    fn fault(&self, fault: Fault) {
        self.metrics.bad_request(match fault {
            Fault::Method => BadRequest::Method,
            Fault::Path => BadRequest::Path,
            Fault::Parameter => BadRequest::Parameter,
            Fault::Headers => BadRequest::Headers,
            Fault::Slow => BadRequest::Slow,
            Fault::Body => BadRequest::Body,
            Fault::TooMany => BadRequest::TooMany,
            Fault::Host => BadRequest::Host,
            Fault::NotTheKubelet => BadRequest::NotTheKubelet,
        });
    }

    async fn drain(&self, call: Call) -> Answer {
        let drain = match self.found(&call).await {
            Ok(drains) => self.slowest(&call, drains).await,
            Err(why) => {
                self.metrics.bad_request(BadRequest::NoPod);
                return no_such_pod(why, call.began);
            }
        };
        let verdict = drain.verdict().await;
        let waited = Moment::now().since(call.began);
        self.metrics.hook_answered(waited);
        if verdict.outcome == policy::Outcome::Gone && !verdict.seen && drain.identity().facts.is_none() {
            return no_such_pod("no pod of this node has that address".to_owned(), call.began);
        }
        answer(&verdict, waited)
    }

    async fn status(&self, request: StatusRequest) -> Reply {
        match self.node.page(&request.page) {
            Some(reply) => reply,
            None => Reply::refused(StatusCode::NOT_FOUND, "no such pod drains on this node"),
        }
    }
}

fn asked(call: &Call, address: Option<IpAddr>, facts: Option<Arc<PodFacts>>) -> registry::Asked {
    registry::Asked {
        address,
        facts,
        contract: call.contract.clone(),
        began: call.began,
        // A path may be anybody's: only what the kubelet waits for was promised to it.
        deadline: call.deadline.filter(|_| call.from_kubelet),
    }
}

fn no_such_pod(why: String, began: Moment) -> Answer {
    Answer {
        outcome: Outcome::NoSuchPod,
        waited: Moment::now().since(began),
        remained: Remained::default(),
        last_call: None,
        why,
        warnings: Vec::new(),
        last_close_to_answer: None,
    }
}

fn answer(verdict: &Verdict, waited: Duration) -> Answer {
    let v = &verdict.view;
    Answer {
        outcome: match verdict.outcome {
            policy::Outcome::Drained => Outcome::Drained,
            policy::Outcome::Busy => Outcome::Busy,
            policy::Outcome::Deadline => Outcome::Deadline,
            policy::Outcome::Forced => Outcome::Forced,
            policy::Outcome::Restart => Outcome::Restart,
            policy::Outcome::Gone => Outcome::Gone,
        },
        waited,
        remained: Remained {
            open: v.open as u64,
            in_flight: v.in_flight as u64,
            doubt: v.doubt as u64,
            vanished: v.vanished as u64,
            flows: v.flows as u64,
        },
        last_call: (verdict.audience != Audience::Nobody).then_some(Told {
            told: v.told,
            left: v.told_left,
            stayed: v.told_stayed,
        }),
        why: verdict.why.clone(),
        warnings: Vec::new(),
        last_close_to_answer: verdict.after_last_close,
    }
}
