//! The pods of this node.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::watcher};
use tokio::sync::oneshot;

use super::{
    WATCH_SECONDS,
    follow::{Beside, follow},
    live::Live,
};
use crate::cluster::{Cluster, PodName, Record};

/// Follows them until it is dropped; `listed` is told once they are known.
pub(super) async fn run(live: Arc<Live>, cluster: Cluster, listed: oneshot::Sender<()>) {
    let config = watcher::Config::default()
        .any_semantic()
        .fields(&format!("spec.nodeName={}", live.node()))
        .timeout(WATCH_SECONDS);
    let beside = Pods { cluster: cluster.clone(), live: Arc::clone(&live), listed: Mutex::new(Some(listed)) };
    // It ends only where a list cannot be streamed, and this one is not.
    let _ = follow::<Pod>(Api::all(live.client()), config, None, &cluster, &beside).await;
}

struct Pods {
    cluster: Cluster,
    live: Arc<Live>,
    listed: Mutex<Option<oneshot::Sender<()>>>,
}

impl Beside for Pods {
    /// A list comes from the API server's cache, which may lag behind what was seen before. That a pod
    /// whose hook is held has gone ends the hook, so it is asked for by itself.
    async fn spared(&self, listed: &[Record]) -> BTreeSet<PodName> {
        let there = |pod: &PodName| {
            listed.iter().any(|record| record.namespace == pod.namespace && record.name == pod.name)
        };
        let mut spared = BTreeSet::new();
        for pod in self.cluster.terminating().into_iter().filter(|pod| !there(&pod.name)) {
            // Where nobody answers, nobody says that it has gone.
            let gone = self.live.is_gone(&pod.name, &pod.uid).await.unwrap_or(false);
            if !gone {
                spared.insert(pod.name.clone());
            }
        }
        spared
    }

    fn told(&self) {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody waits for it when the agent ends.
        let _ = listed.map(|listed| listed.send(()));
    }
}
