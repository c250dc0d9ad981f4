//! Pods that only slices know: files without Pod objects.
//!
//! Used for files alone (`Options::slices_start_drains`). An address that a Pod object has is that
//! pod's, in whatever namespace it is; one that a slice ties to a pod by targetRef is not a nameless
//! endpoint's. Two that claim the same with the same right are both kept: the files do not say more.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    join::Namespace,
    pod::PodRecord,
    slice::{EndpointRecord, Target},
};

type Pods = BTreeMap<String, PodRecord>;

/// What slices add to the Pod objects.
pub(super) struct FromSlices {
    /// Addresses of the Pod objects: no slice gives them to another pod.
    pub(super) taken: BTreeSet<IpAddr>,
    /// The unlisted pods of each namespace.
    pub(super) pods: BTreeMap<String, Pods>,
}

impl FromSlices {
    pub(super) fn new(namespaces: &BTreeMap<String, Namespace>) -> Self {
        let taken: BTreeSet<IpAddr> = namespaces
            .values()
            .flat_map(|namespace| namespace.pods.values())
            .filter(|pod| !pod.finished && !pod.host_network)
            .flat_map(|pod| &pod.addresses)
            .copied()
            .collect();
        let mut pods: BTreeMap<String, Pods> =
            namespaces.iter().map(|(name, namespace)| (name.clone(), named(namespace, &taken))).collect();
        let mut tied = taken.clone();
        tied.extend(pods.values().flat_map(BTreeMap::values).flat_map(|pod| &pod.addresses));
        for (name, namespace) in namespaces {
            pods.entry(name.clone()).or_default().extend(nameless(namespace, &tied));
        }
        Self { taken, pods }
    }
}

/// Those that a targetRef names.
fn named(namespace: &Namespace, taken: &BTreeSet<IpAddr>) -> Pods {
    let mut by_uid: BTreeMap<(&str, bool, &str), PodRecord> = BTreeMap::new();
    for endpoint in endpoints(namespace, taken) {
        let Target::Pod { name, uid } = &endpoint.target else { continue };
        if name.is_empty() || namespace.pods.contains_key(name) {
            continue;
        }
        merge(by_uid.entry((name, endpoint.terminating, uid)).or_default(), uid, endpoint);
    }
    let mut pods = Pods::new();
    // In order: of two pods of one name, the one that is not Terminating is the one that is there.
    for ((name, _, _), pod) in by_uid {
        pods.entry(name.to_owned()).or_insert(pod);
    }
    pods
}

/// Those that have an address and nothing else: it is their name too.
fn nameless(namespace: &Namespace, taken: &BTreeSet<IpAddr>) -> Pods {
    let mut pods = Pods::new();
    for endpoint in endpoints(namespace, taken).filter(|endpoint| endpoint.target == Target::Address) {
        if let Some(first) = endpoint.addresses.first() {
            merge(pods.entry(first.to_string()).or_default(), "", endpoint);
        }
    }
    pods
}

fn endpoints<'a>(
    namespace: &'a Namespace,
    taken: &'a BTreeSet<IpAddr>,
) -> impl Iterator<Item = &'a EndpointRecord> {
    namespace
        .slices
        .values()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.addresses.iter().all(|address| !taken.contains(address)))
}

fn merge(pod: &mut PodRecord, uid: &str, endpoint: &EndpointRecord) {
    pod.local = true;
    pod.uid = uid.to_owned();
    pod.node = pod.node.take().or_else(|| endpoint.node.clone());
    pod.addresses.extend(endpoint.addresses.iter().copied());
}
