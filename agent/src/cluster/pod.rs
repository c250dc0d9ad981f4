//! What is kept of a Pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Pod, PodSpec, Probe},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{object::Options, port::DeclaredPort};

/// `terminationGracePeriodSeconds` where nobody set it (the API server always does).
pub(super) const DEFAULT_GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodRecord {
    /// There is a Pod object; else slices alone name it (files only).
    pub(super) object: bool,
    /// On this node.
    pub(super) local: bool,
    pub(super) uid: String,
    /// What the runtime calls a static pod (its mirror in the API has another UID).
    pub(super) static_uid: Option<String>,
    pub(super) node: Option<String>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) host_network: bool,
    pub(super) finished: bool,
    pub(super) workload: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ports: Vec<DeclaredPort>,
    pub(super) health_paths: BTreeSet<String>,
    pub(super) probes_per_second: f64,
    pub(super) killable_by_probe: bool,
    pub(super) load_balancer_gate: bool,
    pub(super) termination_grace: Option<Duration>,
    /// deletionTimestamp and the grace that goes with it.
    pub(super) deletion: Option<(i64, Duration)>,
    pub(super) hooks: Vec<(String, String)>,
    pub(super) listens_on_hook_port: bool,
}

impl PodRecord {
    pub(super) fn new(pod: &Pod, options: &Options) -> Self {
        let metadata = &pod.metadata;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let ips = status.and_then(|status| status.pod_ips.as_ref());

        let containers: Vec<&Container> = running_beside(spec).collect();
        let ports: Vec<DeclaredPort> =
            containers.iter().flat_map(|c| c.ports.iter().flatten()).filter_map(DeclaredPort::new).collect();
        // A startup probe has ended by the time a drain asks how many probes there are.
        let lasting = || {
            containers.iter().flat_map(|c| [&c.readiness_probe, &c.liveness_probe]).flatten().filter(to_pod)
        };
        let starting = containers.iter().filter_map(|c| c.startup_probe.as_ref());
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        let termination_grace = spec.termination_grace_period_seconds.map(seconds);
        Self {
            object: true,
            local: options.node_name.is_none() || options.node_name == spec.node_name,
            uid: metadata.uid.clone().unwrap_or_default(),
            static_uid: metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get("kubernetes.io/config.hash"))
                .cloned(),
            node: spec.node_name.clone(),
            addresses: ips
                .into_iter()
                .flatten()
                .map(|ip| &ip.ip)
                .chain(status.and_then(|status| status.pod_ip.as_ref()))
                .filter_map(|text| address(text))
                .collect(),
            host_network: spec.host_network.unwrap_or(false),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            workload: workload(metadata),
            labels: metadata.labels.clone().unwrap_or_default(),
            listens_on_hook_port: ports.iter().any(|port| port.port == options.hook_port)
                || containers.iter().any(|c| probed_at(c, options.hook_port)),
            ports,
            health_paths: lasting()
                .chain(starting)
                .filter_map(|probe| probe.http_get.as_ref())
                .map(path)
                .collect(),
            probes_per_second: lasting().map(connections_per_second).sum(),
            killable_by_probe: containers
                .iter()
                .filter(|c| hook(c, options.hook_port).is_some())
                .any(|c| c.liveness_probe.is_some() || c.startup_probe.is_some()),
            load_balancer_gate: spec.readiness_gates.iter().flatten().any(|gate| {
                gate.condition_type.starts_with("target-health.elbv2.k8s.aws/")
                    || gate.condition_type == "cloud.google.com/load-balancer-neg-ready"
            }),
            termination_grace,
            deletion: metadata.deletion_timestamp.as_ref().map(|time| {
                let said = metadata.deletion_grace_period_seconds.map(seconds);
                (time.0.as_second(), said.or(termination_grace).unwrap_or(DEFAULT_GRACE))
            }),
            hooks: containers.iter().filter_map(|c| hook(c, options.hook_port)).collect(),
        }
    }
}

/// An address as manifests write it; IPv4-mapped ones as IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// Containers and native sidecars. Other init containers have ended by the time a pod serves, and may
/// have no hooks.
fn running_beside(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// A probe with a `host` of its own goes elsewhere.
fn to_pod(probe: &&Probe) -> bool {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_deref());
    let tcp = probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref());
    http.or(tcp).is_none_or(str::is_empty)
}

fn connections_per_second(probe: &Probe) -> f64 {
    if probe.http_get.is_none() && probe.tcp_socket.is_none() && probe.grpc.is_none() {
        return 0.0;
    }
    1.0 / f64::from(probe.period_seconds.filter(|&seconds| seconds > 0).unwrap_or(10))
}

fn path(get: &HTTPGetAction) -> String {
    get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into())
}

/// The container's preStop hook, if it calls lastcall: its own pod's address, or the node's loopback
/// (the form for hostNetwork), at the hook's port.
fn hook(container: &Container, hook_port: u16) -> Option<(String, String)> {
    let get = container.lifecycle.as_ref()?.pre_stop.as_ref()?.http_get.as_ref()?;
    let here = matches!(get.host.as_deref(), None | Some("" | "127.0.0.1" | "::1" | "localhost"));
    (here && number(container, &get.port) == Some(hook_port.into()))
        .then(|| (container.name.clone(), path(get)))
}

/// A port by its number, a number in quotes, or the name of one of the container's own.
fn number(container: &Container, port: &IntOrString) -> Option<i32> {
    let named = |name: &str| {
        let ports = container.ports.iter().flatten();
        ports.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port).next()
    };
    match port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(text) => text.parse().ok().or_else(|| named(text)),
    }
}

/// A probe of the container goes to this port of the pod: something of the pod answers there.
fn probed_at(container: &Container, port: u16) -> bool {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let there = |probe: &&Probe| {
        let http = probe.http_get.as_ref().and_then(|get| number(container, &get.port));
        let tcp = probe.tcp_socket.as_ref().and_then(|socket| number(container, &socket.port));
        let grpc = probe.grpc.as_ref().map(|grpc| grpc.port);
        http.or(tcp).or(grpc) == Some(port.into())
    };
    probes.into_iter().flatten().filter(to_pod).any(|probe| there(&probe))
}

/// The owner that people know the pod by. A Deployment is not the pod's owner: its ReplicaSet is,
/// named after it and the template's hash.
fn workload(metadata: &ObjectMeta) -> String {
    let owners = metadata.owner_references.iter().flatten();
    let Some(owner) =
        owners.clone().find(|owner| owner.controller == Some(true)).or_else(|| owners.clone().next())
    else {
        return String::new();
    };
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    if owner.kind == "ReplicaSet"
        && let Some(hash) = hash
        && let Some(name) = owner.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-'))
    {
        return format!("Deployment/{name}");
    }
    format!("{}/{}", owner.kind, owner.name)
}
