//! One namespace's records in, the facts of its pods out. Pure.
//!
//! All that a slice or a Service can say about a pod it says within a namespace, so that a stranger's
//! slice changes nothing is how this is built, not a check that can be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    PodFacts, Terminating,
    end::{self, Deletion},
    exposure::{self, Route},
    pod::{DEFAULT_GRACE, PodRecord},
    port,
    service::ServiceRecord,
    slice::{EndpointRecord, SliceRecord, Target},
};
use crate::{cluster::PodName, moment::Moment};

#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    pub(super) pods: BTreeMap<String, PodRecord>,
    pub(super) slices: BTreeMap<String, SliceRecord>,
    pub(super) services: BTreeMap<String, ServiceRecord>,
    /// Its slices have been listed, if there are none then there are none.
    pub(super) slices_listed: bool,
}

impl Namespace {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.slices.is_empty() && self.services.is_empty()
    }
}

type Believed<'a> = (&'a SliceRecord, &'a EndpointRecord);

/// A namespace's endpoints by what may tie them to a pod.
pub(super) struct Joiner<'a> {
    namespace: &'a Namespace,
    /// What slices say starts drains and gives addresses, but not these: Pod objects have them.
    from_slices: Option<&'a BTreeSet<IpAddr>>,
    complete: bool,
    endpoints: Vec<Believed<'a>>,
    by_uid: HashMap<&'a str, Vec<usize>>,
    by_name: HashMap<&'a str, Vec<usize>>,
    by_address: HashMap<IpAddr, Vec<usize>>,
    /// Ready endpoints of a Service on a node.
    ready: HashMap<(&'a str, Option<&'a str>), usize>,
}

impl<'a> Joiner<'a> {
    /// `from_slices`: the addresses of Pod objects, if beyond those the slices' word is taken (files);
    /// `complete`: the source shows slices and Services of this namespace, if there are any.
    pub(super) fn new(
        namespace: &'a Namespace,
        from_slices: Option<&'a BTreeSet<IpAddr>>,
        complete: bool,
    ) -> Self {
        let mut joiner = Self {
            namespace,
            from_slices,
            complete,
            endpoints: Vec::new(),
            by_uid: HashMap::new(),
            by_name: HashMap::new(),
            by_address: HashMap::new(),
            ready: HashMap::new(),
        };
        for slice in namespace.slices.values() {
            for endpoint in &slice.endpoints {
                joiner.add(slice, endpoint);
            }
        }
        joiner
    }

    fn add(&mut self, slice: &'a SliceRecord, endpoint: &'a EndpointRecord) {
        let at = self.endpoints.len();
        self.endpoints.push((slice, endpoint));
        match &endpoint.target {
            Target::Pod { name, uid } => {
                if !uid.is_empty() {
                    self.by_uid.entry(uid).or_default().push(at);
                }
                self.by_name.entry(name).or_default().push(at);
            }
            Target::Address => {
                for address in &endpoint.addresses {
                    self.by_address.entry(*address).or_default().push(at);
                }
            }
            Target::Other => {}
        }
        if let Some(service) = &slice.service
            && endpoint.is_ready()
        {
            *self.ready.entry((service, endpoint.node.as_deref())).or_default() += 1;
        }
    }

    /// The facts of one pod; `before`: the last ones under its name.
    pub(super) fn facts(
        &self,
        name: PodName,
        pod: &PodRecord,
        before: Option<&PodFacts>,
        now: Moment,
    ) -> PodFacts {
        let believed = self.believed(&name.name, pod);
        let mut addresses = pod.addresses.clone();
        if addresses.is_empty()
            && let Some(taken) = self.from_slices
        {
            let said = believed.iter().flat_map(|(_, endpoint)| &endpoint.addresses);
            addresses.extend(said.filter(|address| !taken.contains(address)));
        }
        let terminating = self.terminating(pod, &believed, same_pod(before, &pod.uid), now);
        PodFacts {
            others_ready: terminating.as_ref().and_then(|_| self.others_ready(&believed)),
            terminating,
            ports: port::ports(believed.iter().flat_map(|(slice, _)| &slice.ports), &pod.ports),
            exposure: exposure::exposure(pod.load_balancer_gate, self.routes(pod, &believed), self.complete),
            name,
            uid: pod.uid.clone(),
            addresses,
            host_network: pod.host_network,
            finished: pod.finished,
            workload: pod.workload.clone(),
            health_paths: pod.health_paths.clone(),
            probes_per_second: pod.probes_per_second,
            killable_by_probe: pod.killable_by_probe,
            termination_grace: pod.termination_grace,
            hooks: pod.hooks.clone(),
            listens_on_hook_port: pod.listens_on_hook_port,
        }
    }

