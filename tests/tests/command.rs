//! The command line, as people and scripts see it: exit codes, messages, pages, metrics.

use std::net::{Ipv4Addr, TcpStream};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Conn, Hook, Node, scenarios};
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// An agent has ended by then that cannot start.
const START: Duration = Duration::from_secs(60);
/// `EX_CONFIG`: restarting does not help.
const BAD_CONFIGURATION: i32 = 78;
/// What clap says to a flag's value that cannot be read.
const USAGE: i32 = 2;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it and expects that it works.
fn prints(node: &Node, args: &[&str]) -> Result<String> {
    let output = node.lastcall(args)?;
    ensure!(output.status.success(), "{args:?}: {}", stderr(&output));
    Ok(stdout(&output))
}

/// A configuration that cannot work ends before anything is loaded or bound, and says which flag it is.
#[test]
fn a_bad_configuration_names_its_flag() -> Result<()> {
    let node = Node::new()?;
    let root = node.host().cgroup().path().to_string_lossy().into_owned();
    let usual = ["agent", "--endpoints", "/tmp", "--cgroup-root", &root];
    for (flags, code, words) in [
        (&["--endpoints", "/nonexistent/x"][..], BAD_CONFIGURATION, ["--endpoints", "/nonexistent/x"]),
        (&["--metrics-address", "127.0.0.1:9902"], BAD_CONFIGURATION, ["--hook-port", "--metrics-address"]),
        (&["--kubelet-cgroup", "/proc"], BAD_CONFIGURATION, ["--kubelet-cgroup", "/proc"]),
        (&["--log", "loud=very"], BAD_CONFIGURATION, ["--log", "loud=very"]),
        (&["--ignore-sources", "10.0.0.0/33"], USAGE, ["--ignore-sources", "10.0.0.0/33"]),
        (&["--nobody-home-wait", "20"], USAGE, ["--nobody-home-wait", "20"]),
        (&["--hook-port", "0"], USAGE, ["--hook-port", "0"]),
        (&["--until", "never"], USAGE, ["--until", "closed"]),
        (&["--table-size", "7"], USAGE, ["--table-size", "7"]),
    ] {
        let flag = usual.iter().position(|word| *word == flags[0]);
        let mut args = usual.to_vec();
        match flag {
            Some(at) => args[at + 1] = flags[1],
            None => args.extend(flags),
        }
        let output = node.lastcall(&args)?;
        let said = stderr(&output);
        ensure!(output.status.code() == Some(code), "{flags:?}: {:?} {said}", output.status);
        ensure!(words.iter().all(|word| said.contains(word)), "{flags:?}: {said}");
    }
    let output = node.lastcall(&["agent", "--cgroup-root", &root])?;
    let said = stderr(&output);
    ensure!(output.status.code() == Some(BAD_CONFIGURATION), "no source: {:?} {said}", output.status);
    ensure!(said.contains("--endpoints") && said.contains("--kubeconfig"), "no source: {said}");
    Ok(())
}

/// Nobody to ask: a sentence that says so, and an exit code for scripts.
#[test]
fn without_an_agent_the_commands_say_so() -> Result<()> {
    let node = Node::new()?;
    for args in [&["status"][..], &["status", "-o", "json"], &["connections", "web"]] {
        let output = node.lastcall(args)?;
        ensure!(output.status.code() == Some(1), "{args:?}: {:?}", output.status);
        ensure!(stderr(&output).contains("no agent answers at 127.0.0.1:9902"), "{}", stderr(&output));
    }
    Ok(())
}

