//! The fixtures themselves: the small kubelet does what the real one was seen to do, the proxy lags, and
//! nothing stays behind.

use std::io::{BufRead, BufReader};
use std::mem::ManuallyDrop;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::load::Kind;
use lastcall_tests::manifest::ServiceKind;
use lastcall_tests::process::Process;
use lastcall_tests::proxy::LAG;
use lastcall_tests::{Hook, Node, Pod, leftovers, scenarios};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Where a hook arrives when no agent is there to catch it: in the pod.
const HOOK: u16 = 9902;

/// What has not come by then never will.
const AGES: Duration = Duration::from_secs(30);

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// The body of the pod's own `/`, seen by nobody but the app.
fn name_of(conn: &mut lastcall_tests::Conn) -> Result<String> {
    conn.get("/")?;
    Ok(String::from_utf8(conn.response()?.1)?.trim().to_owned())
}

fn web(node: &Node, name: &str, hook: Hook) -> Result<Pod> {
    node.pod(name).of("web").http(8080).hook(hook).start()
}

scenarios! {
    /// The request is the kubelet's to the byte, the status does not matter, SIGTERM follows the answer.
    fn the_kubelet_holds_a_pod_until_its_hook_answers(node) {
        let pod = web(node, "web-0", Hook::http("/drain?until=closed").header("X-Tier", "gold"))?;
        let endpoint = pod.listen(HOOK)?;
        let stop = node.kubelet().delete(&pod)?;
        let mut hook = endpoint.accept()?;
        let to = pod.addr(HOOK);
        hook.expect(format!(
            "GET /drain?until=closed HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-lifecycle/1.34\r\n\
             Accept: */*\r\nX-Tier: gold\r\nAccept-Encoding: gzip\r\n\r\n"
        ))?;
        ensure!(stop.still_held_after(seconds(0.5)), "the hook ended by itself");
        let body = r#"{"outcome":"busy"}"#;
        hook.send(format!("HTTP/1.1 503 Busy\r\nContent-Length: {}\r\n\r\n{body}", body.len()))?;
        let answer = stop.answered_within(AGES)?;
        ensure!((answer.status, answer.outcome()) == (503, "busy"), "{answer:?}");
        let term = stop.terminated_within(AGES)?;
        ensure!(term - answer.at < 5.0, "SIGTERM came {} s after the answer", term - answer.at);
        stop.gone_within(AGES)?;
        ensure!(pod.netns().is_none() && node.cluster().pod("web-0").is_err(), "gone, but still there");
        Ok(())
    }

    /// Nobody listens: `FailedPreStopHook`, and SIGTERM at once.
    fn a_refused_hook_is_no_hook(node) {
        let stop = node.kubelet().delete(&web(node, "web-0", Hook::http("/drain"))?)?;
        let (at, error) = stop.failed_within(AGES)?;
        ensure!(error.contains("refused"), "{error}");
        ensure!(stop.gone_within(AGES)? - at < 10.0, "SIGTERM was late");
        Ok(())
    }

    /// A hook that never answers has the grace, and the container then two more seconds.
    fn the_grace_ends_a_hook(node) {
        let pod = node.pod("web-0").hook(Hook::http("/drain")).grace(1).graceful().start()?;
        let endpoint = pod.listen(HOOK)?;
        let stop = node.kubelet().delete(&pod)?;
        let hook = endpoint.accept()?;
        let term = stop.terminated_within(AGES)?;
        let held = term - stop.started()?;
        ensure!((0.9..10.0).contains(&held), "SIGTERM after {held} s");
        let lasted = stop.gone_within(AGES)? - term;
        // A busy machine may take that long.
        ensure!(!stop.was_killed() || lasted >= 2.0, "killed after {lasted} s");
        drop(hook);
        Ok(())
    }

    /// All hooks of a pod start together; a container without one gets SIGTERM at once.
    fn the_hooks_of_a_pod_start_together(node) {
        let pod = node.pod("web-0").hook(Hook::Sleep(6)).container("other", Hook::None);
        let pod = pod.container("third", Hook::http("/third")).start()?;
        let endpoint = pod.listen(HOOK)?;
        let stop = node.kubelet().delete(&pod)?;
        let started = stop.started()?;
        ensure!(stop.terminated_within(AGES)? - started < 5.9, "the one without a hook waited");
        let mut third = endpoint.accept()?;
        third.request()?;
        third.respond("{}")?;
        stop.container_answered_within("third", AGES)?;
        let gone = stop.gone_within(AGES)? - started;
        ensure!((5.9..20.0).contains(&gone), "the sleep was over after {gone} s");
        Ok(())
    }

    /// New connections follow the endpoints a second late; old ones stay where they are.
    fn the_proxy_lags_a_second(node) {
        let service = node.service("web").port("http", 80, 8080).start()?;
        let old = web(node, "old", Hook::Sleep(10))?;
        node.proxy_synced()?;
        let client = node.client()?;
        let mut pinned = client.connect_to(service.address)?;
        ensure!(name_of(&mut pinned)? == "old", "not the only pod there is");
        web(node, "new", Hook::None)?;
        node.proxy_synced()?;
        let deleting = Instant::now();
        let stop = node.kubelet().delete(&old)?;
        let name = || name_of(&mut client.connect_to(service.address)?);
        let mut early = Vec::new();
        while early.len() < 20 && deleting.elapsed() < LAG {
            let name = name()?;
            // One that took too long says nothing.
            early.extend((deleting.elapsed() < LAG).then_some(name));
        }
        // On a machine that has no time to ask often enough the lag below is all that shows it.
        ensure!(early.len() < 20 || early.contains(&"old".to_owned()), "the rules changed at once");
        node.proxy_synced()?;
        ensure!(deleting.elapsed() >= LAG, "the rules changed after {:?}", deleting.elapsed());
        let late = (0..20).map(|_| name()).collect::<Result<Vec<_>>>()?;
        ensure!(!late.contains(&"old".to_owned()), "the rules did not change");
        ensure!(name_of(&mut pinned)? == "old", "an established connection moved");
        stop.gone_within(AGES)?;
        ensure!(pinned.closed_within(AGES)?, "the app is gone, its connection is not");
        Ok(())
    }

    /// With masquerading, all clients look like the node.
    fn a_masqueraded_client_looks_like_the_node(node) {
        let service = node.service("web").port("http", 80, 9000).start()?;
        let pod = node.pod("web-0").of("web").port("http", 9000).start()?;
        let server = pod.listen(9000)?;
        node.cluster().masquerade()?;
        node.proxy_synced()?;
        let _conn = node.client()?.connect_to(service.address)?;
        let peer = server.accept()?.stream().peer_addr()?.ip().to_canonical();
        let node_ips: [std::net::IpAddr; 2] = ["10.77.0.1".parse()?, "fd00:77::1".parse()?];
        ensure!(node_ips.contains(&peer), "it came from {peer}");
        Ok(())
    }

    /// What a load counts: a pod that ends at once cuts what it has, and refuses the next.
    fn the_loads_count_what_fails(node) {
        let service = node.service("web").port("http", 80, 8080).start()?;
        let pod = web(node, "web-0", Hook::None)?;
        node.proxy_synced()?;
        let client = node.client()?;
        let began = Instant::now();
        let load = client.load(Kind::Busy, service.address)?;
        pod.has_sockets(8080, "established", 50)?;
        std::thread::sleep(seconds(1.0));
        pod.kill_app();
        std::thread::sleep(seconds(1.0));
        let report = load.finish()?;
        // Some may have got in again while the process was dying, which takes its time.
        ensure!(report.cut >= 50, "50 connections were busy, {} were cut", report.cut);
        ensure!(report.failed > report.cut, "nobody was refused: {report:?}");
        // Each is asked five times a second, and not sooner after a failure.
        let most = 50 * (2 + began.elapsed().as_millis() / 200);
        let all = u128::from(report.requests);
        ensure!(all > report.failed.into() && all <= most, "{all} requests, {} failed", report.failed);
        Ok(())
    }

    /// A NodePort, and a Service whose pods are all on their way out: they still get what comes.
    fn the_last_endpoint_serves_on(node) {
        let kind = ServiceKind::NodePort { local: true };
        let service = node.service("web").port("http", 80, 8080).app_protocol("http").kind(kind).start()?;
        let pod = web(node, "web-0", Hook::Sleep(25))?;
        node.kubelet().delete(&pod)?;
        node.proxy_synced()?;
        let client = node.client()?;
        let ip = client.node_ips()[usize::from(service.address.is_ipv6())];
        let node_port = service.node_port.context("a NodePort has one")?;
        ensure!(name_of(&mut client.connect_to((ip, node_port).into())?)? == "web-0");
        Ok(())
    }

    /// A link that is made anew carries the same addresses; thousands of connections fit.
    fn a_new_link_and_many_connections(node) {
        let pod = web(node, "web-0", Hook::None)?;
        pod.recreate_link()?;
        let client = node.client()?;
        let many = client.connect_many(&pod, 8080, 2000)?;
        name_of(&mut client.connect(&pod, 8080)?)?;
        ensure!(many.len() == 2000);
        Ok(())
    }

    /// A stranger's call looks like the kubelet's, but for who makes it.
    fn a_stranger_is_not_the_kubelet(node) {
        let pod = web(node, "web-0", Hook::http("/drain"))?;
        let endpoint = pod.listen(HOOK)?;
        let stranger = node.stranger()?;
        let call = stranger.call_hook(&pod)?;
        let mut hook = endpoint.accept()?;
        hook.request()?;
        hook.respond("{}")?;
        call.answered_within(AGES)?;
        ensure!(stranger.cgroup() != node.kubelet().cgroup());
        Ok(())
    }

    /// A pod with two links has an address on each.
    fn a_second_link(node) {
        let pod = node.pod("web-0").http(8080).second_link().start()?;
        let from_node = |to| node.host().netns().run(|| std::net::TcpStream::connect(to));
        from_node(pod.addr(8080))?;
        from_node(pod.second_addr(8080))?;
        Ok(())
    }
}

