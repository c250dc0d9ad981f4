//! What rules ask of a workload, worked out once.
//!
//! In: an [`Inventory`]. Out: a [`Case`] a workload: its hooks, who reaches it and how, its floor. Kinds
//! of Service, hooks and protocols are read by the agent's own index, from a pod made of the template: what
//! is said here is what the agent will do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Container, Pod, PodIP, PodReadinessGate, PodStatus, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{
    Settings,
    hooks::{self, Hook},
    objects::{Inventory, ServiceObject, Workload, WorkloadKind, namespace_of},
    tree::Path,
};
use crate::{
    cluster::{AppProtocol, Exposure, Index, Object, Options, PodFacts, PodName, Record, Transport},
    contract::Contract,
    drain::policy,
    moment::Moment,
};

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

/// A port of the pod that a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReachedPort {
    pub(super) port: u16,
    pub(super) protocol: AppProtocol,
    pub(super) tls: bool,
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
        let facts = facts(workload, &services, neighbours(), gate_injected, settings);
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

/// Which load balancer has pods, not nodes, as its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balancer {
    /// AWS, by an Ingress.
    Alb,
    /// AWS, by a Service.
    Nlb,
}

/// Whether a load balancer sends to the pods of this Service by their own addresses.
pub(super) fn targets_pods(object: &ServiceObject, inventory: &Inventory) -> Option<Balancer> {
    let name = &object.origin.name;
    if inventory.balanced.contains(&(namespace_of(name).to_owned(), name.name.clone())) {
        return Some(Balancer::Alb);
    }
    let is_balancer =
        object.service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let annotation = |key: &str| {
        let annotations = object.service.metadata.annotations.as_ref()?;
        annotations.get(&format!("service.beta.kubernetes.io/aws-load-balancer-{key}")).map(String::as_str)
    };
    let by_address = annotation("nlb-target-type") == Some("ip") || annotation("type") == Some("nlb-ip");
    (is_balancer && by_address).then_some(Balancer::Nlb)
}

fn selects(service: &Service, workload: &Workload) -> bool {
    let Some(spec) = &service.spec else { return false };
    let selector = spec.selector.iter().flatten();
    spec.type_.as_deref() != Some("ExternalName")
        && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
        && selector.into_iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// TCP or UDP ports that are not only for probes and scrapes.
fn declares_a_port(container: &Container) -> bool {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let probed: Vec<&IntOrString> =
        probes.into_iter().flatten().filter_map(|probe| Some(&probe.http_get.as_ref()?.port)).collect();
    container.ports.iter().flatten().any(|port| {
        let name = port.name.as_deref().unwrap_or_default();
        let housekeeping = ["metrics", "health", "probe", "prometheus", "admin", "debug", "pprof"];
        let only_probed = container.ports.iter().flatten().count() > 1
            && probed.iter().any(|probed| match probed {
                IntOrString::Int(number) => *number == port.container_port,
                IntOrString::String(text) => text == name,
            });
        !only_probed && !housekeeping.iter().any(|word| name.contains(word))
    })
}

/// The container port that a Service's port leads to: which container, and the number.
fn target(port: &ServicePort, pod: &k8s_openapi::api::core::v1::PodSpec) -> (Option<usize>, Option<i32>) {
    let declared = |matches: &dyn Fn(&k8s_openapi::api::core::v1::ContainerPort) -> bool| {
        let containers = pod.containers.iter().enumerate();
        containers.flat_map(|(i, c)| c.ports.iter().flatten().map(move |p| (i, p))).find(|(_, p)| matches(p))
    };
    let number = match &port.target_port {
        Some(IntOrString::String(text)) => match text.parse() {
            Ok(number) => number,
            Err(_) => {
                let found = declared(&|p| p.name.as_deref() == Some(text));
                return (found.map(|(i, _)| i), found.map(|(_, p)| p.container_port));
            }
        },
        Some(IntOrString::Int(number)) if *number > 0 => *number,
        _ => port.port,
    };
    (declared(&|p| p.container_port == number).map(|(i, _)| i), Some(number))
}

fn targets(object: &ServiceObject, pod: &k8s_openapi::api::core::v1::PodSpec) -> Vec<usize> {
    let ports = object.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| target(port, pod).0).collect()
}

