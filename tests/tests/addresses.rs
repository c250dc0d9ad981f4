//! Several addresses, several links, several pods: which packets are whose.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Conn, Family, Held, Node, Server, clock, scenario, scenarios};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_secs(4);

/// A request that the pod has read, and answers when the test does.
fn ask(conn: Conn, server: &Server) -> Result<Held> {
    Held::ask(conn, server.accept()?)
}

/// The same port of both of a pod's addresses, at once: connections from before the attach and later ones.
fn both_families_at_once(node: &Node) -> Result<()> {
    let agent = node.agent().start()?;
    let pod = node.pod("web").port("http", 8080).start()?;
    let server = pod.listen(8080)?;
    let (v4, v6) = (node.client()?, node.client()?);
    let [first, second] = pod.ips().map(|ip| SocketAddr::new(ip, 8080));
    let both =
        || -> Result<_> { Ok([ask(v4.connect_to(first)?, &server)?, ask(v6.connect_to(second)?, &server)?]) };
    let mut old = both()?;
    let stop = node.kubelet().delete(&pod)?;
    agent.sees(&pod, |drain| drain["counts"]["open"] == 2)?;
    let mut young = both()?;
    let drain = agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 4 && drain["known"]["seen"] == 2)?;
    let ipv6 = |line: &serde_json::Value| line["local"].as_str().is_some_and(|local| local.starts_with('['));
    let lines = drain["connections"].as_array().context("no connections")?;
    ensure!(lines.iter().filter(|line| ipv6(line)).count() == 2 && lines.len() == 4, "{drain:#}");
    let seen = |line: &&serde_json::Value| line["known"] == "seen" && ipv6(line);
    ensure!(lines.iter().filter(seen).count() == 1, "the younger one's packets were not seen: {drain:#}");
    ensure!(stop.still_held_after(A_WHILE), "answered with requests in flight");
    old.iter_mut().chain(&mut young).try_for_each(Held::answer)?;
    ensure!(stop.answered_within(SOON)?.outcome() == "drained");
    Ok(())
}

#[test]
fn both_families_of_a_pod_with_ipv4_first() {
    scenario::run(Family::Ipv4, both_families_at_once);
}

#[test]
fn both_families_of_a_pod_with_ipv6_first() {
    scenario::run(Family::Ipv6, both_families_at_once);
}

scenarios! {
    /// What comes by the second link holds the hook like what comes by the first, and new connections
    /// there put the answer off.
    fn traffic_on_the_second_link_counts(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).second_link().start()?;
        let server = pod.listen(8080)?;
        let to = pod.second_addr(8080);
        let neighbour = || ask(Conn::new(node.host().netns().run(|| TcpStream::connect(to))?)?, &server);
        let mut old = neighbour()?;
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 1)?;
        let mut young = neighbour()?;
        agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 2 && drain["known"]["seen"] != 0)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        old.answer()?;
        let came = clock::now();
        neighbour()?.answer()?;
        young.answer()?;
        let last = stop.answered_within(SOON)?;
        // The floor begins anew; that of `idle-after` behind the last answer is a second.
        ensure!(last.at - came > 1.95, "a new connection did not put it off: {last:?}");
        ensure!(last.outcome() == "drained", "{last:?}");
        Ok(())
    }

    /// A client with the same port towards two pods that drain at once, with the same port of theirs: what
    /// it does with the one is nothing to the other.
    fn two_pods_with_equal_ports_and_peers(node) {
        let agent = node.agent().start()?;
        let start = |name| node.pod(name).port("http", 8080).start();
        let (one, other) = (start("one")?, start("other")?);
        let (of_one, of_other) = (one.listen(8080)?, other.listen(8080)?);
        let client = node.client()?;
        let mut busy = ask(client.connect_from(40_000, one.addr(8080))?, &of_one)?;
        let mut done = ask(client.connect_from(40_000, other.addr(8080))?, &of_other)?;
        let stops = [node.kubelet().delete(&one)?, node.kubelet().delete(&other)?];
        for pod in [&one, &other] {
            let drain = agent.sees(pod, |drain| drain["counts"]["in_flight"] == 1)?;
            ensure!(drain["connections"].as_array().is_some_and(|lines| lines.len() == 1), "{drain:#}");
        }
        done.answer()?;
        drop(done);
        ensure!(stops[1].answered_within(SOON)?.outcome() == "drained");
        ensure!(stops[0].still_held_after(Duration::from_secs(2)), "answered with a request in flight");
        busy.answer()?;
        ensure!(stops[0].answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }
}