    /// Ready endpoints, itself not among them, of the Services whose slices name the pod; of several Services,
    /// and of the two address families of each, the most: a client chooses among those of one.
    fn others_ready(&self, believed: &[Believed<'_>]) -> Option<usize> {
        let of = |slice: &SliceRecord| Some((slice.service.clone()?, slice.ipv6));
        let ways: BTreeSet<(String, bool)> = believed.iter().filter_map(|(slice, _)| of(slice)).collect();
        let others = ways.into_iter().map(|way| {
            let slices = self.namespace.slices.values().filter(|slice| of(slice).as_ref() == Some(&way));
            let own = believed.iter().filter(|(slice, e)| of(slice).as_ref() == Some(&way) && e.is_ready());
            slices.map(|slice| slice.ready).sum::<usize>().saturating_sub(own.count())
        });
        others.max()
    }

    fn believed(&self, name: &str, pod: &PodRecord) -> Vec<Believed<'a>> {
        let none = Vec::new();
        let candidates: BTreeSet<usize> = [self.by_uid.get(pod.uid.as_str()), self.by_name.get(name)]
            .into_iter()
            .chain(pod.addresses.iter().map(|address| self.by_address.get(address)))
            .flat_map(|found| found.unwrap_or(&none))
            .copied()
            .collect();
        candidates
            .into_iter()
            .map(|at| self.endpoints[at])
            .filter(|(_, endpoint)| endpoint.is(name, pod))
            .collect()
    }

    fn terminating(
        &self,
        pod: &PodRecord,
        believed: &[Believed<'_>],
        before: Option<&Terminating>,
        now: Moment,
    ) -> Option<Terminating> {
        let withdrawn = believed.iter().any(|(_, endpoint)| !endpoint.ready);
        let by_slice =
            self.from_slices.is_some() && believed.iter().any(|(_, endpoint)| endpoint.terminating);
        let seen = match pod.deletion {
            Some((timestamp, grace)) => {
                Some(Deletion { timestamp: Some(timestamp), grace: Some(grace), withdrawn })
            }
            None if by_slice => {
                let grace = pod.object.then(|| pod.termination_grace.unwrap_or(DEFAULT_GRACE));
                Some(Deletion { timestamp: None, grace, withdrawn })
            }
            // A list from a cache that lags may be older than the deletion, which nothing takes back.
            None if self.from_slices.is_none() && before.is_some() => return before.cloned(),
            None => None,
        };
        end::advance(before, seen, now)
    }

    /// One route per Service that selects the pod or has a slice that names it, and one for the
    /// slices that belong to no Service.
    fn routes(&self, pod: &PodRecord, believed: &[Believed<'_>]) -> Vec<Route> {
        let node = pod.node.as_deref().or_else(|| believed.iter().find_map(|(_, e)| e.node.as_deref()));
        let mut routes: BTreeMap<Option<&str>, Route> = BTreeMap::new();
        for (name, service) in &self.namespace.services {
            if service.selects(&pod.labels) {
                routes.entry(Some(name)).or_default();
            }
        }
        for (slice, _) in believed {
            routes.entry(slice.service.as_deref()).or_default().headless |= slice.headless;
        }
        for (name, route) in &mut routes {
            let Some(name) = *name else { continue };
            let Some(service) = self.namespace.services.get(name) else { continue };
            let own = believed
                .iter()
                .filter(|(slice, e)| {
                    slice.service.as_deref() == Some(name) && e.node.as_deref() == node && e.is_ready()
                })
                .count();
            route.known = true;
            route.headless |= service.headless;
            route.local = service.local;
            route.others_ready = self.ready.get(&(name, node)).is_some_and(|&ready| ready > own);
        }
        routes.into_values().collect()
    }
}

/// What was known of this very pod: another UID under the same name is another pod. A UID that
/// becomes known (a Pod object beside slices without one) is the same.
fn same_pod<'f>(before: Option<&'f PodFacts>, uid: &str) -> Option<&'f Terminating> {
    let before = before?;
    let same = before.uid == uid || before.uid.is_empty() || uid.is_empty();
    before.terminating.as_ref().filter(|_| same)
}