/// The ports that Services lead to, with what they speak.
fn reached(facts: &PodFacts, workload: &Workload, services: &[&ServiceObject]) -> BTreeSet<ReachedPort> {
    let ports = services.iter().flat_map(|object| object.service.spec.iter());
    let tls: BTreeSet<i32> = ports
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            let number = target(port, &workload.pod).1?;
            let says = |text: &Option<String>| {
                let text = text.as_deref().unwrap_or_default().to_ascii_lowercase();
                ["https", "tls", "ssl", "wss"].iter().any(|word| text.starts_with(word))
            };
            let unsaid = port.app_protocol.is_none() && port.name.is_none();
            let usual = unsaid && (port.port == 443 || matches!(number, 443 | 8443));
            (says(&port.app_protocol) || says(&port.name) || usual).then_some(number)
        })
        .collect();
    let in_slice = facts.ports.iter().filter(|port| port.in_slice && port.transport == Transport::Tcp);
    in_slice
        .map(|port| ReachedPort {
            port: port.port,
            protocol: port.protocol,
            tls: tls.contains(&port.port.into()),
        })
        .collect()
}

/// What the agent would know of a pod of this workload.
fn facts<'a>(
    workload: &Workload,
    services: &[&ServiceObject],
    neighbours: impl Iterator<Item = &'a ServiceObject>,
    gate_injected: bool,
    settings: &Settings,
) -> Option<PodFacts> {
    let options = Options { node_name: None, hook_port: settings.hook_port, slices_start_drains: false };
    let namespace = namespace_of(&workload.origin.name);
    let name = PodName { namespace: namespace.to_owned(), name: "pod".to_owned() };
    let mut spec = workload.pod.clone();
    if gate_injected {
        let condition_type = "target-health.elbv2.k8s.aws/injected".to_owned();
        spec.readiness_gates.get_or_insert_default().push(PodReadinessGate { condition_type });
    }
    // Any address will do: the pod's slices below name it.
    let address = "192.0.2.1".to_owned();
    let metadata = |name: &str| ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    let pod = Pod {
        metadata: ObjectMeta { labels: Some(workload.labels.clone()), ..metadata("pod") },
        spec: Some(spec),
        status: Some(PodStatus {
            pod_ips: Some(vec![PodIP { ip: address.clone() }]),
            ..PodStatus::default()
        }),
    };
    let mut objects = vec![Object::Pod(Box::new(pod))];
    for (i, object) in neighbours.enumerate() {
        let mut service = object.service.clone();
        service.metadata.namespace = Some(namespace.to_owned());
        service.metadata.name.get_or_insert_with(|| format!("service-{i}"));
        objects.push(Object::Service(Box::new(service)));
    }
    for (i, object) in services.iter().enumerate() {
        let ports = object.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.map(|port| EndpointPort {
            app_protocol: port.app_protocol.clone(),
            name: port.name.clone(),
            port: target(port, &workload.pod).1,
            protocol: port.protocol.clone(),
        });
        let service = object.service.metadata.name.clone().unwrap_or_default();
        let labels = BTreeMap::from([("kubernetes.io/service-name".to_owned(), service)]);
        objects.push(Object::Slice(Box::new(EndpointSlice {
            metadata: ObjectMeta { labels: Some(labels), ..metadata(&format!("slice-{i}")) },
            address_type: "IPv4".to_owned(),
            endpoints: vec![Endpoint { addresses: vec![address.clone()], ..Endpoint::default() }],
            ports: Some(ports.collect()),
        })));
    }
    let mut index = Index::new(options);
    index.replace(
        objects.iter().filter_map(|object| Record::new(object, index.options())).collect::<Vec<_>>(),
        Moment::default(),
    );
    index.pod(&name).map(|facts| PodFacts::clone(facts))
}
