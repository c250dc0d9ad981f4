//! What is attached, to what, in which order; and right answers where nothing can be.

use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::netns::Netns;
use lastcall_tests::tc::{self, Direction, Place, Policy};
use lastcall_tests::{Agent, Client, Conn, Hook, Node, Pod, Server, Stop, scenarios};

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// Longer than the floor, so that an agent that errs has answered.
const A_WHILE: Duration = Duration::from_secs(4);
/// From an event to the answer, where the kernel tells of it, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);
const A_MOMENT: Duration = Duration::from_secs(1);
/// A drain without a Service settles after this on the hook; time to arrange something.
const SLOWLY: &str = "/drain?settle=4s";

/// A pod whose port 8080 the test serves, and which declares 8081 for others to drop.
fn web(node: &Node, path: &str) -> Result<(Pod, Server)> {
    let pod =
        node.pod("web").port("http", 8080).port("admin", 8081).hook(Hook::http(path)).grace(90).start()?;
    let server = pod.listen(8080)?;
    Ok((pod, server))
}

/// A request that the server has read and does not answer yet.
fn thinking(client: &Client, pod: &Pod, server: &Server) -> Result<(Conn, Conn)> {
    let mut asking = client.connect(pod, 8080)?;
    let mut served = server.accept()?;
    asking.get("/report")?;
    served.request()?;
    Ok((asking, served))
}

/// The hook is held by the request, and answered by its end.
fn holds_until_done(stop: &Stop, (mut asking, mut served): (Conn, Conn)) -> Result<()> {
    ensure!(stop.still_held_after(Duration::from_secs(7)), "answered with a request in flight");
    served.respond("here it is")?;
    asking.response()?;
    asking.close();
    served.close();
    let answer = stop.answered_within(SOON)?;
    ensure!(answer.outcome() == "drained", "{answer:?}");
    Ok(())
}

fn inside(pod: &Pod) -> Result<Netns> {
    pod.netns().context("the pod is gone")
}

fn fallbacks(agent: &Agent, reason: &str) -> Result<f64> {
    agent.metric(&format!("lastcall_fallbacks_total{{reason=\"{reason}\"}}"))
}

/// Whether the pod's port 8081 can be reached: somebody listens, unless a policy says no.
fn reaches_admin(client: &Client, pod: &Pod, admin: &Server) -> Result<bool> {
    let to = pod.addr(8081);
    let reached = client.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(1500))).is_ok();
    if reached {
        admin.accept()?.close();
    }
    Ok(reached)
}

/// Somebody's policy drops one port, from before the drain and from within it; it keeps its verdict, and
/// the agent still sees the rest.
fn a_policy_keeps_its_verdict(
    node: &Node,
    attach: &str,
    policy: impl Fn(&Pod, Place) -> Result<Option<OwnedFd>>,
) -> Result<()> {
    for place in [Place::Last, Place::First] {
        let agent = node.agent().flag("--attach", attach).start()?;
        let (pod, server) = web(node, SLOWLY)?;
        let admin = pod.listen(8081)?;
        let client = node.client()?;
        ensure!(reaches_admin(&client, &pod, &admin)?, "nothing to drop");
        let before = if place == Place::Last { policy(&pod, place)? } else { None };
        // Waited for while there is something to arrange, however long that takes.
        let (mut older, mut olders) = thinking(&client, &pod, &server)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let within = if place == Place::First { policy(&pod, place)? } else { None };
        ensure!(!reaches_admin(&client, &pod, &admin)?, "the policy at {place:?} was bypassed");
        let request = thinking(&client, &pod, &server)?;
        olders.respond("that is all")?;
        older.response()?;
        drop((older, olders));
        holds_until_done(&stop, request)?;
        ensure!(fallbacks(&agent, "blind")? == 0.0, "the agent saw nothing of what was let through");
        drop((before, within));
        agent.kill();
        stop.gone_within(SOON)?;
    }
    Ok(())
}

