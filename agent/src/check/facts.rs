//! What rules ask of a workload, worked out once.
//!
//! In: an [`Inventory`]. Out: a [`Case`] a workload: its hooks, who reaches it and how, its floor. What
//! the agent would know of such a pod comes from its own index ([`super::pod`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::Container;

use super::{
    Settings,
    hooks::{self, Hook},
    objects::{Inventory, ServiceObject, Workload, WorkloadKind, namespace_of},
    pod,
    reach::{ReachedPort, declares_a_port, reached, selects, targets, targets_pods},
    tree::Path,
};
use crate::{cluster::Exposure, contract::Contract, drain::policy};

/// What a pod gets that does not say (API server's default).
const DEFAULT_GRACE: i64 = 30;
/// The label that asks for the hook, on a pod or on its namespace.
pub(super) const INJECT: &str = "lastcall.dev/inject";

/// How sure it is that clients connect to the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Served {
    /// It says of no port, and no Service selects it.
    No,
    /// It declares a port; who uses it is not among the input.
    ByPort,
    /// A Service selects it.
    ByService,
}

/// A container that runs for as long as its pod.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) container: &'a Container,
    pub(super) path: Path,
    /// A native sidecar: it outlives the others.
    pub(super) sidecar: bool,
    pub(super) hook: Hook,
    /// Clients connect to it, as far as can be told.
    pub(super) serves: bool,
}

#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) workload: &'a Workload,
    pub(super) settings: &'a Settings,
    pub(super) inventory: &'a Inventory,
    pub(super) services: Vec<&'a ServiceObject>,
    pub(super) members: Vec<Member<'a>>,
    pub(super) served: Served,
    pub(super) exposure: Exposure,
    pub(super) ports: BTreeSet<ReachedPort>,
    pub(super) host_network: bool,
    /// A container declares or probes the hook's port.
    pub(super) hook_port_taken: bool,
    /// A load balancer's controller writes readiness gates into its pods.
    pub(super) gated: bool,
    /// The label asks for the hook.
    pub(super) injection_asked: bool,
}

impl<'a> Case<'a> {
    pub(super) fn new(workload: &'a Workload, inventory: &'a Inventory, settings: &'a Settings) -> Self {
        let namespace = namespace_of(&workload.origin.name);
        let neighbours = || {
            let services = inventory.services.iter();
            services.filter(move |object| namespace_of(&object.origin.name) == namespace)
        };
        let services: Vec<_> = neighbours().filter(|object| selects(&object.service, workload)).collect();
        let labels = inventory.namespaces.get(namespace);
        let gate_label = |labels: &BTreeMap<String, String>| {
            labels.get("elbv2.k8s.aws/pod-readiness-gate-inject").is_some_and(|value| value == "enabled")
        };
        let gate_injected = labels.is_some_and(gate_label)
            && services.iter().any(|object| targets_pods(object, inventory).is_some());
        let facts = pod::facts(workload, &services, neighbours(), gate_injected, settings);
        let (hooks, exposure) =
            facts.as_ref().map_or((&[][..], Exposure::Unknown), |facts| (&facts.hooks[..], facts.exposure));
        // The index calls it unknown where there is no Service to see; a whole namespace shows that.
        let exposure = match exposure {
            Exposure::Unknown if inventory.complete => Exposure::None,
            exposure => exposure,
        };
        let declared = workload.pod.containers.iter().any(declares_a_port);
        let served = match (services.is_empty(), declared, neighbours().next().is_some()) {
            (false, ..) => Served::ByService,
            (true, true, false) if !inventory.complete => Served::ByPort,
            _ => Served::No,
        };
        let asked = |labels: &BTreeMap<String, String>| labels.get(INJECT).map(|value| value == "true");
        // A pod's own label counts before its namespace's.
        let injection_asked =
            asked(&workload.labels).or_else(|| labels.and_then(asked)).unwrap_or(settings.injected);
        let host_network = workload.pod.host_network.unwrap_or(false);
        let mut case = Self {
            workload,
            settings,
            inventory,
            members: Vec::new(),
            served,
            exposure,
            ports: facts.as_ref().map(|facts| reached(facts, workload, &services)).unwrap_or_default(),
            host_network,
            hook_port_taken: facts.as_ref().is_some_and(|facts| facts.listens_on_hook_port),
            gated: exposure == Exposure::LoadBalancerIp,
            services,
            injection_asked,
        };
        case.members = case.members(hooks);
        case
    }

    fn members(&self, hooks: &[(String, String)]) -> Vec<Member<'a>> {
        let pod = &self.workload.pod;
        let targets: Vec<usize> = self.services.iter().flat_map(|object| targets(object, pod)).collect();
        let inject = self.injection_asked && self.injectable();
        let member = |list: &str, i: usize, container: &'a Container, sidecar: bool| Member {
            path: self.workload.pod_at.down(list).at(i),
            sidecar,
            hook: hooks::read(container, hooks, inject && !sidecar),
            serves: !sidecar
                && match self.served {
                    Served::No => false,
                    Served::ByPort => declares_a_port(container),
                    // A port that no container declares is anybody's: the first container's, by custom.
                    Served::ByService if targets.is_empty() => i == 0,
                    Served::ByService => targets.contains(&i),
                },
            container,
        };
        let containers = pod.containers.iter().enumerate().map(|(i, c)| member("containers", i, c, false));
        let sidecars = pod.init_containers.iter().flatten().enumerate();
        let sidecars = sidecars.filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"));
        containers.chain(sidecars.map(|(i, c)| member("initContainers", i, c, true))).collect()
    }

    /// The policy does not leave the pod out.
    pub(super) fn injectable(&self) -> bool {
        !self.host_network && self.grace_seconds() > 2
    }

    pub(super) fn grace_seconds(&self) -> i64 {
        self.workload.pod.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE)
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.grace_seconds()).unwrap_or(0))
    }

    /// The pod's contract: the strictest of its hooks'. `None` without a hook of lastcall's.
    pub(super) fn contract(&self) -> Option<Contract> {
        let floor = policy::floor(self.exposure);
        let contracts = self.members.iter().filter_map(|member| member.hook.contract());
        contracts.reduce(|all, one| all.strictest(&one, floor))
    }

    /// Replicas while it is rolled: at least what an autoscaler keeps. `None`: the manifest does not say.
    pub(super) fn replicas(&self) -> Option<i64> {
        let name = &self.workload.origin.name;
        let scaled = self.inventory.autoscalers.iter().find(|(namespace, kind, target, _)| {
            namespace == namespace_of(name) && *kind == name.kind && *target == name.name
        });
        match scaled {
            Some((.., least)) => Some((*least).max(self.workload.replicas.unwrap_or(0).into())),
            None => self.workload.replicas.map(Into::into),
        }
    }

    pub(super) fn runs_to_its_end(&self) -> bool {
        self.workload.kind == WorkloadKind::Job
    }
}
