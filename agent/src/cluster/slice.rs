//! What is kept of an EndpointSlice, and when it is believed.
//!
//! A tenant can write a slice with any address and any condition. It is therefore only ever read
//! beside the pods of its own namespace, and of those only the one that it really names.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::{
    core::v1::ObjectReference,
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::{
    object::Options,
    pod::{PodRecord, address},
    port::SlicePort,
};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SliceRecord {
    /// Label `kubernetes.io/service-name`.
    pub(super) service: Option<String>,
    /// Label `service.kubernetes.io/headless`, which the EndpointSlice controller sets.
    pub(super) headless: bool,
    pub(super) ports: Vec<SlicePort>,
    /// addressType, of the two that pods have: a dual-stack Service has slices of both, with the same pods.
    pub(super) ipv6: bool,
    /// How many of all its endpoints are ready, on whatever node.
    pub(super) ready: usize,
    /// Only those that may be on this node.
    pub(super) endpoints: Vec<EndpointRecord>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct EndpointRecord {
    pub(super) target: Target,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) ready: bool,
    pub(super) terminating: bool,
    pub(super) node: Option<String>,
}

/// targetRef
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// None: the address alone says who it is.
    Address,
    /// A Pod of the slice's namespace; either may be empty, not both.
    Pod { name: String, uid: String },
    /// Something else, or a Pod of another namespace: never one of ours.
    Other,
}

impl SliceRecord {
    pub(super) fn new(slice: &EndpointSlice, options: &Options) -> Self {
        let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let namespace = slice.metadata.namespace.as_deref().filter(|name| !name.is_empty());
        let endpoints =
            || slice.endpoints.iter().map(|e| EndpointRecord::new(e, namespace.unwrap_or("default")));
        Self {
            ipv6: slice.address_type == "IPv6",
            ready: endpoints().filter(EndpointRecord::is_ready).count(),
            service: label("kubernetes.io/service-name").filter(|name| !name.is_empty()).cloned(),
            headless: label("service.kubernetes.io/headless").is_some(),
            ports: slice.ports.iter().flatten().filter_map(SlicePort::new).collect(),
            endpoints: endpoints().filter(|endpoint| endpoint.may_be_local(options)).collect(),
        }
    }
}

impl EndpointRecord {
    fn new(endpoint: &Endpoint, namespace: &str) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        Self {
            target: Target::new(endpoint.target_ref.as_ref(), namespace),
            addresses: endpoint.addresses.iter().filter_map(|text| address(text)).collect(),
            // Unset means ready (discovery/v1 types.go), but hardly beside `terminating`.
            ready: conditions.and_then(|c| c.ready).unwrap_or(!terminating),
            terminating,
            node: endpoint.node_name.clone(),
        }
    }

    /// New connections are sent to it.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && !self.terminating
    }

    fn may_be_local(&self, options: &Options) -> bool {
        match (&options.node_name, &self.node) {
            (Some(ours), Some(node)) => ours == node,
            _ => true,
        }
    }

    /// Whether this endpoint, of a slice in the pod's own namespace, is that pod.
    pub(super) fn is(&self, pod_name: &str, pod: &PodRecord) -> bool {
        let has_address = || self.addresses.iter().any(|address| pod.addresses.contains(address));
        match &self.target {
            Target::Other => false,
            Target::Address => has_address(),
            Target::Pod { uid, .. } if !uid.is_empty() && !pod.uid.is_empty() => *uid == pod.uid,
            // A name is used again by a StatefulSet: beside a known UID it needs the address too.
            Target::Pod { name, uid } => {
                name == pod_name && (!uid.is_empty() || pod.uid.is_empty() || has_address())
            }
        }
    }
}

impl Target {
    fn new(reference: Option<&ObjectReference>, namespace: &str) -> Self {
        let Some(reference) = reference else { return Self::Address };
        if reference.kind.as_deref().is_some_and(|kind| kind != "Pod")
            || reference.namespace.as_deref().is_some_and(|name| !name.is_empty() && name != namespace)
        {
            return Self::Other;
        }
        let name = reference.name.clone().unwrap_or_default();
        let uid = reference.uid.clone().unwrap_or_default();
        if name.is_empty() && uid.is_empty() { Self::Address } else { Self::Pod { name, uid } }
    }
}
