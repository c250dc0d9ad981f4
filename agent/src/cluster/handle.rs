//! The index, shared: sources write, tasks ask and are told.
//!
//! Each subscriber has its own set of names to look at, so that a slow one costs no memory beyond the
//! number of pods, misses nothing, and sees a pod that changed ten times once.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak},
};

use tokio::sync::Notify;

use super::{Index, Kind, Object, Options, PodFacts, PodName, Record};
use crate::moment::Moment;

/// A shared [`Index`].
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: RwLock<Index>,
    subscribers: Mutex<Vec<Weak<Pending>>>,
}

#[derive(Debug, Default)]
struct Pending {
    names: Mutex<BTreeSet<PodName>>,
    some: Notify,
}

/// Whose facts have changed, since this subscriber last asked.
#[derive(Debug)]
pub struct Changes {
    pending: Arc<Pending>,
}

impl Cluster {
    /// One that knows nothing yet.
    pub fn new(options: Options) -> Self {
        let index = RwLock::new(Index::new(options));
        Self { shared: Arc::new(Shared { index, subscribers: Mutex::default() }) }
    }

    /// How it reads objects.
    pub fn options(&self) -> Options {
        self.read().options().clone()
    }

    /// [`Index::apply`]
    pub fn apply(&self, object: &Object, now: Moment) {
        self.write(|index| index.apply(object, now));
    }

    /// [`Index::delete`]
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str, now: Moment) {
        self.write(|index| index.delete(kind, namespace, name, now));
    }

    /// [`Index::reset`]
    pub fn reset(&self, kind: Kind, namespace: Option<&str>, objects: &[Object], now: Moment) {
        self.write(|index| index.reset(kind, namespace, objects, now));
    }

    /// [`Index::put`]
    pub fn put(&self, record: Record, now: Moment) {
        self.write(|index| index.put(record, now));
    }

    /// [`Index::list`]
    pub fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        records: Vec<Record>,
        spared: &BTreeSet<PodName>,
        now: Moment,
    ) {
        self.write(|index| index.list(kind, namespace, records, spared, now));
    }

    /// [`Index::forget`]
    pub fn forget(&self, kind: Kind, namespace: &str, now: Moment) {
        self.write(|index| index.forget(kind, namespace, now));
    }

    /// [`Index::services_of`]
    pub fn services_of(&self, name: &PodName) -> BTreeSet<String> {
        self.read().services_of(name)
    }

    /// [`Index::replace`]
    pub fn replace(&self, records: impl IntoIterator<Item = Record>, now: Moment) {
        self.write(|index| index.replace(records, now));
    }

    /// A pod of this node by its name.
    pub fn pod(&self, name: &PodName) -> Option<Arc<PodFacts>> {
        self.read().pod(name).cloned()
    }

    /// [`Index::by_address`]
    pub fn by_address(&self, address: IpAddr) -> Option<Arc<PodFacts>> {
        self.read().by_address(address).cloned()
    }

    /// [`Index::by_uid`]
    pub fn by_uid(&self, uid: &str) -> Option<Arc<PodFacts>> {
        self.read().by_uid(uid).cloned()
    }

    /// The pods that are Terminating.
    pub fn terminating(&self) -> Vec<Arc<PodFacts>> {
        self.read().terminating().cloned().collect()
    }

    /// All pods of this node, by name.
    pub fn snapshot(&self) -> Vec<Arc<PodFacts>> {
        self.read().pods().cloned().collect()
    }

    /// From now on, whose facts change. The pods that are known already come first, so that nothing
    /// falls between a snapshot and the first change.
    pub fn subscribe(&self) -> Changes {
        let pending = Arc::new(Pending::default());
        lock(&self.shared.subscribers).push(Arc::downgrade(&pending));
        pending.add(self.read().pods().map(|pod| pod.name.clone()));
        Changes { pending }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut Index) -> Vec<PodName>) {
        let changed = change(&mut self.shared.index.write().unwrap_or_else(PoisonError::into_inner));
        if changed.is_empty() {
            return;
        }
        lock(&self.shared.subscribers).retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.add(changed.iter().cloned());
            true
        });
    }
}

impl Changes {
    /// Waits until there are some; never empty. Dropping the future loses nothing.
    pub async fn next(&mut self) -> BTreeSet<PodName> {
        loop {
            let names = std::mem::take(&mut *lock(&self.pending.names));
            if !names.is_empty() {
                return names;
            }
            self.pending.some.notified().await;
        }
    }
}

impl Pending {
    fn add(&self, names: impl Iterator<Item = PodName>) {
        lock(&self.names).extend(names);
        self.some.notify_one();
    }
}

/// A panic elsewhere leaves a set of names a set of names.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
