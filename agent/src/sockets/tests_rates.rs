//! Counters and rates on the real kernel.

use std::{
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{
    Namespaces, OpeningRates,
    tests_fixture::{Directory, Pod, needs_root, soon},
};

/// Opens and closes connections inside.
fn open_connections(pod: &Pod, count: usize) {
    pod.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..count {
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            drop(listener.accept().unwrap());
        }
    });
}

#[tokio::test]
async fn passive_opens_are_the_namespaces_own() {
    needs_root!();
    let node = Directory::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let namespaces = Namespaces::start(node.path()).unwrap();
    let all = namespaces.list().await.unwrap();
    open_connections(&a, 5);
    open_connections(&b, 2);
    assert_eq!(all[0].passive_opens().await.unwrap(), 5);
    assert_eq!(all[1].passive_opens().await.unwrap(), 2);
    open_connections(&a, 1);
    assert_eq!(all[0].passive_opens().await.unwrap(), 6);
}

#[tokio::test]
async fn a_namespace_has_a_baseline_from_its_creation_on() {
    needs_root!();
    let node = Directory::new();
    let before = node.pod("before");
    open_connections(&before, 7);
    let namespaces = Namespaces::start(node.path()).unwrap();
    let rates = OpeningRates::start(&namespaces);
    soon("the first reading", rates.read(&before.path)).await;
    let born = Instant::now();
    let after = node.pod("after");
    soon("the reading at creation", rates.read(&after.path)).await;
    open_connections(&before, 3);
    open_connections(&after, 4);

    let all = namespaces.list().await.unwrap();
    let [ns_after, ns_before] = &all[..] else { panic!("{all:?}") };
    let young = rates.rate(ns_after).await.unwrap();
    // On a busy machine it may be older already.
    assert!(young.is_none() || born.elapsed() > Duration::from_secs(2), "{young:?}");
    let ten = Duration::from_secs(10);
    rates.make_older(ten);
    let rate = rates.rate(ns_after).await.unwrap().unwrap();
    assert_eq!(rate.openings, 4);
    assert!(rate.over >= ten && rate.over <= ten + born.elapsed(), "{rate:?}");
    assert_eq!(rates.rate(ns_before).await.unwrap().unwrap().openings, 3, "not those from before");

    let path = after.path.clone();
    drop(after);
    soon("it to be forgotten", rates.forgotten(&path)).await;
}
