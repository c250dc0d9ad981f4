//! An agent's end, or an update's, while hooks come and are held: none of them fails by it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Conn, Node, Pod, Stop, scenarios};
use nix::sys::signal::Signal;

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(30);
/// An agent has started, or ended, by then, on a busy machine too.
const START: Duration = Duration::from_secs(60);
/// All hooks of a test are answered by then, on a busy machine too.
const ALL: Duration = Duration::from_secs(100);
/// Hooks that come in one test: half of them before the last agent is told to end.
const HOOKS: usize = 120;
/// Between two of them. One after another they come for 2.4 s, far longer than an agent's end takes.
const APART: Duration = Duration::from_millis(20);

/// A pod that holds its hooks as long as the session is open.
fn database(node: &Node, name: &str) -> Result<(Pod, Conn)> {
    // No deadline is anywhere near, however long an agent takes to start.
    let pod = node.pod(name).echo(5432).grace(120).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("BEGIN")?;
    session.expect("BEGIN")?;
    Ok((pod, session))
}

/// Two: the hooks of one pod that are held at once are bounded.
fn databases(node: &Node) -> Result<[(Pod, Conn); 2]> {
    Ok([database(node, "one")?, database(node, "two")?])
}

/// The kubelet's calls, one after another; at half of them `halfway` happens.
fn hooks(node: &Node, pods: &[(Pod, Conn); 2], halfway: impl FnOnce() -> Result<()>) -> Result<Vec<Stop>> {
    let mut halfway = Some(halfway);
    let mut calls = Vec::with_capacity(HOOKS);
    for n in 0..HOOKS {
        if n == HOOKS / 2 {
            halfway.take().map_or(Ok(()), |happens| happens())?;
        }
        calls.push(node.kubelet().call_hook(&pods[n % 2].0)?);
        thread::sleep(APART);
    }
    Ok(calls)
}

/// Closes the sessions after some more keep-alives, and looks at the answer to each call.
fn all_answered(pods: [(Pod, Conn); 2], calls: &[Stop]) -> Result<()> {
    calls.last().context("no calls")?.still_held_after(Duration::from_secs(3));
    for (_, session) in pods {
        session.close();
    }
    let mut lost = Vec::new();
    for (n, call) in calls.iter().enumerate() {
        match call.answered_within(ALL) {
            Ok(answer) if answer.status == 200 && answer.outcome() == "drained" => {}
            Ok(answer) => lost.push(format!("hook {n}: {answer:?}")),
            Err(error) => lost.push(format!("hook {n}: {error:#}")),
        }
    }
    ensure!(lost.is_empty(), "{} of {} hooks were lost:\n{}", lost.len(), calls.len(), lost.join("\n"));
    Ok(())
}

/// The next agent waits beside the last one, and the kubelet asks each second whether held hooks are still there.
struct Update {
    last: Arc<Agent>,
    next: Arc<Agent>,
    pods: [(Pod, Conn); 2],
}

impl Update {
    fn prepared(node: &Node) -> Result<Self> {
        let last = node.agent().start()?;
        let pods = databases(node)?;
        node.kubelet().keeps_alive_every(1)?;
        let next = node.agent().flag("--hand-over-wait", "60s").start_unready()?;
        next.logs("another agent is still here", START)?;
        Ok(Self { last, next, pods })
    }

    fn loses_none_of(self, calls: &[Stop]) -> Result<()> {
        ensure!(self.last.exited_within(START), "the last one did not end");
        self.next.ready_within(START).context("the next one did not take its place")?;
        all_answered(self.pods, calls)
    }
}

scenarios! {
    /// The kubelet asks whether the other end of a held hook is still there while nobody is: it hears
    /// nothing, and not that there is no such connection.
    fn a_keep_alive_while_nobody_is_home_is_no_end(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node, "db")?;
        node.kubelet().keeps_alive_every(1)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a session open");
        agent.kill();
        ensure!(stop.still_held_after(Duration::from_secs(5)), "a keep-alive found out");
        let agent = node.agent().start()?;
        agent.logs("taken back", SOON)?;
        ensure!(stop.still_held_after(Duration::from_secs(3)), "answered with a session open");
        session.close();
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// Where a firewall keeps such addresses off `lo`, the node's own loopback serves, and the log says so.
    fn where_240_is_firewalled_hooks_are_answered_all_the_same(node) {
        let drop = "table inet martians { chain input { type filter hook input priority -300; \
                    ip daddr 240.0.0.0/4 drop; }; }";
        node.host().netns().command("nft", &["-f", "-"], drop)?;
        let agent = node.agent().start()?;
        agent.logs("240.0.0.0/4 does not get through on lo", SOON)?;
        let (pod, session) = database(node, "db")?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a session open");
        session.close();
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// An update: the next agent waits beside the last one, which is told to end while hooks come. Those
    /// that it holds, that lie in its queue, that come while nobody is home, that come to the next one.
    fn hooks_that_come_while_one_agent_hands_over_to_the_next(node) {
        let update = Update::prepared(node)?;
        let calls = hooks(node, &update.pods, || {
            // The first asks it to end when nothing is held, the second to end now.
            update.last.signal(Signal::SIGTERM);
            update.last.logs("told to stop", SOON)?;
            update.last.signal(Signal::SIGTERM);
            Ok(())
        })?;
        update.loses_none_of(&calls)
    }

    /// The same where nothing is held when the last agent is told to end, so that it does so at once.
    fn the_first_hooks_come_as_an_agent_ends(node) {
        let update = Update::prepared(node)?;
        update.last.signal(Signal::SIGTERM);
        let calls = hooks(node, &update.pods, || {
            // In case that a hook was there first.
            update.last.signal(Signal::SIGTERM);
            Ok(())
        })?;
        update.loses_none_of(&calls)
    }
}
