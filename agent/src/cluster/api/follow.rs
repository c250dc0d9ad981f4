//! One LIST and its WATCH, into the index.
//!
//! In: what the API server lists and tells. Out: [`Cluster::list`], [`Cluster::put`], [`Cluster::delete`].
//! kube's watcher resumes, lists anew after "410 Gone", takes bookmarks, and backs off with jitter.

use std::{collections::BTreeSet, fmt::Debug, future::Future, pin::pin};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource as _, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, InitialListStrategy},
    },
};

use super::folded::{Foldable, Folded, reading};
use crate::{
    causes,
    cluster::{Cluster, PodName, Record},
    moment::Moment,
};

/// What is done beside the index.
pub(super) trait Beside {
    /// A list is complete: these of those that were known are there although it lacks them.
    fn spared(&self, listed: &[Record]) -> impl Future<Output = BTreeSet<PodName>> + Send {
        let _ = listed;
        async { BTreeSet::new() }
    }
    /// The index was told.
    fn told(&self);
}

/// The server does not know how to stream a list.
#[derive(Debug)]
pub(super) struct CannotStream;

/// Follows until it is dropped. `namespace`: of one, or of all.
pub(super) async fn follow<K: Foldable>(
    api: Api<Folded<K>>,
    config: watcher::Config,
    namespace: Option<&str>,
    cluster: &Cluster,
    beside: &(impl Beside + Sync),
) -> Result<(), CannotStream>
where
    Folded<K>: Debug,
{
    let streamed = config.initial_list_strategy == InitialListStrategy::StreamingList;
    reading(cluster.options(), async {
        let mut events = pin!(watcher::watcher(api, config).default_backoff());
        let mut listed: Vec<Record> = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed = Vec::new(),
                Ok(Event::InitApply(object)) => listed.extend(object.record),
                Ok(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    let spared = beside.spared(&listed).await;
                    cluster.list(K::KIND, namespace, listed, &spared, Moment::now());
                    beside.told();
                }
                Ok(Event::Apply(Folded { record: Some(record), .. })) => {
                    cluster.put(record, Moment::now());
                    beside.told();
                }
                // Gone, or nothing of this node any more.
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    let of = object.namespace().unwrap_or_default();
                    cluster.delete(K::KIND, &of, &object.name_any(), Moment::now());
                    beside.told();
                }
                Err(watcher::Error::WatchStartFailed(kube::Error::Api(status)))
                    if streamed && matches!(status.code, 400 | 422) =>
                {
                    return Err(CannotStream);
                }
                Err(error) => {
                    let plural = Folded::<K>::plural(&());
                    tracing::warn!(error = %causes(&error), namespace, "watching {plural}; trying again");
                }
            }
        }
        Ok(())
    })
    .await
}
