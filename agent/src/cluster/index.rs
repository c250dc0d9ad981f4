//! The index: records in by apply, delete and reset; facts out, and the names of those that changed.
//!
//! A change is answered by joining its namespace anew and comparing. A node has some hundred pods, and
//! there is then no second, incremental, truth that could drift from the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    PodFacts, PodName,
    join::{Joiner, Namespace},
    object::{Body, Kind, Object, Options, Record},
    unlisted::FromSlices,
};
use crate::moment::Moment;

/// What is known of the pods of this node. See the module's documentation.
///
/// Every change returns the names of the pods whose facts are not what they were, those that are gone
/// among them. Whoever follows a pod keeps its UID: another one under its name is another pod.
#[derive(Debug)]
pub struct Index {
    options: Options,
    namespaces: BTreeMap<String, Namespace>,
    facts: BTreeMap<PodName, Arc<PodFacts>>,
    /// Slices of all namespaces have been listed.
    slices_listed: bool,
}

impl Index {
    /// One that knows nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, namespaces: BTreeMap::new(), facts: BTreeMap::new(), slices_listed: false }
    }

    /// How it reads objects.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// An object was added or modified.
    pub fn apply(&mut self, object: &Object, now: Moment) -> Vec<PodName> {
        Record::new(object, &self.options).map(|record| self.put(record, now)).unwrap_or_default()
    }

    /// The same, of what is kept of it.
    pub fn put(&mut self, record: Record, now: Moment) -> Vec<PodName> {
        let touched = BTreeSet::from([record.namespace.clone()]);
        self.insert(record);
        self.refresh(&touched, now)
    }

    /// An object is gone.
    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str, now: Moment) -> Vec<PodName> {
        let Some(records) = self.namespaces.get_mut(namespace) else { return Vec::new() };
        match kind {
            Kind::Pod => drop(records.pods.remove(name)),
            Kind::Slice => drop(records.slices.remove(name)),
            Kind::Service => drop(records.services.remove(name)),
        }
        self.refresh(&BTreeSet::from([namespace.to_owned()]), now)
    }

    /// A list: all objects of one kind, of one namespace or of all. What was known of those that are
    /// still there (when a pod was first seen Terminating) stays.
    pub fn reset(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        objects: &[Object],
        now: Moment,
    ) -> Vec<PodName> {
        let records: Vec<Record> =
            objects.iter().filter_map(|object| Record::new(object, &self.options)).collect();
        self.list(kind, namespace, records, &BTreeSet::new(), now)
    }

    /// The same, of what is kept of them. `spared`: objects that are there although the list lacks them (it
    /// may come from a cache that lags).
    pub fn list(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        records: impl IntoIterator<Item = Record>,
        spared: &BTreeSet<PodName>,
        now: Moment,
    ) -> Vec<PodName> {
        let mut touched = BTreeSet::new();
        for (name, known) in &mut self.namespaces {
            if namespace.is_none_or(|namespace| namespace == name) {
                touched.insert(name.clone());
                known.clear(kind, name, spared);
            }
        }
        match (kind, namespace) {
            (Kind::Slice, None) => self.slices_listed = true,
            (Kind::Slice, Some(name)) => {
                self.namespaces.entry(name.to_owned()).or_default().slices_listed = true;
            }
            _ => {}
        }
        for record in records {
            if record.kind() == kind && namespace.is_none_or(|namespace| namespace == record.namespace) {
                touched.insert(record.namespace.clone());
                self.insert(record);
            }
        }
        self.refresh(&touched, now)
    }

    /// Nobody tells of this kind in this namespace any more: what was known of it may not be so now.
    pub fn forget(&mut self, kind: Kind, namespace: &str, now: Moment) -> Vec<PodName> {
        let Some(records) = self.namespaces.get_mut(namespace) else { return Vec::new() };
        records.clear(kind, namespace, &BTreeSet::new());
        records.slices_listed &= kind != Kind::Slice;
        self.refresh(&BTreeSet::from([namespace.to_owned()]), now)
    }

    /// All there is, of all kinds: what was known and is not among it is gone. If it has slices or
    /// Services at all, then a pod that none of them names has none.
    pub fn replace(&mut self, records: impl IntoIterator<Item = Record>, now: Moment) -> Vec<PodName> {
        let mut touched: BTreeSet<String> = self.namespaces.keys().cloned().collect();
        self.namespaces.clear();
        self.slices_listed = false;
        for record in records {
            self.slices_listed |= record.kind() != Kind::Pod;
            touched.insert(record.namespace.clone());
            self.insert(record);
        }
        self.refresh(&touched, now)
    }

    /// A pod of this node by its name.
    pub fn pod(&self, name: &PodName) -> Option<&Arc<PodFacts>> {
        self.facts.get(name)
    }

    /// The pod that has an address now. Not those that use the node's, nor those that have ended and
    /// whose address may be another's.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<PodFacts>> {
        let address = address.to_canonical();
        self.pods().find(|pod| !pod.host_network && !pod.finished && pod.addresses.contains(&address))
    }

    /// A pod by its UID, or by the one that the kubelet gave a static pod.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<PodFacts>> {
        let is_static = |pod: &PodFacts| {
            let record = self.namespaces.get(&pod.name.namespace)?.pods.get(&pod.name.name)?;
            record.static_uid.as_deref().map(|known| known == uid)
        };
        self.pods().filter(|_| !uid.is_empty()).find(|pod| pod.uid == uid || is_static(pod) == Some(true))
    }

    /// The Services whose believed slices name a pod.
    pub fn services_of(&self, name: &PodName) -> BTreeSet<String> {
        let Some(records) = self.namespaces.get(&name.namespace) else { return BTreeSet::new() };
        let Some(pod) = records.pods.get(&name.name) else { return BTreeSet::new() };
        let believed = records
            .slices
            .values()
            .filter(|slice| slice.endpoints.iter().any(|endpoint| endpoint.is(&name.name, pod)));
        believed.filter_map(|slice| slice.service.clone()).collect()
    }

    /// The pods that are Terminating.
    pub fn terminating(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods().filter(|pod| pod.terminating.is_some())
    }

    /// All pods of this node, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.facts.values()
    }

    fn insert(&mut self, Record { namespace, name, body }: Record) {
        let records = self.namespaces.entry(namespace).or_default();
        match body {
            Body::Pod(pod) => drop(records.pods.insert(name, pod)),
            Body::Slice(slice) => drop(records.slices.insert(name, slice)),
            Body::Service(service) => drop(records.services.insert(name, service)),
        }
    }

    fn refresh(&mut self, touched: &BTreeSet<String>, now: Moment) -> Vec<PodName> {
        self.namespaces.retain(|_, records| !records.is_empty() || records.slices_listed);
        // Which pods are unlisted is the one thing that namespaces decide together.
        let (touched, from_slices) = if self.options.slices_start_drains {
            let all = self.namespaces.keys().chain(touched).cloned().collect();
            (all, Some(FromSlices::new(&self.namespaces)))
        } else {
            (touched.clone(), None)
        };
        let mut changed = Vec::new();
        for namespace in touched {
            let fresh = match self.namespaces.get(&namespace) {
                Some(records) => self.join(&namespace, records, from_slices.as_ref(), now),
                None => BTreeMap::new(),
            };
            self.settle(&namespace, fresh, &mut changed);
        }
        changed
    }

    fn join(
        &self,
        namespace: &str,
        records: &Namespace,
        from_slices: Option<&FromSlices>,
        now: Moment,
    ) -> BTreeMap<PodName, PodFacts> {
        // Files that hold one slice or Service hold them all. Of an API server each is asked for by itself.
        let some = !records.slices.is_empty() || !records.services.is_empty();
        let complete =
            self.slices_listed || records.slices_listed || (some && self.options.slices_start_drains);
        let joiner = Joiner::new(records, from_slices.map(|found| &found.taken), complete);
        let unlisted = from_slices.and_then(|found| found.pods.get(namespace)).into_iter().flatten();
        let local = records.pods.iter().filter(|(_, pod)| pod.local);
        local
            .chain(unlisted)
            .map(|(name, pod)| {
                let name = PodName { namespace: namespace.to_owned(), name: name.clone() };
                let before = self.facts.get(&name).map(Arc::as_ref);
                (name.clone(), joiner.facts(name, pod, before, now))
            })
            .collect()
    }

    /// Takes a namespace's fresh facts for those that were, and notes whose differ.
    fn settle(
        &mut self,
        namespace: &str,
        mut fresh: BTreeMap<PodName, PodFacts>,
        changed: &mut Vec<PodName>,
    ) {
        let first = PodName { namespace: namespace.to_owned(), name: String::new() };
        let known: Vec<PodName> = self
            .facts
            .range(first..)
            .map(|(name, _)| name.clone())
            .take_while(|name| name.namespace == namespace)
            .collect();
        for name in known {
            match fresh.remove(&name) {
                None => {
                    self.facts.remove(&name);
                    changed.push(name);
                }
                Some(facts) if *self.facts[&name] != facts => {
                    self.facts.insert(name.clone(), Arc::new(facts));
                    changed.push(name);
                }
                Some(_) => {}
            }
        }
        for (name, facts) in fresh {
            self.facts.insert(name.clone(), Arc::new(facts));
            changed.push(name);
        }
    }
}

impl Namespace {
    fn clear(&mut self, kind: Kind, namespace: &str, spared: &BTreeSet<PodName>) {
        match kind {
            Kind::Pod if !spared.is_empty() => self.pods.retain(|name, _| {
                spared.contains(&PodName { namespace: namespace.to_owned(), name: name.clone() })
            }),
            Kind::Pod => self.pods.clear(),
            Kind::Slice => self.slices.clear(),
            Kind::Service => self.services.clear(),
        }
    }
}
