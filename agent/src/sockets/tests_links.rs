//! Links and addresses on the real kernel.

use std::io::Write as _;

use super::{
    Link, LinkEvents, Namespace, Namespaces,
    tests_fixture::{Directory, needs_root, soon},
};

async fn the_only(namespaces: &Namespaces) -> Namespace {
    let mut all = namespaces.list().await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[tokio::test]
async fn links_come_with_their_addresses() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    pod.add_eth0(&["10.9.0.2/24", "fd00:9::2/64"]);
    pod.ip("link add net1 type veth peer name peer1");
    pod.ip("address add 10.8.0.2 peer 10.8.0.1 dev net1");
    let namespaces = Namespaces::start(node.path()).unwrap();
    let links = the_only(&namespaces).await.links_async().await.unwrap();
    let link = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    let has = |link: &Link, address: &str| link.addresses.contains(&address.parse().unwrap());
    assert_eq!(links.len(), 5, "{links:?}");
    assert!(link("lo").loopback && !link("eth0").loopback && !link("net1").loopback);
    assert!(has(link("lo"), "127.0.0.1") && has(link("lo"), "::1"));
    assert!(has(link("eth0"), "10.9.0.2") && has(link("eth0"), "fd00:9::2"));
    assert!(has(link("net1"), "10.8.0.2"), "this end of it: {links:?}");
    let shown = pod.ip("-oneline link show eth0");
    assert!(shown.starts_with(&format!("{}: eth0", link("eth0").index)), "{shown}");
}

/// Waits until the links are as expected, as a holder of the events would.
async fn until(ns: &Namespace, events: &mut LinkEvents, expected: impl Fn(&[Link]) -> bool) {
    loop {
        soon("a link event", events.next()).await.unwrap();
        if expected(&ns.links().unwrap()) {
            return;
        }
    }
}

#[tokio::test]
async fn links_and_addresses_that_come_and_go_are_events() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = the_only(&namespaces).await;
    let mut events = ns.link_events().await.unwrap();
    let eth0 = |links: &[Link]| links.iter().find(|link| link.name == "eth0").cloned();
    pod.ip("link add eth0 type veth peer name peer");
    until(&ns, &mut events, |links| eth0(links).is_some()).await;
    let first = eth0(&ns.links().unwrap()).unwrap().index;
    pod.ip("address add 10.9.0.2/24 dev eth0");
    until(&ns, &mut events, |links| eth0(links).is_some_and(|l| !l.addresses.is_empty())).await;
    pod.ip("link del eth0");
    until(&ns, &mut events, |links| eth0(links).is_none()).await;
    pod.ip("link add eth0 type veth peer name peer");
    until(&ns, &mut events, |links| eth0(links).is_some_and(|l| l.index != first)).await;
    pod.ip("address add fd00:9::2/64 dev eth0");
    until(&ns, &mut events, |links| eth0(links).is_some_and(|l| !l.addresses.is_empty())).await;
}

#[tokio::test]
async fn events_that_were_lost_are_an_event() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = the_only(&namespaces).await;
    let mut events = ns.link_events().await.unwrap();
    // More than the socket's buffer holds (212,992 bytes), and nobody reads.
    pod.ip("link add eth0 type veth peer name peer");
    let mut batch = tempfile::NamedTempFile::new().unwrap();
    for i in 0..1500 {
        writeln!(batch, "address add 10.{}.{}.1/32 dev eth0", 10 + i / 250, i % 250).unwrap();
    }
    pod.ip(&format!("-batch {}", batch.path().display()));
    soon("the loss", events.next()).await.unwrap();
}