/// Somebody's program says "pass" before ours is asked: we see nothing, and must not take that for silence.
fn blinded(node: &Node, attach: &str, blind: impl Fn(&Pod) -> Result<Option<OwnedFd>>) -> Result<()> {
    let agent = node.agent().flag("--attach", attach).start()?;
    let (pod, server) = web(node, SLOWLY)?;
    let client = node.client()?;
    let stop = node.kubelet().delete(&pod)?;
    agent.watches(&pod)?;
    let _blind = blind(&pod)?;
    let request = thinking(&client, &pod, &server)?;
    holds_until_done(&stop, request)?;
    agent.counts("lastcall_fallbacks_total{reason=\"blind\"}", 1.0).context("it did not notice")
}

/// The agent with `flags`, judged by what matters most: in flight holds, idle does not, closed waits.
fn answers_rightly(node: &Node, agent: &Arc<Agent>) -> Result<()> {
    let client = node.client()?;
    let (pod, server) = web(node, "/drain")?;
    let request = thinking(&client, &pod, &server)?;
    let stop = node.kubelet().delete(&pod)?;
    holds_until_done(&stop, request)?;

    let pod = node.pod("patient").http(8080).hook(Hook::http("/drain?until=closed")).start()?;
    let calm = node.pod("calm").http(8080).start()?;
    let (mut waited_for, mut ignored) = (client.connect(&pod, 8080)?, client.connect(&calm, 8080)?);
    for _ in 0..4 {
        for conn in [&mut waited_for, &mut ignored] {
            conn.get("/")?;
            conn.response()?;
        }
    }
    let (stop, calm) = (node.kubelet().delete(&pod)?, node.kubelet().delete(&calm)?);
    let answer = calm.answered_within(SOON)?;
    ensure!(answer.outcome() == "drained" && answer.body["remained"]["open"] == 1, "{answer:?}");
    ensure!(stop.still_held_after(A_MOMENT), "answered with a connection open");
    waited_for.close();
    ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
    agent.counts("lastcall_hooks_held", 0.0)
}

