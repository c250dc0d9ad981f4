//! What the stub API server holds: objects by name, and what has happened to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

/// Plural, namespace, name.
pub(super) type Key = (String, String, String);

/// An object as it is sent; a thousand of them take no more room than their text.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) text: Arc<str>,
    /// What field selectors may ask for.
    fields: BTreeMap<&'static str, String>,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) what: &'static str,
    pub(super) key: Key,
    pub(super) object: Object,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) version: u64,
    pub(super) objects: BTreeMap<Key, Object>,
    pub(super) log: Vec<Change>,
    /// Versions up to this one are forgotten: a watch from there is "410 Gone".
    pub(super) compacted: u64,
    /// Objects that lists do not show, as a cache that lags.
    pub(super) hidden: BTreeSet<Key>,
}

/// The plural that goes with a kind.
pub(super) fn plural(kind: &str) -> String {
    match kind {
        "EndpointSlice" => "endpointslices".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    }
}

pub(super) fn key_of(object: &Value) -> Option<Key> {
    let metadata = &object["metadata"];
    let kind = object["kind"].as_str()?;
    let namespace = match kind {
        "Node" => "",
        _ => metadata["namespace"].as_str().unwrap_or("default"),
    };
    Some((plural(kind), namespace.to_owned(), metadata["name"].as_str()?.to_owned()))
}

impl Store {
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Object {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = json!(key.1);
        }
        let object = Object::new(&object);
        let what = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(key.clone(), object.clone());
        self.log.push(Change { version: self.version, what, key, object: object.clone() });
        object
    }

    /// An object as text, which says `version` as its resourceVersion. Too many of them to be news.
    pub(super) fn fill(&mut self, key: Key, text: impl FnOnce(u64) -> String) {
        self.version += 1;
        let object = Object { text: text(self.version).into(), fields: BTreeMap::new() };
        self.objects.insert(key, object);
    }

    pub(super) fn delete(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else { return };
        self.version += 1;
        let mut last: Value = serde_json::from_str(&object.text).unwrap_or_default();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Object::new(&last);
        self.log.push(Change { version: self.version, what: "DELETED", key: key.clone(), object });
    }

    /// The objects of a collection.
    pub(super) fn list(&self, resource: &str, namespace: &str, selector: &str) -> Vec<Object> {
        let of = |key: &Key| key.0 == resource && (namespace.is_empty() || key.1 == namespace);
        let objects = self.objects.iter().filter(|(key, _)| of(key) && !self.hidden.contains(*key));
        objects.map(|(_, object)| object).filter(|object| object.is(selector)).cloned().collect()
    }
}

impl Object {
    fn new(object: &Value) -> Self {
        const FIELDS: [(&str, &str); 3] = [
            ("spec.nodeName", "/spec/nodeName"),
            ("metadata.name", "/metadata/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
        ];
        let value = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let fields = FIELDS.iter().filter_map(|(name, pointer)| Some((*name, value(pointer)?))).collect();
        Self { text: object.to_string().into(), fields }
    }

    /// Whether a field selector of equalities selects it.
    pub(super) fn is(&self, selector: &str) -> bool {
        selector.split(',').filter_map(|term| term.split_once('=')).all(|(name, value)| {
            self.fields.get(name).map(String::as_str) == Some(value.trim_start_matches('='))
        })
    }
}
