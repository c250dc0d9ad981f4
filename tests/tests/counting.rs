//! Which connections count at all: those from outside, to a port of the pod, that carry something.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::kubelet::Answer;
use lastcall_tests::mesh::{Front, Mesh};
use lastcall_tests::{Client, Conn, Family, Held, Hook, Node, Repeated, Server, clock, scenario, scenarios};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// The floor of a pod without a Service, and a margin.
const SOON: Duration = Duration::from_secs(15);
/// An agent that errs would have answered by then.
const A_WHILE: Duration = Duration::from_secs(4);
/// From the last close, or the last byte and `idle-after`, to the answer.
const AT_ONCE: Duration = Duration::from_secs(10);

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// The answer says "drained", and that so many connections were open then.
fn is_drained(answer: &Answer, open: u64) -> Result<()> {
    ensure!(answer.outcome() == "drained", "{answer:?}");
    ensure!(answer.body["remained"]["open"] == open, "not {open} connections: {answer:?}");
    Ok(())
}

/// The pod waits for everything that counts, whatever it does.
fn waits_for_all() -> Hook {
    Hook::http("/drain?until=closed")
}

/// The same with time to look at it while it settles.
fn waits_for_all_and_settles_slowly() -> Hook {
    Hook::http("/drain?until=closed&settle=6s")
}

/// A connection with exchanges enough for its ages to tell that it is idle.
fn idle(client: &Client, to: SocketAddr) -> Result<Conn> {
    let mut conn = client.connect_to(to)?;
    for _ in 0..4 {
        conn.get("/")?;
        conn.response()?;
    }
    Ok(conn)
}

/// A connection from a port that somebody has just had, as soon as it is free.
fn bound_to(from: SocketAddr, to: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    let from = SocketAddr::new(from.ip().to_canonical(), from.port()).into();
    let until = Instant::now() + SOON;
    while let Err(error) = socket.bind(&from) {
        ensure!(Instant::now() < until, "the port stays in use: {error}");
        std::thread::sleep(seconds(0.01));
    }
    socket.connect(&to.into())?;
    Ok(socket)
}

/// The same with the test as the app behind the proxy: its end of the connection comes with it.
fn served(client: &Client, to: SocketAddr, server: &Server) -> Result<(Conn, Conn)> {
    let mut conn = client.connect_to(to)?;
    let mut served = server.accept()?;
    for _ in 0..4 {
        conn.get("/")?;
        served.request()?;
        served.respond("hello")?;
        conn.response()?;
    }
    Ok((conn, served))
}

/// And a request that is answered when the test says so.
fn busy(client: &Client, to: SocketAddr, server: &Server) -> Result<Held> {
    let (conn, served) = served(client, to, server)?;
    Held::ask(conn, served)
}

/// Proxy before the app, connections older and younger than the attach: each is one entry, those with a
/// request in flight are waited for, idle ones are not.
fn redirected_connections_count_once(node: &Node, front: Front) -> Result<()> {
    let agent = node.agent().start()?;
    // Doubt that would not end before the test does.
    let pod = node.pod("web").port("http", 8080).hook(Hook::http("/drain?doubt-after=20s")).start()?;
    let server = pod.listen(8080)?;
    let _mesh = Mesh::before(&pod, 8080, front)?;
    let (client, to) = (node.client()?, pod.addr(8080));
    let _old = served(&client, to, &server)?;
    let mut old_busy = busy(&client, to, &server)?;

    let stop = node.kubelet().delete(&pod)?;
    agent.sees(&pod, |drain| drain["counts"]["open"] == 2)?;
    let _young = served(&client, to, &server)?;
    let mut young_busy = busy(&client, to, &server)?;
    let counts = |drain: &Value, what: &str| drain["counts"][what].as_u64().unwrap_or(0);
    // Of the older one nobody knows for certain that it waits.
    let has = |drain: &Value| (counts(drain, "open"), counts(drain, "in_flight") + counts(drain, "doubt"));
    let drain = agent.sees(&pod, |drain| has(drain) == (4, 2))?;
    ensure!(drain["connections"].as_array().is_some_and(|lines| lines.len() == 4), "{drain:#}");
    young_busy.answer()?;
    ensure!(stop.still_held_after(seconds(1.5)), "answered with a request in flight");
    agent.sees(&pod, |drain| has(drain) == (4, 1))?;
    old_busy.answer()?;
    is_drained(&stop.answered_within(SOON)?, 4)
}

