//! What the sources deliver, and the small records that are kept of it.
//!
//! No Kubernetes object is kept: a slice of 100 endpoints is 73 kB as an object and, of a node with
//! one of those endpoints, 200 bytes as a record.

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{pod::PodRecord, service::ServiceRecord, slice::SliceRecord};

/// What the index is told of.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are Kubernetes'")]
pub enum Object {
    Pod(Box<Pod>),
    Slice(Box<EndpointSlice>),
    Service(Box<Service>),
}

/// The kinds of [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Kubernetes'")]
pub enum Kind {
    Pod,
    Slice,
    Service,
}

impl Kind {
    /// `kind` as manifests write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Slice => "EndpointSlice",
            Self::Service => "Service",
        }
    }
}

/// How objects are read: the same for as long as the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--node-name`: only its pods are local. `None`: all are.
    pub node_name: Option<String>,
    /// The port that hooks call.
    pub hook_port: u16,
    /// `--endpoints` without a cluster: a slice's `terminating` starts a drain, and a pod that only
    /// slices name is a pod. Never with an API server: there, tenants write slices.
    pub slices_start_drains: bool,
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// metadata.namespace; `default` where a manifest leaves it out, as kubectl reads it.
    pub namespace: String,
    /// metadata.name
    pub name: String,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Pod(PodRecord),
    Slice(SliceRecord),
    Service(ServiceRecord),
}

impl Record {
    /// Folds an object; `None` if it has no name (the API server never sends such a one).
    pub fn new(object: &Object, options: &Options) -> Option<Self> {
        let (metadata, body) = match object {
            Object::Pod(pod) => (&pod.metadata, Body::Pod(PodRecord::new(pod, options))),
            Object::Slice(slice) => (&slice.metadata, Body::Slice(SliceRecord::new(slice, options))),
            Object::Service(service) => (&service.metadata, Body::Service(ServiceRecord::new(service))),
        };
        let name = metadata.name.clone().filter(|name| !name.is_empty())?;
        Some(Self { namespace: namespace(metadata), name, body })
    }

    /// A slice none of whose endpoints can be on this node says nothing of any pod here.
    pub(super) fn says_nothing(&self) -> bool {
        matches!(&self.body, Body::Slice(slice) if slice.endpoints.is_empty())
    }

    /// The kind of the object that it was.
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Pod(_) => Kind::Pod,
            Body::Slice(_) => Kind::Slice,
            Body::Service(_) => Kind::Service,
        }
    }
}

fn namespace(metadata: &ObjectMeta) -> String {
    metadata.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
}
