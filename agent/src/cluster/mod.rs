//! Who is Terminating, and what is known of it.
//!
//! In: Pods, EndpointSlices and Services, from manifests ([`manifests`]) or, later, the API server;
//! both feed one [`index`] by apply, delete and reset. Out: [`PodFacts`] of the pods of this node,
//! and a notice whenever one changes ([`Cluster::subscribe`]). Only a Pod's deletionTimestamp starts
//! a drain; a slice informs (names, ports, appProtocol, when it was withdrawn) and is believed only
//! in the pod's own namespace with its UID, or with its address and no targetRef.
//!
//! | file | in | out |
//! |---|---|---|
//! | [`object`] | a Kubernetes object | a small record of it |
//! | `pod`, `slice`, `service`, `port` | the parts of such a record | |
//! | `exposure`, `end` | records | kind of Service; the pod's end (pure) |
//! | `unlisted` | slices without Pod objects (files only) | records of their pods |
//! | `join` | one namespace's records | facts (pure) |
//! | [`index`] | apply, delete, reset | facts, and whose changed |
//! | [`handle`] | the same, shared | queries and notices for tasks |
//! | [`manifests`] | a directory or file | the whole set of records, again on every change |

pub mod api;
mod end;
mod exposure;
pub mod handle;
pub mod index;
mod join;
pub mod manifests;
pub mod object;
mod pod;
mod port;
mod service;
mod slice;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod unlisted;

pub use handle::{Changes, Cluster};
pub use index::Index;
pub use object::{Kind, Object, Options, Record};

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::moment::Moment;

/// A pod, by what Kubernetes calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a port speaks, by appProtocol or the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppProtocol {
    /// `http`, `https`, `http-…`, `metrics`, …: request and response.
    Http,
    /// `kubernetes.io/h2c`, `h2c`, `grpc`, `grpc-…`.
    Http2,
    /// Anything else: a connection's silence is not idleness.
    Unknown,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are IANA's")]
pub enum Transport {
    Tcp,
    Udp,
}

/// A port of a pod on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortFacts {
    /// Its number.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Its appProtocol or name says HTTP or gRPC in the clear, and nothing says TLS: under
    /// `--last-call=auto` its clients are told to leave.
    pub cleartext: bool,
    /// An EndpointSlice names it: new connections to it keep the pod unsettled.
    pub in_slice: bool,
}

/// The kind of Service that selects the pod: it sets the floor of settle (the strictest wins).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exposure {
    /// No Service selects it: floor 2 s.
    None,
    /// ClusterIP, NodePort, LoadBalancer with externalTrafficPolicy Cluster: floor w when proved, else 5 s.
    Cluster,
    /// A Service is there, its kind is not known: floor 10 s.
    Unknown,
    /// externalTrafficPolicy Local and the last ready endpoint on this node: floor 15 s.
    LocalLast,
    /// Headless: 30 s (DNS TTL).
    Headless,
    /// Load balancer that targets the pod's IP (readinessGates name it): 30 s.
    LoadBalancerIp,
}

/// What the sources know of a pod of this node. Everything but the name may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Namespace and name.
    pub name: PodName,
    /// metadata.uid, empty where a manifest has none.
    pub uid: String,
    /// Every address of status.podIPs; where files give none, those of the slices that are believed.
    pub addresses: BTreeSet<IpAddr>,
    /// spec.hostNetwork
    pub host_network: bool,
    /// status.phase is Succeeded or Failed: nothing of it runs, its address may be another pod's by now.
    pub finished: bool,
    /// The workload (owner) that metrics name: `Deployment/web`, or empty.
    pub workload: String,
    /// Ports that count: slices' and containerPorts. Empty: those that it listens on.
    pub ports: BTreeSet<PortFacts>,
    /// Paths of its HTTP probes: requests for them are health checks.
    pub health_paths: BTreeSet<String>,
    /// How many connections the kubelet's readiness and liveness probes open, per second.
    pub probes_per_second: f64,
    /// A liveness or startup probe can kill one of the containers that have such a hook.
    pub killable_by_probe: bool,
    /// Kind of Service.
    pub exposure: Exposure,
    /// spec.terminationGracePeriodSeconds
    pub termination_grace: Option<Duration>,
    /// How many endpoints new connections can go to instead. Known of a Terminating pod alone: of others it
    /// would change with each pod of their Services.
    pub others_ready: Option<usize>,
    /// Set once it is Terminating.
    pub terminating: Option<Terminating>,
    /// `path` of each preStop httpGet hook aimed at lastcall, by container.
    pub hooks: Vec<(String, String)>,
    /// A container port of the pod is the hook's port: calls to it are the pod's own.
    pub listens_on_hook_port: bool,
}

/// What is known of a pod's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminating {
    /// When this agent saw it first.
    pub first_seen: Moment,
    /// metadata.deletionGracePeriodSeconds, from `first_seen` on; it only ever shrinks. `None`: no
    /// Pod object says it (files with slices alone), `--default-grace` holds.
    pub grace: Option<Duration>,
    /// metadata.deletionTimestamp, seconds of the API server's clock: only ever compared with
    /// another value of the same field (a second delete with a shorter grace moves it earlier).
    /// `None`: a slice alone says that the pod is Terminating.
    pub deletion_timestamp: Option<i64>,
    /// When a believed slice first showed it not ready, for the propagation metric.
    pub withdrawn: Option<Moment>,
}
