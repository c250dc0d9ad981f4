//! How clients reach a workload: which Services, which of its containers, which ports.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, PodSpec, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::objects::{Inventory, ServiceObject, Workload, namespace_of};
use crate::cluster::{AppProtocol, PodFacts, Transport};

/// A port of the pod that a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReachedPort {
    pub(super) port: u16,
    pub(super) protocol: AppProtocol,
    pub(super) tls: bool,
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

pub(super) fn selects(service: &Service, workload: &Workload) -> bool {
    let Some(spec) = &service.spec else { return false };
    let selector = spec.selector.iter().flatten();
    spec.type_.as_deref() != Some("ExternalName")
        && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
        && selector.into_iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// TCP or UDP ports that are not only for probes and scrapes.
pub(super) fn declares_a_port(container: &Container) -> bool {
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
pub(super) fn target(port: &ServicePort, pod: &PodSpec) -> (Option<usize>, Option<i32>) {
    let declared = |matches: &dyn Fn(&ContainerPort) -> bool| {
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

pub(super) fn targets(object: &ServiceObject, pod: &PodSpec) -> Vec<usize> {
    let ports = object.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| target(port, pod).0).collect()
}

/// The ports that Services lead to, with what they speak.
pub(super) fn reached(
    facts: &PodFacts,
    workload: &Workload,
    services: &[&ServiceObject],
) -> BTreeSet<ReachedPort> {
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
