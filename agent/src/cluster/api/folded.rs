//! An object of the API server, folded to its record while it is decoded.
//!
//! A list of EndpointSlices is megabytes, and of each only a few bytes are this node's business. So no
//! list of Kubernetes objects is ever in memory: the decoder makes one object, folds it, and drops it.

use std::{borrow::Cow, fmt, future::Future, marker::PhantomData};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::{Deserialize, Deserializer, de};

use crate::cluster::{Kind, Object, Options, Record};

tokio::task_local! {
    /// How objects are read: a decoder has no other way to be told.
    static OPTIONS: Options;
}

/// Runs what decodes [`Folded`] objects.
pub(super) async fn reading<F: Future>(options: Options, what: F) -> F::Output {
    OPTIONS.scope(options, what).await
}

/// The kinds that are read from the API server.
pub(super) trait Foldable:
    Resource<DynamicType = ()> + for<'de> Deserialize<'de> + Clone + fmt::Debug + Send + Sync + 'static
{
    const KIND: Kind;
    fn object(self) -> Object;
}

impl Foldable for Pod {
    const KIND: Kind = Kind::Pod;
    fn object(self) -> Object {
        Object::Pod(Box::new(self))
    }
}

impl Foldable for EndpointSlice {
    const KIND: Kind = Kind::Slice;
    fn object(self) -> Object {
        Object::Slice(Box::new(self))
    }
}

impl Foldable for Service {
    const KIND: Kind = Kind::Service;
    fn object(self) -> Object {
        Object::Service(Box::new(self))
    }
}

/// What is left of an object.
pub(super) struct Folded<K> {
    /// Name, namespace, UID and resourceVersion.
    metadata: ObjectMeta,
    /// `None`: it says nothing of any pod of this node.
    pub(super) record: Option<Record>,
    of: PhantomData<fn() -> K>,
}

impl<'de, K: Foldable> Deserialize<'de> for Folded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = K::deserialize(deserializer)?;
        let full = object.meta_mut();
        let metadata = ObjectMeta {
            name: full.name.clone(),
            namespace: full.namespace.clone(),
            uid: full.uid.clone(),
            resource_version: full.resource_version.take(),
            ..ObjectMeta::default()
        };
        let record = OPTIONS
            .try_with(|options| Record::new(&object.object(), options))
            .map_err(|_| de::Error::custom("nobody has said how objects are read"))?;
        Ok(Self { metadata, record: record.filter(|record| !record.says_nothing()), of: PhantomData })
    }
}

impl<K> Clone for Folded<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), record: self.record.clone(), of: PhantomData }
    }
}

impl<K> fmt::Debug for Folded<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folded").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

impl<K: Foldable> Resource for Folded<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;

    use super::*;

    const LIST: &str = r#"{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "7"}, "items": [
        {"metadata": {"name": "here", "namespace": "shop", "resourceVersion": "5"}, "addressType": "IPv4",
         "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node-a"}, {"addresses": ["10.0.1.1"], "nodeName": "node-b"}],
         "ports": []},
        {"metadata": {"name": "elsewhere", "namespace": "shop", "resourceVersion": "6"}, "addressType": "IPv4",
         "endpoints": [{"addresses": ["10.0.1.2"], "nodeName": "node-b"}], "ports": []}]}"#;

    fn decode() -> Result<ObjectList<Folded<EndpointSlice>>, serde_json::Error> {
        serde_json::from_str(LIST)
    }

    #[tokio::test]
    async fn only_what_is_of_this_node_is_kept() {
        let options =
            Options { node_name: Some("node-a".into()), hook_port: 9902, slices_start_drains: false };
        let list = reading(options, async { decode() }).await.unwrap();
        let kept: Vec<_> =
            list.items.iter().map(|f| (f.meta().name.as_deref().unwrap(), f.record.is_some())).collect();
        assert_eq!(kept, [("here", true), ("elsewhere", false)]);
        // The watch goes on from where the list ended.
        assert_eq!(list.items[0].meta().resource_version.as_deref(), Some("5"));
    }

    #[test]
    fn without_options_it_is_an_error_not_a_guess() {
        assert!(decode().unwrap_err().to_string().contains("nobody has said"));
    }
}