scenarios! {
    /// The second agent of a node says which port is taken and how to find by whom, and ends.
    fn a_second_agent(node) {
        let first = node.agent().start()?;
        let second = node.agent().start_unready()?;
        let code = second.exit_code_within(START).context("two agents run side by side")?;
        ensure!(code != 0, "it ended as if all were well");
        let last = second.logs("lastcall: ", SOON)?;
        ensure!(last.contains("127.0.0.1:9903") && last.contains("--metrics-address"), "{last}");
        ensure!(last.contains("in use"), "{last}");
        // The first one goes on as if nothing had been.
        let pod = node.pod("web").http(8080).start()?;
        ensure!(node.kubelet().delete(&pod)?.answered_within(SOON)?.outcome() == "drained");
        first.counts("lastcall_hook_calls_total{kind=\"agent\"}", 1.0)
    }

    /// Somebody else has the hook's port: the agent says so, how to find out who, and ends.
    fn a_port_that_is_taken(node) {
        let _squatter = lastcall_tests::Server::listen(node.host().netns(), 9902)?;
        let agent = node.agent().start_unready()?;
        let code = agent.exit_code_within(START).context("it runs without its port")?;
        ensure!(code != 0, "it ended as if all were well");
        let log = agent.logs("lastcall: ", SOON)?;
        ensure!(log.contains(":9902 is taken by another process") && log.contains("ss -ltnp"), "{log}");
        Ok(())
    }

    /// What a person sees while a pod drains.
    fn the_pages_of_a_drain(node) {
        let agent = node.agent().start()?;
        let calm = prints(node, &["status"])?;
        ensure!(calm.starts_with("lastcall 0.") && calm.contains("eBPF by tcx"), "{calm}");
        ensure!(calm.ends_with("No pod of this node is Terminating.\n"), "{calm}");

        let pod = node.pod("db").echo(5432).start()?;
        let client = node.client()?;
        let mut session = client.connect(&pod, 5432)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;
        // The pages show what the drain knew when it last looked, a second ago at most.
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a session open");
        agent.sees(&pod, |drain| {
            let waits = drain["waiting_for"].as_str().is_some_and(|what| what.contains("1 connection"));
            waits && drain["known"]["seen"] == 1 && drain["hooks_waiting"] == 1
        })?;

        let status = prints(node, &["status"])?;
        ensure!(status.contains("1 pod Terminating, 1 draining, 1 hook waiting"), "{status}");
        let rows: Vec<Vec<&str>> = status.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        ensure!(rows[0][..5] == ["NAMESPACE", "POD", "SINCE", "DEADLINE", "HOOKS"], "{status}");
        ensure!(rows[1][..2] == ["default", "db"] && rows[1][4..7] == ["1", "1", "1"], "{status}");
        ensure!(status.contains("1 seen") && status.contains("1 connection"), "{status}");

        let json: Value = serde_json::from_str(&prints(node, &["status", "-o", "json"])?)?;
        let drain = &json["drains"][0];
        ensure!(drain["name"] == "db" && drain["counts"]["in_flight"] == 1, "{drain}");
        ensure!(drain["outcome"].is_null() && drain["hooks_waiting"] == 1, "{drain}");

        let page = prints(node, &["connections", "db"])?;
        let peer = session.local()?.to_string();
        ensure!(page.starts_with("default/db  ") && page.contains("until=auto"), "{page}");
        let row = page.lines().find(|line| line.starts_with(&peer)).context("no line of the session")?;
        ensure!(row.contains(&pod.addr(5432).to_string()) && row.contains("in flight") && row.contains("seen"), "{row}");
        ensure!(prints(node, &["connections", "-n", "default", "db"])?.lines().count() == page.lines().count());
        let unknown = node.lastcall(&["connections", "nobody"])?;
        ensure!(unknown.status.code() == Some(1) && stderr(&unknown).contains("nobody"), "{}", stderr(&unknown));
        session.close();
        stop.answered_within(SOON)?;
        Ok(())
    }

    /// What is counted of a pod that was answered, then still reached, then cut.
    fn the_metrics_of_a_drain(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain")).start()?;
        let client = node.client()?;
        let name = r#"{namespace="default",workload=""}"#;
        node.cluster().mark_deleted(pod.name(), None)?;
        let answer = node.kubelet().call_hook(&pod)?.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        let drains = r#"lastcall_drains_total{namespace="default",outcome="drained",workload=""}"#;
        agent.counts(drains, 1.0)?;
        agent.counts("lastcall_hook_wait_seconds_count", 1.0)?;
        agent.counts(r#"lastcall_drain_duration_seconds_count{outcome="drained"}"#, 1.0)?;
        agent.counts("lastcall_drains_in_progress", 0.0)?;

        // Two come late; one has its answer, the other is cut.
        let mut served = client.connect(&pod, 8080)?;
        served.get("/")?;
        served.response()?;
        let mut cut = client.connect(&pod, 8080)?;
        cut.get("/slow?ms=60000")?;
        served.get("/")?;
        served.response()?;
        pod.kill_app();
        ensure!(cut.closed_within(SOON)?, "the app is gone, its connection is not");
        pod.tear_down()?;
        agent.logs("pod gone", SOON)?;
        agent.counts(&format!("lastcall_late_connections_total{name}"), 2.0)?;
        agent.counts(&format!("lastcall_cut_connections_total{name}"), 1.0)?;
        ensure!(agent.metric("lastcall_agent_absent_sleeps_total")? == 0.0);
        Ok(())
    }

    /// A request that is older than the drain, of which no packet was ever seen, and a pod that nobody holds.
    fn a_request_of_before_the_drain_is_counted_as_cut(node) {
        a_cut_of_an_older_request_is_counted(node, |_, _| Ok(()))
    }

    /// And acknowledgements are all that is seen of it.
    fn a_request_that_is_only_acknowledged_is_counted_as_cut(node) {
        a_cut_of_an_older_request_is_counted(node, |agent, cut| {
            let second = Duration::from_secs(1);
            SockRef::from(cut.stream()).set_tcp_keepalive(&TcpKeepalive::new().with_time(second))?;
            let until = Instant::now() + SOON;
            while agent.metric("lastcall_table_entries")? < 1.0 {
                ensure!(Instant::now() < until, "no packet of it was seen");
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })
    }

    /// The status pages are for the node alone, the metrics name no client.
    fn nothing_about_clients_leaves_the_node(node) {
        let agent = node.agent().flag("--metrics-address", "[::]:9903").start_unready()?;
        agent.ready_within(START)?;
        let pod = node.pod("db").echo(5432).start()?;
        let client = node.client()?;
        let mut session = client.connect(&pod, 5432)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;
        node.cluster().mark_deleted(pod.name(), None)?;
        agent.logs("drain begins", SOON)?;
        for ip in client.node_ips() {
            let dialled = client.run(|| TcpStream::connect_timeout(&(ip, 9902).into(), Duration::from_secs(1)));
            ensure!(dialled.is_err(), "the hook's port is open to the world at {ip}");
            let mut scraper = client.connect_to((ip, 9903).into())?;
            scraper.get("/metrics")?;
            let text = String::from_utf8(scraper.response()?.1)?;
            ensure!(text.contains("lastcall_drains_in_progress 1"), "{text}");
            for address in client.ips() {
                ensure!(!text.contains(&address.to_string()), "a client's address in /metrics");
            }
            scraper.get("/status")?;
            ensure!(scraper.response()?.0.status() == Some(404), "/status on the metrics port");
        }
        node.dial(Ipv4Addr::LOCALHOST)?;
        Ok(())
    }
}

/// `meanwhile`: between the start of the drain and the app's death.
fn a_cut_of_an_older_request_is_counted(
    node: &Node,
    meanwhile: impl FnOnce(&Agent, &Conn) -> Result<()>,
) -> Result<()> {
    let agent = node.agent().start()?;
    let pod = node.pod("web").http(8080).start()?;
    let client = node.client()?;
    let mut idle = client.connect(&pod, 8080)?;
    idle.get("/")?;
    idle.response()?;
    let mut cut = client.connect(&pod, 8080)?;
    cut.get("/slow?ms=60000")?;
    node.cluster().mark_deleted(pod.name(), None)?;
    agent.watches(&pod)?;
    meanwhile(&agent, &cut)?;
    pod.kill_app();
    ensure!(cut.closed_within(SOON)?, "the app is gone, its connection is not");
    pod.tear_down()?;
    agent.logs("it cut connections", SOON)?;
    agent.counts(r#"lastcall_cut_connections_total{namespace="default",workload=""}"#, 1.0)
}
