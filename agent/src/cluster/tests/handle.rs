use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::cluster::{Changes, Cluster, Kind};

async fn next(changes: &mut Changes) -> BTreeSet<PodName> {
    tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("a notice")
}

fn told(names: &[&str]) -> BTreeSet<PodName> {
    names.iter().map(|text| name(text)).collect()
}

#[tokio::test]
async fn subscribers_are_told_once_and_of_all() {
    let cluster = Cluster::new(files());
    let apply = |text: &str| objects(text).iter().for_each(|object| cluster.apply(object, T0));
    apply(SLICES_ALONE);
    let mut early = cluster.subscribe();
    assert_eq!(
        next(&mut early).await,
        told(&["lab/192.0.2.10", "shop/api-0", "shop/api-1"]),
        "known already"
    );

    let waiting = tokio::spawn(async move { (next(&mut early).await, early) });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    cluster.delete(Kind::Slice, "lab", "by-hand", T1);
    let (names, mut early) = waiting.await.unwrap();
    assert_eq!(names, told(&["lab/192.0.2.10"]));

    // Many changes, one notice.
    apply(DUAL_STACK);
    cluster.delete(Kind::Pod, "data", "db-0", T1);
    cluster.delete(Kind::Slice, "shop", "api-v6", T1);
    assert_eq!(next(&mut early).await, told(&["data/db-0", "shop/api-0"]));

    drop(early);
    cluster.reset(Kind::Slice, None, &[], T2);
    assert!(cluster.snapshot().is_empty());
}
