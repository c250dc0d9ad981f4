//! The EndpointSlices that are worth watching, and the Services behind them.
//!
//! All slices on all nodes would be gigabytes a second in a big cluster, and they only inform. So by
//! default a namespace's slices are listed and watched while a pod of this node drains there, and for a
//! minute after; a Service is asked for once a drain, if nobody has asked within the last minute.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, runtime::watcher};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use super::{
    WATCH_SECONDS,
    folded::{Folded, reading},
    follow::{Beside, follow},
    live::soon,
};
use crate::{
    causes,
    cluster::{Cluster, Kind, PodName},
    moment::Moment,
};

/// How long a namespace is watched after its last drain, and how long a Service's answer holds.
const KEPT: Duration = Duration::from_secs(60);
/// A Service that could not be had is asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Slices a page: a page is in memory as text, and a slice can be 35 kB of it.
const PAGE: u32 = 100;

/// Which EndpointSlices are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of namespaces in which a pod of this node drains.
    Draining,
    /// All of the cluster.
    All,
    /// None.
    None,
}

/// Which pods drain now, whoever knows.
pub type Draining = Arc<dyn Fn() -> BTreeSet<PodName> + Send + Sync>;

pub(super) struct Slices {
    pub(super) client: Client,
    pub(super) cluster: Cluster,
    pub(super) scope: Scope,
    pub(super) draining: Draining,
    pub(super) look: Arc<Notify>,
}

/// A namespace's watch.
struct Watched {
    task: JoinHandle<()>,
    last_drain: Moment,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A Service, by namespace and name.
type Name = (String, String);

impl Slices {
    pub(super) async fn run(self) {
        if self.scope == Scope::None {
            return;
        }
        let _all = (self.scope == Scope::All).then(|| Watched {
            task: tokio::spawn(all(self.client.clone(), self.beside())),
            last_drain: Moment::now(),
        });
        let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
        let mut services = Services::default();
        loop {
            let now = Moment::now();
            let draining = (self.draining)();
            if self.scope == Scope::Draining {
                for pod in &draining {
                    let of =
                        watched.entry(pod.namespace.clone()).or_insert_with(|| self.watch(&pod.namespace));
                    of.last_drain = now;
                }
                self.drop_idle(&mut watched, now).await;
            }
            services.ask(&self, &draining, now);
            let next_drop = watched.values().map(|w| w.last_drain + KEPT).filter(|at| *at > now).min();
            let next = [next_drop, services.retry].into_iter().flatten().min();
            tokio::select! {
                () = self.look.notified() => {}
                Some(done) = services.asking.join_next() => services.answered(done.ok()),
                () = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at.instant()).await,
                        None => std::future::pending().await,
                    }
                } => services.retry = None,
            }
        }
    }

    fn beside(&self) -> Told {
        Told { cluster: self.cluster.clone(), look: Arc::clone(&self.look) }
    }

    fn watch(&self, namespace: &str) -> Watched {
        let (client, beside, namespace) = (self.client.clone(), self.beside(), namespace.to_owned());
        tracing::debug!(namespace, "its EndpointSlices are watched");
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().any_semantic().timeout(WATCH_SECONDS);
            let api = Api::namespaced(client, &namespace);
            let _ = follow::<EndpointSlice>(api, config, Some(&namespace), &beside.cluster, &beside).await;
        });
        Watched { task, last_drain: Moment::now() }
    }

    /// What nobody tells of any more is forgotten: a later drain must not believe it.
    async fn drop_idle(&self, watched: &mut BTreeMap<String, Watched>, now: Moment) {
        let idle: Vec<String> = watched
            .iter()
            .filter(|(_, w)| now >= w.last_drain + KEPT)
            .map(|(name, _)| name.clone())
            .collect();
        for namespace in idle {
            let Some(mut of) = watched.remove(&namespace) else { continue };
            of.task.abort();
            // Its last word before it is forgotten.
            let _ = (&mut of.task).await;
            for kind in [Kind::Slice, Kind::Service] {
                self.cluster.forget(kind, &namespace, Moment::now());
            }
            tracing::debug!(namespace, "its EndpointSlices are not watched any more");
        }
    }
}

/// All slices of the cluster, one by one where the server can stream a list, else in pages.
async fn all(client: Client, beside: Told) {
    let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
    let api = || Api::all(client.clone());
    let streamed = config.clone().streaming_lists();
    if follow::<EndpointSlice>(api(), streamed, None, &beside.cluster, &beside).await.is_err() {
        tracing::info!("the API server does not stream lists: EndpointSlices are listed in pages");
        let _ = follow::<EndpointSlice>(api(), config, None, &beside.cluster, &beside).await;
    }
}

struct Told {
    cluster: Cluster,
    look: Arc<Notify>,
}

impl Beside for Told {
    fn told(&self) {
        self.look.notify_one();
    }
}

/// Which Services have been asked for.
#[derive(Default)]
struct Services {
    /// When, of those that were had.
    had: BTreeMap<Name, Moment>,
    /// For which drains: each asks once.
    asked: BTreeSet<(PodName, Name)>,
    asking: JoinSet<(Name, bool)>,
    under_way: BTreeSet<Name>,
    retry: Option<Moment>,
}

impl Services {
    fn ask(&mut self, slices: &Slices, draining: &BTreeSet<PodName>, now: Moment) {
        self.asked.retain(|(pod, _)| draining.contains(pod));
        for pod in draining {
            for service in slices.cluster.services_of(pod) {
                let name = (pod.namespace.clone(), service);
                let fresh = self.had.get(&name).is_some_and(|at| now < *at + KEPT);
                let new = self.asked.insert((pod.clone(), name.clone()));
                if (new && !fresh || !self.had.contains_key(&name))
                    && self.retry.is_none()
                    && self.under_way.insert(name.clone())
                {
                    self.asking.spawn(ask(slices.client.clone(), slices.cluster.clone(), name));
                }
            }
        }
        self.had.retain(|_, at| now < *at + KEPT || !draining.is_empty());
    }

    fn answered(&mut self, done: Option<(Name, bool)>) {
        let Some((name, had)) = done else { return };
        self.under_way.remove(&name);
        if had {
            self.had.insert(name, Moment::now());
        } else {
            self.retry = Some(Moment::now() + RETRY);
        }
    }
}

async fn ask(client: Client, cluster: Cluster, (namespace, name): Name) -> (Name, bool) {
    let api: Api<Folded<Service>> = Api::namespaced(client, &namespace);
    let answer = reading(cluster.options(), soon(api.get_opt(&name))).await;
    let had = match answer {
        Ok(Some(Folded { record: Some(record), .. })) => {
            cluster.put(record, Moment::now());
            true
        }
        Ok(_) => {
            cluster.delete(Kind::Service, &namespace, &name, Moment::now());
            true
        }
        Err(error) => {
            tracing::warn!(namespace, service = name, error = %causes(&error), "its kind is not known");
            false
        }
    };
    ((namespace, name), had)
}