/// The check that every scenario ends with does see a node that is still there.
#[test]
fn leftovers_are_found() -> Result<()> {
    let mut node = ManuallyDrop::new(Node::new()?);
    let name = node.host().name().to_owned();
    web(&node, "web-0", Hook::None)?;
    let found = leftovers(&name).join("\n");
    for what in ["cgroup", "lastcall-app", "kubelet"] {
        ensure!(found.contains(what), "{what} was not found:\n{found}");
    }
    // SAFETY: the node is not used again.
    unsafe { ManuallyDrop::drop(&mut node) };
    ensure!(leftovers(&name).is_empty(), "the node stayed: {:?}", leftovers(&name));
    Ok(())
}

/// A panic in a test takes its node away too.
#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let node = Node::new()?;
    let name = node.host().name().to_owned();
    let result = std::thread::spawn(move || {
        let _pod = web(&node, "web-0", Hook::None);
        panic!("on purpose");
    });
    ensure!(result.join().is_err(), "it should have panicked");
    ensure!(leftovers(&name).is_empty(), "the node stayed: {:?}", leftovers(&name));
    Ok(())
}

/// Whatever ends the demo: no process, no cgroup, no link stays.
#[test]
fn a_demo_that_is_stopped_leaves_nothing() -> Result<()> {
    // A shell ignores SIGINT for what it runs in the background, and children inherit that.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl)? };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastcall-demo"));
        let demo = command.args(["--rows", "sleep 20"]).stdout(Stdio::piped()).spawn()?;
        let demo = Process::new(demo)?;
        let name = format!("{}-", demo.pid());
        let mut lines = BufReader::new(demo.stdout()?).lines();
        ensure!(
            lines.any(|line| line.is_ok_and(|line| line.contains("load starts"))),
            "the demo did not start"
        );
        ensure!(!leftovers(&name).is_empty(), "nothing to leave behind");
        demo.signal(signal);
        ensure!(demo.exited_within(AGES), "{signal} did not end it");
        let until = Instant::now() + 2 * AGES;
        while !leftovers(&name).is_empty() && Instant::now() < until {
            std::thread::sleep(seconds(0.02));
        }
        ensure!(leftovers(&name).is_empty(), "after {signal}: {:?}", leftovers(&name));
    }
    Ok(())
}
