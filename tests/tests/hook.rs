//! Who may ask for a drain, when, how often, and whose it then is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Conn, Family, Hook, Node, Pod, clock, scenarios};
use nix::sys::signal::Signal;

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// Longer than the floor, so that an agent that errs has answered.
const A_WHILE: Duration = Duration::from_secs(4);
/// From the last close to the answer, with the confirming dump, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);
/// What an unknown pod's hook sleeps.
const UNKNOWN_WAIT: Duration = Duration::from_secs(5);

/// The drains that the agent knows.
fn drains(agent: &Agent) -> Result<Vec<serde_json::Value>> {
    Ok(agent.status()?["drains"].as_array().context("no drains in /status")?.clone())
}

/// Waits until that many calls of hooks are held, in one drain: which it then is.
fn held(agent: &Agent, hooks: u64) -> Result<serde_json::Value> {
    let until = Instant::now() + SOON;
    loop {
        let drains = drains(agent)?;
        if let [drain] = &drains[..]
            && drain["hooks_waiting"] == hooks
        {
            return Ok(drain.clone());
        }
        ensure!(Instant::now() < until, "not {hooks} hooks of one drain: {drains:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A pod that holds its hook as long as the session is open.
fn database(node: &Node, hook: Hook) -> Result<(Pod, Conn)> {
    let pod = node.pod("db").echo(5432).hook(hook).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("BEGIN")?;
    session.expect("BEGIN")?;
    Ok((pod, session))
}

/// Where the connect program sends a call for the pod: 24 bits of its address.
fn door_of(pod: &Pod) -> Ipv4Addr {
    let bits = match pod.addr(0).ip() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    };
    Ipv4Addr::from_bits(127 << 24 | bits & 0x00ff_ffff)
}

scenarios! {
    /// An eviction shows in the API late or never: the hook alone starts the drain, the deletion joins it.
    fn the_hook_comes_before_the_watch(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node, Hook::http("/drain"))?;
        let stop = node.kubelet().stop(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        held(&agent, 1).context("the hook alone started no drain")?;
        node.cluster().mark_deleted(pod.name(), None)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a session open");
        ensure!(drains(&agent)?.len() == 1, "the deletion started another drain");
        session.close();
        let answer = stop.answered_within(AT_ONCE)?;
        ensure!(answer.outcome() == "drained" && answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// The drain is as old as the deletion: a hook that comes late does not begin to settle anew.
    fn the_watch_comes_before_the_hook(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain?settle=8s")).start()?;
        node.cluster().mark_deleted(pod.name(), None)?;
        agent.logs("drain ends", SOON)?;
        held(&agent, 0).context("nobody has called yet")?;
        let answer = node.kubelet().stop(&pod)?.answered_within(SOON)?;
        // To settle anew would take 8 s.
        ensure!(answer.outcome() == "drained" && answer.waited < Duration::from_millis(7900), "{answer:?}");
        Ok(())
    }

    /// The kubelet may deliver a hook twice: the second call joins, changes nothing, gets the same answer.
    fn a_second_call_joins(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node, Hook::http("/drain"))?;
        let first = node.kubelet().delete(&pod)?;
        ensure!(first.still_held_after(Duration::from_secs(2)), "answered with a session open");
        let before = held(&agent, 1)?;
        let second = node.kubelet().call_hook(&pod)?;
        ensure!(second.still_held_after(Duration::from_secs(1)), "the second call was answered");
        let after = held(&agent, 2)?;
        ensure!(after["until"] == before["until"], "joining changed the drain");
        session.close();
        let (first, second) = (first.answered_within(AT_ONCE)?, second.answered_within(AT_ONCE)?);
        ensure!(first.body["why"] == second.body["why"], "{first:?}\n{second:?}");
        ensure!((first.outcome(), second.outcome()) == ("drained", "drained"), "{first:?}\n{second:?}");
        Ok(())
    }

    /// Three containers, three wishes, one drain: the strictest holds them all.
    fn three_containers_share_the_strictest_drain(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).hook(Hook::http("/drain?until=settled"));
        let pod = pod.container("proxy", Hook::http("/drain?until=closed")).container("log", Hook::http("/drain"));
        let pod = pod.start()?;
        let mut idle = node.client()?.connect(&pod, 8080)?;
        for _ in 0..4 {
            idle.get("/")?;
            idle.response()?;
        }
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(A_WHILE), "one of the three was answered alone");
        let drain = held(&agent, 3)?;
        ensure!(drain["until"] == "closed", "{drain}");
        idle.close();
        for container in ["app", "proxy", "log"] {
            let answer = stop.container_answered_within(container, AT_ONCE)?;
            ensure!(answer.outcome() == "drained", "{answer:?}");
        }
        Ok(())
    }

    /// A pod that no manifest names drains as one of which nothing is known: the long floor, the default
    /// grace, and still no answer while a connection is in flight.
    fn a_pod_without_a_manifest(node) {
        let (pod, session) = database(node, Hook::http("/drain"))?;
        node.cluster().remove(&format!("pod-{}.yaml", pod.name()))?;
        let agent = node.agent().flag("--default-grace", "40s").start()?;
        let stop = node.kubelet().stop(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered at once");
        let drain = held(&agent, 1)?;
        let left = drain["deadline_in_seconds"].as_f64().context("no deadline")?;
        // From when the hook came, which was not before it was called.
        let all = left + clock::now() - stop.started()?;
        ensure!(left <= 35.0 && all > 34.9, "40 s less the reserve, and {left} of {all} are left");
        ensure!(drain["namespace"] == "", "somebody named it: {drain}");
        ensure!(stop.still_held_after(Duration::from_secs(10)), "answered with a session open");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// To answer at once for an address that nobody has would be SIGTERM at once for some pod that the
    /// agent does not know yet.
    fn an_address_that_nobody_has(node) {
        let pod = node.pod("gone").start()?;
        pod.update(|object| {
            object.ips = match node.family() {
                Family::Ipv4 => vec![[10, 77, 0, 200].into()],
                Family::Ipv6 => vec![Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 200).into()],
            }
        })?;
        // What the kubelet has been told stays, what the agent reads does not.
        node.cluster().remove("pod-gone.yaml")?;
        let agent = node.agent().start()?;
        let answer = node.kubelet().call_hook(&pod)?.answered_within(UNKNOWN_WAIT + SOON)?;
        ensure!(answer.status == 404 && answer.outcome() == "no-such-pod", "{answer:?}");
        ensure!(answer.waited + Duration::from_millis(100) > UNKNOWN_WAIT, "{answer:?}");
        agent.counts("lastcall_hooks_held", 0.0)
    }

    /// A tenant can write any `Host` into the spec. It is a word in the log, and changes nobody's drain.
    fn a_forged_host_changes_nothing(node) {
        let agent = node.agent().start()?;
        let (victim, session) = database(node, Hook::http("/drain"))?;
        let host = victim.addr(9902).to_string();
        let evil = node.pod("evil").http(8080).hook(Hook::http("/drain/default/db?settle=0s").header("Host", &host));
        let evil = evil.start()?;
        let answer = node.kubelet().delete(&evil)?.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(answer.body["warnings"].to_string().contains("`Host` is ignored"), "{answer:?}");
        ensure!(answer.body["warnings"].to_string().contains("that name is ignored"), "{answer:?}");
        ensure!(drains(&agent)?.iter().all(|drain| drain["name"] == "evil"), "it reached another pod");
        session.close();
        Ok(())
    }

    /// Somebody who is not the kubelet dials the pod's 9902 and gets what is there: nothing.
    fn a_stranger_reaches_the_pod_itself(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).start()?;
        let stranger = node.stranger()?;
        let (_, error) = stranger.call_hook(&pod)?.failed_within(SOON)?;
        ensure!(error.contains("refused"), "{error}");
        ensure!(drains(&agent)?.is_empty(), "a stranger started a drain");
        let calls = agent.metric("lastcall_hook_calls_total{kind=\"not_the_kubelet\"}")?;
        ensure!(calls == 1.0, "{calls} calls of strangers were counted");
        ensure!(node.lastcall(&["status"])?.status.success(), "no status");
        let calls = agent.metric("lastcall_hook_calls_total{kind=\"not_the_kubelet\"}")?;
        ensure!(calls == 1.0, "asking for the status on loopback is no call of a hook");
        Ok(())
    }

    /// Who dials the agent's own address of a pod is told that only the kubelet may, and joins nothing.
    fn a_stranger_at_the_door_of_a_pod(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node, Hook::http("/drain"))?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        held(&agent, 1)?;
        let mut stranger = node.dial(door_of(&pod))?;
        stranger.get("/drain?until=settled&settle=0s&reserve=29s")?;
        let (head, body) = stranger.response()?;
        ensure!(head.status() == Some(403), "{head:?} {}", String::from_utf8_lossy(&body));
        let drains = drains(&agent)?;
        ensure!(drains.len() == 1 && drains[0]["hooks_waiting"] == 1, "{drains:?}");
        ensure!(stop.still_held_after(A_WHILE), "the stranger's call ended the drain");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// A pod that really listens on the port gets its calls, agent or not.
    fn a_pod_that_listens_on_the_port_itself(node) {
        let pod = node.pod("web").port("hooks", 9902).start()?;
        let own = pod.listen(9902)?;
        let agent = node.agent().start()?;
        let stop = node.kubelet().delete(&pod)?;
        let mut hook = own.accept()?;
        hook.request()?;
        hook.respond(r#"{"outcome":"my own"}"#)?;
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "my own");
        agent.counts("lastcall_hook_calls_total{kind=\"passed_through\"}", 1.0)
    }

    /// An agent that is told to stop goes on holding, takes new calls, and answers.
    fn an_agent_told_to_stop_holds_on(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node, Hook::http("/drain"))?;
        let other = node.pod("web").http(8080).start()?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        agent.signal(Signal::SIGTERM);
        agent.logs("told to stop", SOON)?;
        ensure!(node.kubelet().delete(&other)?.answered_within(SOON)?.outcome() == "drained");
        ensure!(stop.still_held_after(A_WHILE), "let go");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        ensure!(agent.exit_code_within(SOON) == Some(0), "it did not end well");
        Ok(())
    }
}
