//! Several addresses, several links, several pods: which packets are whose.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Client, Conn, Family, Node, scenario, scenarios};

const SOON: Duration = Duration::from_secs(4);
const A_WHILE: Duration = Duration::from_secs(4);

/// Sends a request that takes `ms` milliseconds, on a connection of its own.
fn ask(client: &Client, to: std::net::SocketAddr, ms: u32) -> Result<Conn> {
    let mut conn = client.connect_to(to)?;
    conn.get(&format!("/slow?ms={ms}"))?;
    Ok(conn)
}

/// The same port of both of a pod's addresses, at once: connections from before the attach and later ones.
fn both_families_at_once(node: &Node) -> Result<()> {
    let agent = node.agent().start()?;
    let pod = node.pod("web").http(8080).start()?;
    let (v4, v6) = (node.client()?, node.client()?);
    let [first, second] = pod.ips().map(|ip| std::net::SocketAddr::new(ip, 8080));
    let mut old = [ask(&v4, first, 5000)?, ask(&v6, second, 5000)?];
    let stop = node.kubelet().delete(&pod)?;
    let mut young = [ask(&v4, first, 5500)?, ask(&v6, second, 6500)?];
    let drain = agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 4)?;
    let ipv6 = |line: &serde_json::Value| line["local"].as_str().is_some_and(|local| local.starts_with('['));
    let lines = drain["connections"].as_array().context("no connections")?;
    ensure!(lines.iter().filter(|line| ipv6(line)).count() == 2 && lines.len() == 4, "{drain:#}");
    ensure!(stop.still_held_after(A_WHILE), "answered with requests in flight");
    for conn in old.iter_mut().chain(&mut young) {
        conn.response()?;
    }
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
        let pod = node.pod("web").http(8080).second_link().start()?;
        let neighbour = |ms| -> Result<Conn> {
            let to = pod.second_addr(8080);
            let mut conn = Conn::new(node.host().netns().run(|| std::net::TcpStream::connect(to))?)?;
            conn.get(&format!("/slow?ms={ms}"))?;
            Ok(conn)
        };
        let mut old = neighbour(4000)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 1)?;
        let mut young = neighbour(5000)?;
        agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 2 && drain["known"]["seen"] != 0)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        old.response()?;
        young.response()?;
        neighbour(0)?.response()?;
        ensure!(stop.still_held_after(Duration::from_millis(1500)), "a new connection did not put it off");
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// A client with the same port towards two pods that drain at once, with the same port of theirs: what
    /// it does with the one is nothing to the other.
    fn two_pods_with_equal_ports_and_peers(node) {
        let agent = node.agent().start()?;
        let (one, other) = (node.pod("one").http(8080).start()?, node.pod("other").http(8080).start()?);
        let client = node.client()?;
        let mut busy = client.connect_from(40_000, one.addr(8080))?;
        let mut done = client.connect_from(40_000, other.addr(8080))?;
        busy.get("/slow?ms=7000")?;
        let stops = [node.kubelet().delete(&one)?, node.kubelet().delete(&other)?];
        done.get("/slow?ms=1500")?;
        for pod in [&one, &other] {
            let drain = agent.sees(pod, |drain| drain["counts"]["in_flight"] == 1)?;
            ensure!(drain["connections"].as_array().is_some_and(|lines| lines.len() == 1), "{drain:#}");
        }
        done.response()?;
        done.close();
        ensure!(stops[1].answered_within(SOON)?.outcome() == "drained");
        ensure!(stops[0].still_held_after(Duration::from_secs(2)), "answered with a request in flight");
        busy.response()?;
        ensure!(stops[0].answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }
}