#[test]
fn a_redirect_to_a_proxy_on_loopback_ipv4() {
    scenario::run(Family::Ipv4, |node| redirected_connections_count_once(node, Front::Loopback));
}

scenarios! {
    /// A mesh's REDIRECT: the port on the wire is not the socket's.
    fn a_redirect_to_a_proxy_on_every_address(node) {
        redirected_connections_count_once(node, Front::Everywhere)
    }

    /// Only an older connection, redirected, of which no packet is seen before its answer: no entry shows
    /// that the proxy's port is the app's.
    fn a_redirected_request_that_no_packet_shows(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).start()?;
        let server = pod.listen(8080)?;
        let _mesh = Mesh::before(&pod, 8080, Front::Everywhere)?;
        let mut busy = busy(&node.client()?, pod.addr(8080), &server)?;
        let stop = node.kubelet().delete(&pod)?;
        let drain = agent.sees(&pod, |drain| drain["counts"]["open"] == 1)?;
        ensure!(drain["connections"].as_array().is_some_and(|lines| lines.len() == 1), "{drain:#}");
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        busy.answer()?;
        is_drained(&stop.answered_within(SOON)?, 1)
    }

    /// What the pod itself opens to somebody outside is its own affair, in flight or not.
    fn outbound_connections_do_not_count(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(waits_for_all_and_settles_slowly()).start()?;
        let client = node.client()?;
        let database = client.listen(5432)?;
        let to = SocketAddr::new(client.ips()[usize::from(pod.addr(0).is_ipv6())], 5432);
        let mut query = Conn::new(pod.run(|| TcpStream::connect(to))?)?;
        query.send("SELECT")?;
        let mut served = database.accept()?;
        served.expect("SELECT")?;
        let stop = node.kubelet().delete(&pod)?;
        let traffic = Repeated::every(seconds(0.3), move || {
            drop(query.send("?").and_then(|()| served.expect("?")).and_then(|()| served.send("!")));
        });
        agent.says(&pod, "settling, 6 s")?;
        is_drained(&stop.answered_within(SOON)?, 0)?;
        ensure!(traffic.stop() > 3, "there was no traffic");
        Ok(())
    }

    /// Nor is what stays inside the pod, by loopback or by the pod's own address.
    fn connections_inside_the_pod_do_not_count(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(waits_for_all()).start()?;
        let local: SocketAddr = match node.family() {
            Family::Ipv4 => (Ipv4Addr::LOCALHOST, 8080).into(),
            Family::Ipv6 => (Ipv6Addr::LOCALHOST, 8080).into(),
        };
        let ask = |to| -> Result<Conn> {
            let mut conn = Conn::new(pod.run(|| TcpStream::connect(to))?)?;
            conn.get("/slow?ms=60000")?;
            Ok(conn)
        };
        let _inside = [ask(local)?, ask(pod.addr(8080))?];
        let stop = node.kubelet().delete(&pod)?;
        let _later = [ask(local)?, ask(pod.addr(8080))?];
        is_drained(&stop.answered_within(SOON)?, 0)
    }

    /// TIME-WAIT is what is left of a connection that nobody needs any more.
    fn time_wait_does_not_count(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).hook(waits_for_all_and_settles_slowly()).start()?;
        let server = pod.listen(8080)?;
        let client = node.client()?;
        let leave = || -> Result<()> {
            let mut conn = client.connect(&pod, 8080)?;
            server.accept()?.close();
            ensure!(conn.closed_within(SOON)?);
            Ok(())
        };
        leave()?;
        let stop = node.kubelet().delete(&pod)?;
        leave()?;
        pod.has_sockets(8080, "time-wait", 2).context("no TIME-WAIT to tell")?;
        is_drained(&stop.answered_within(SOON)?, 0)
    }

    /// Clients whose part of the handshake is lost: the pod waits for it, nobody else does.
    fn half_open_connections_do_not_count(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("db").echo(5432).hook(waits_for_all_and_settles_slowly()).start()?;
        let client = node.client()?;
        let lossy = "table inet lossy {\n  chain out {\n    type filter hook output priority 0;\n    \
                     tcp dport 5432 tcp flags & (syn | ack) == ack drop\n  }\n}\n";
        client.netns().command("nft", &["-f", "-"], lossy)?;
        let half_open = || -> Result<Conn> {
            let mut conn = client.connect(&pod, 5432)?;
            conn.send("nobody will read this")?;
            Ok(conn)
        };
        let _before = [half_open()?, half_open()?];
        let stop = node.kubelet().delete(&pod)?;
        let _after = [half_open()?, half_open()?];
        pod.has_sockets(5432, "syn-recv", 4).context("no SYN-RECV to tell")?;
        is_drained(&stop.answered_within(SOON)?, 0)
    }

    /// The kubelet's probes come from the node's address, as real clients may; they are known by who made
    /// them. They neither put the answer off nor hold it, also while one of them is being served.
    fn the_kubelets_probes_do_not_count(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).hook(waits_for_all()).start()?;
        // One of them is always being served.
        for ms in [900, 700, 500, 0] {
            node.kubelet().probe(pod.addr(8080), &format!("/slow?ms={ms}"), seconds(0.1))?;
        }
        std::thread::sleep(seconds(2.5));
        let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
        is_drained(&answer, 0)?;
        let why = answer.body["why"].as_str().unwrap_or_default();
        ensure!(why.contains("silence proves nothing") && answer.since_order > seconds(4.9), "{answer:?}");
        Ok(())
    }

    /// The kubelet's probes, redirected to the mesh's proxy: their sockets have another port.
    fn redirected_probes_do_not_count(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(waits_for_all()).start()?;
        let _mesh = Mesh::before(&pod, 8080, Front::Everywhere)?;
        // One of them is always being served.
        for ms in [900, 700, 500, 300] {
            node.kubelet().probe(pod.addr(8080), &format!("/slow?ms={ms}"), seconds(0.1))?;
        }
        let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
        is_drained(&answer, 0)
    }

    /// A client behind SNAT may have the very port that a probe had before it.
    fn a_client_with_the_port_of_an_earlier_probe_counts(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", 8080).start()?;
        let server = pod.listen(8080)?;
        // It must not give up before it has its answer: its port would stay in TIME-WAIT.
        node.kubelet().probe_patiently(pod.addr(8080), "/", seconds(100.0), SOON)?;
        let mut probe = server.accept()?;
        probe.request()?;
        let from = probe.stream().peer_addr()?;
        probe.respond("fine")?;
        probe.close();
        let again = || -> Result<Conn> {
            let socket = node.host().netns().run(|| bound_to(from, pod.addr(8080)))?;
            Conn::new(socket.into())
        };
        let mut old = again()?;
        let mut served = server.accept()?;
        old.get("/report")?;
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["open"] == 1)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        // Somebody else has to be waited for while this one changes connections.
        let (mut other, mut others) = (node.client()?.connect(&pod, 8080)?, server.accept()?);
        other.get("/report")?;
        others.request()?;
        agent.sees(&pod, |drain| drain["counts"]["in_flight"] == 2)?;
        served.request()?;
        served.respond("here it is")?;
        old.response()?;
        served.close();
        ensure!(old.closed_within(SOON)?);
        drop(old);
        let mut young = again()?;
        let mut served = server.accept()?;
        young.get("/report")?;
        others.respond("here it is")?;
        other.response()?;
        others.close();
        other.close();
        ensure!(stop.still_held_after(A_WHILE), "answered with a request in flight");
        served.request()?;
        served.respond("here it is")?;
        young.response()?;
        is_drained(&stop.answered_within(SOON)?, 1)
    }

    /// The app still works on a probe that the kubelet has given up: nobody waits for the answer.
    fn a_probe_that_was_given_up_does_not_count(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(waits_for_all()).start()?;
        node.kubelet().probe(pod.addr(8080), "/slow?ms=60000", seconds(100.0))?;
        pod.has_sockets(8080, "close-wait", 1).context("the kubelet did not give up")?;
        is_drained(&node.kubelet().delete(&pod)?.answered_within(SOON)?, 0)
    }

    /// A client behind SNAT has the node's address, and so has somebody on the node: both count.
    fn clients_with_the_nodes_address_count(node) {
        let agent = node.agent().start()?;
        let service = node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web-0").of("web").http(8080).start()?;
        node.cluster().masquerade()?;
        node.proxy_synced()?;
        node.kubelet().probe(pod.addr(8080), "/", seconds(0.5))?;
        let mut translated = node.client()?.connect_to(service.address)?;
        let mut neighbour = Conn::new(node.host().netns().run(|| TcpStream::connect(pod.addr(8080)))?)?;
        translated.get("/slow?ms=15000")?;
        neighbour.get("/slow?ms=15000")?;
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["open"] == 2)?;
        ensure!(stop.still_held_after(seconds(7.0)), "answered with two requests in flight");
        translated.response()?;
        neighbour.response()?;
        let answer = stop.answered_within(SOON)?;
        // A probe that is just leaving may be on the count at the very moment of the answer.
        let open = answer.body["remained"]["open"].as_u64();
        ensure!(answer.outcome() == "drained" && matches!(open, Some(2 | 3)), "{answer:?}");
        Ok(())
    }

    /// UDP: as long as datagrams come the hook is held, and for `udp-idle` after the last.
    fn a_udp_flow_holds_until_it_is_quiet(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("dns").udp(5300).hook(Hook::http("/drain?udp-idle=4s")).start()?;
        let (client, to) = (node.client()?, pod.addr(5300));
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = client.run(|| UdpSocket::bind(any))?;
        let last = Arc::new(Mutex::new(0.0));
        let flow = Repeated::every(seconds(0.3), {
            let last = Arc::clone(&last);
            move || {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
                drop(socket.send_to(b"?", to));
            }
        });
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(seconds(7.0)), "answered while datagrams came");
        flow.stop();
        let answer = stop.answered_within(SOON)?;
        let quiet = answer.at - *last.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(quiet > 3.95, "answered before `udp-idle`: {quiet} s, {answer:?}");
        let most = 6.5 + answer.lost_at_last.as_secs_f64();
        ensure!(quiet < most, "{quiet} s after the last, not {most}: {answer:?}");
        is_drained(&answer, 0)
    }

    /// Without a word about ports, those count that the pod listens on; silence says nothing there.
    fn ports_that_nobody_declared_count(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").start()?;
        let server = pod.listen(7000)?;
        let client = node.client()?;
        let (old, _old) = (client.connect(&pod, 7000)?, server.accept()?);
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["open"] == 1)?;
        let (young, _young) = (client.connect(&pod, 7000)?, server.accept()?);
        agent.sees(&pod, |drain| drain["counts"]["open"] == 2)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with two connections open");
        old.close();
        _old.close();
        agent.sees(&pod, |drain| drain["counts"]["open"] == 1)?;
        young.close();
        _young.close();
        is_drained(&stop.answered_within(AT_ONCE)?, 0)
    }

    /// Scrapers at a port that no slice names, one that keeps its connection and one that does not, neither
    /// hold the hook nor put it off.
    fn a_scraped_metrics_port_does_not_hold(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(9100).http(8080).start()?;
        node.cluster().update_pod("web", |pod| pod.containers[0].ports[0].name = "metrics".to_owned())?;
        let mut kept = node.client()?.connect(&pod, 9100)?;
        let scrape = move || drop(kept.get("/").and_then(|()| kept.response()));
        let scraper = Repeated::every(seconds(2.5), scrape);
        let (other, to) = (node.client()?, pod.addr(9100));
        let _other = Repeated::every(seconds(1.5), move || drop(other.fetch(to, "/")));
        let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
        // The other one may be there at the very moment of the answer.
        let open = answer.body["remained"]["open"].as_u64();
        ensure!(answer.outcome() == "drained" && matches!(open, Some(1 | 2)), "{answer:?}");
        ensure!(scraper.stop() >= 2, "there was nothing to ignore");
        Ok(())
    }

    /// The app has crashed before the hook comes: nothing can be waited for.
    fn an_app_that_is_gone_is_not_waited_for(node) {
        let _agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).start()?;
        let mut conn = idle(&node.client()?, pod.addr(8080))?;
        pod.kill_app();
        ensure!(conn.closed_within(SOON)?);
        node.cluster().mark_deleted("web", None)?;
        let answer = node.kubelet().call_hook(&pod)?.answered_within(AT_ONCE)?;
        ensure!(answer.outcome() == "gone", "{answer:?}");
        Ok(())
    }
}