scenarios! {
    /// No pod Terminating, nothing attached: not to the node's links, not to the pods'.
    fn nothing_is_attached_without_a_drain(node) {
        let agent = node.agent().start()?;
        let (pod, other) = (node.pod("web").echo(5432).start()?, node.pod("other").http(8080).start()?);
        let (own, bystander) = (inside(&pod)?, inside(&other)?);
        let nothing_at = |what: &str, netns| -> Result<()> {
            let found = tc::attached(netns)?;
            ensure!(found.is_empty(), "attached to {what}: {found:?}");
            Ok(())
        };
        for (what, netns) in [("the node", node.host().netns()), ("a pod", &own), ("a pod", &bystander)] {
            nothing_at(what, netns)?;
        }
        let mut session = node.client()?.connect(&pod, 5432)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        ensure!(stop.still_held_after(A_MOMENT), "answered with a session open");
        let found = tc::attached(&own)?;
        ensure!(found.len() == 2 && found.iter().all(|line| line.starts_with("eth0: 1 TCX")), "{found:?}");
        nothing_at("the node", node.host().netns())?;
        nothing_at("a pod that does not drain", &bystander)?;
        session.close();
        stop.gone_within(SOON)?;
        agent.logs("pod gone", SOON)?;
        nothing_at("the node", node.host().netns())?;
        nothing_at("a pod that never drained", &bystander)?;
        Ok(())
    }

    /// Nothing asked for: TCX where this kernel has it, and the programs see all they have to.
    fn this_kernel_s_own_way_in(node) {
        let agent = node.agent().start()?;
        answers_rightly(node, &agent)?;
        let way = if tc::has_tcx()? { "tcx" } else { "clsact" };
        let ready = agent.get(9903, "/readyz")?.1;
        ensure!(ready.contains(&format!("kernel programs: {way}")), "not by {way}: {ready}");
        for reason in ["attach_failed", "no_ebpf", "blind", "table_full"] {
            ensure!(fallbacks(&agent, reason)? == 0.0, "polled: {reason}");
        }
        Ok(())
    }

    /// The older way in: the same answers, and the qdisc that was there stays, with all that is on it.
    fn clsact_instead_of_tcx(node) {
        let agent = node.agent().flag("--attach", "clsact").start()?;
        ensure!(agent.get(9903, "/readyz")?.1.contains("kernel programs: clsact"));
        answers_rightly(node, &agent)?;

        let pod = node.pod("shared").echo(5432).start()?;
        let netns = inside(&pod)?;
        Policy::Always(tc::NEXT).clsact(&netns, "eth0", 77)?;
        let before = tc::attached(&netns)?;
        let session = node.client()?.connect(&pod, 5432)?;
        node.cluster().mark_deleted(pod.name(), None)?;
        let call = node.kubelet().call_hook(&pod)?;
        agent.watches(&pod)?;
        ensure!(call.still_held_after(A_WHILE), "answered with a session open");
        let during = tc::attached(&netns)?;
        ensure!(during.len() > before.len() && before.iter().all(|line| during.contains(line)), "{during:?}");
        ensure!(during.iter().any(|line| line.contains("0x1a57ca11")), "not ours: {during:?}");
        session.close();
        ensure!(call.answered_within(AT_ONCE)?.outcome() == "drained");
        let after = tc::attached(&netns)?;
        ensure!(before.iter().all(|line| after.contains(line)), "was {before:?}, is {after:?}");
        Ok(())
    }

    /// Filters stay when their agent is killed. The next one's take their place, so that it sees the pod.
    fn a_dead_agent_s_filters_are_taken_over(node) {
        let ours = |pod: &Pod| -> Result<Vec<String>> {
            let found = tc::attached(&inside(pod)?)?;
            Ok(found.into_iter().filter(|line| line.contains("0x1a57ca11")).collect())
        };
        let killed = node.agent().flag("--attach", "clsact").start()?;
        let (pod, server) = web(node, "/drain?last-call=http")?;
        let request = thinking(&node.client()?, &pod, &server)?;
        let stop = node.kubelet().delete(&pod)?;
        killed.watches(&pod)?;
        ensure!(stop.still_held_after(A_MOMENT), "answered with a request in flight");
        killed.kill();
        let left = ours(&pod)?;
        ensure!(left.len() == 4, "the observer's two and the last call's two: {left:?}");
        let agent = node.agent().flag("--attach", "clsact").start()?;
        let until = Instant::now() + SOON;
        loop {
            let now = ours(&pod)?;
            if now.len() == 4 && !now.iter().any(|line| left.contains(line)) {
                break;
            }
            ensure!(Instant::now() < until, "not one for one: {now:?}, were {left:?}");
            thread::sleep(Duration::from_millis(50));
        }
        holds_until_done(&stop, request)?;
        ensure!(fallbacks(&agent, "attach_failed")? == 0.0, "it did not see the pod");
        Ok(())
    }

    /// Ours by TCX, theirs by TCX.
    fn a_tcx_policy_keeps_its_verdict(node) {
        a_policy_keeps_its_verdict(node, "tcx", |pod, place| {
            let policy = Policy::Drop(node.family(), 8081);
            policy.tcx(&inside(pod)?, "eth0", Direction::In, place).map(Some)
        })
    }

    /// Ours by TCX, theirs by clsact, which comes behind all TCX.
    fn a_clsact_policy_behind_tcx_keeps_its_verdict(node) {
        a_policy_keeps_its_verdict(node, "tcx", |pod, _| {
            Policy::Drop(node.family(), 8081).clsact(&inside(pod)?, "eth0", 50).map(|()| None)
        })
    }

    /// Both by clsact: behind ours, and in front of it under the same preference.
    fn a_clsact_policy_keeps_its_verdict(node) {
        a_policy_keeps_its_verdict(node, "clsact", |pod, place| {
            let preference = if place == Place::First { 1 } else { 50 };
            Policy::Drop(node.family(), 8081).clsact(&inside(pod)?, "eth0", preference).map(|()| None)
        })
    }

    /// TCX before clsact, always: theirs is asked first.
    fn a_tcx_policy_before_clsact_keeps_its_verdict(node) {
        a_policy_keeps_its_verdict(node, "clsact", |pod, place| {
            let policy = Policy::Drop(node.family(), 8081);
            policy.tcx(&inside(pod)?, "eth0", Direction::In, place).map(Some)
        })
    }

    /// What comes in is let through before we are asked, what goes out we see.
    fn an_ok_in_front_of_tcx_is_noticed(node) {
        blinded(node, "tcx", |pod| {
            Policy::Always(tc::OK).tcx(&inside(pod)?, "eth0", Direction::In, Place::First).map(Some)
        })
    }

    /// The same under the same preference of clsact.
    fn an_ok_in_front_of_clsact_is_noticed(node) {
        blinded(node, "clsact", |pod| {
            Policy::Always(tc::OK).clsact(&inside(pod)?, "eth0", 1).map(|()| None)
        })
    }

    /// And what goes out: the pod's answers.
    fn an_ok_in_front_of_both_directions_is_noticed(node) {
        blinded(node, "tcx", |pod| {
            let netns = inside(pod)?;
            let out = Policy::Always(tc::OK).tcx(&netns, "eth0", Direction::Out, Place::First)?;
            // Stays as long as the link: this descriptor is never closed.
            std::mem::forget(out);
            Policy::Always(tc::OK).tcx(&netns, "eth0", Direction::In, Place::First).map(Some)
        })
    }

    /// Nothing is attached, by order: the sockets alone say when.
    fn sockets_alone_answer_rightly(node) {
        let agent = node.agent().flag("--attach", "none").start()?;
        ensure!(agent.get(9903, "/readyz")?.1.contains("kernel programs: none"));
        answers_rightly(node, &agent)?;
        ensure!(fallbacks(&agent, "forced")? == 3.0);
        Ok(())
    }

    /// No eBPF at all: no call of the kubelet can be led anywhere, so a hook names its pod on the node's
    /// loopback, as those of hostNetwork pods do. What it is told is right all the same.
    fn without_ebpf_a_named_hook_is_answered_rightly(node) {
        let agent = node.agent().flag("--bpf-dir", "/run/lastcall/no-bpffs").start()?;
        ensure!(agent.get(9903, "/readyz")?.1.contains("kernel programs: none: sockets are polled"));
        ensure!(agent.metric("lastcall_ebpf_available")? == 0.0);
        let (pod, server) = web(node, "/drain")?;
        let (mut asking, mut served) = thinking(&node.client()?, &pod, &server)?;
        node.cluster().mark_deleted(pod.name(), None)?;
        agent.logs("drain begins", SOON)?;
        let mut hook = node.dial(Ipv4Addr::LOCALHOST)?;
        hook.get("/drain/default/web")?;
        ensure!(!hook.closed_within(Duration::from_secs(6))?, "answered with a request in flight");
        served.respond("here it is")?;
        asking.response()?;
        drop((asking, served));
        let (head, body) = hook.response()?;
        let body = String::from_utf8_lossy(&body);
        ensure!(head.status() == Some(200) && body.contains(r#""outcome":"drained""#), "{head:?} {body}");
        ensure!(fallbacks(&agent, "no_ebpf")? == 1.0);
        // The way of all other hooks is honestly closed: refused, not hung.
        node.kubelet().call_hook(&pod)?.failed_within(SOON)?;
        Ok(())
    }

    /// What an old kernel refuses, the agent explains by the oldest that it is made for, and goes on without.
    fn an_old_kernel_is_told_the_oldest(node) {
        // It calls itself 2.6, and has no map for anybody.
        let old = ["setarch", "--uname-2.6", "setpriv", "--bounding-set", "-bpf,-sys_admin"];
        let agent = node.agent().under(&old).start()?;
        agent.logs("is older than 5.10, the oldest that lastcall is made for", SOON)?;
        ensure!(agent.metric("lastcall_ebpf_available")? == 0.0);
        Ok(())
    }

    /// Without the rights to load programs and to enter namespaces nothing can be seen. Then nothing is
    /// called drained: the deadline is all that is left.
    fn without_rights_nothing_is_called_drained(node) {
        let rights = "-bpf,-perfmon,-sys_admin";
        let agent = node.agent().under(&["setpriv", "--bounding-set", rights, "--inh-caps", rights]).start()?;
        ensure!(agent.metric("lastcall_ebpf_available")? == 0.0);
        let pod = node.pod("web").http(8080).grace(8).start()?;
        node.cluster().mark_deleted(pod.name(), None)?;
        agent.logs("drain begins", SOON)?;
        let mut hook = node.dial(Ipv4Addr::LOCALHOST)?;
        hook.get("/drain/default/web")?;
        let (head, body) = hook.response()?;
        let body = String::from_utf8_lossy(&body);
        ensure!(head.status() == Some(503) && body.contains(r#""outcome":"deadline""#), "{head:?} {body}");
        Ok(())
    }
}
