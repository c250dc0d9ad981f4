//! A pod of a workload, as the agent would know it.
//!
//! In: a template and its Services. Out: the facts of the agent's own index, of a pod made of the template and
//! slices made of the Services. So kinds of Service, hooks and protocols are read here as they are there.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Pod, PodIP, PodReadinessGate, PodStatus},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Settings,
    objects::{ServiceObject, Workload, namespace_of},
    reach::target,
};
use crate::{
    cluster::{Index, Object, Options, PodFacts, PodName, Record},
    moment::Moment,
};

/// What the agent would know of a pod of this workload.
pub(super) fn facts<'a>(
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
