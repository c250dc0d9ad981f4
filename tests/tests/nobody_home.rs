//! An absent agent is a sleep, never a cut.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Conn, Node, Pod, Server, Stop, clock, scenarios};

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(30);
/// From the last close to the answer, with the confirming dump, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The hook sleeps for `seconds`, then the pod gets its SIGTERM at once.
fn sleeps_for(stop: &Stop, seconds: f64) -> Result<()> {
    let (at, error) = stop.failed_within(Duration::from_secs_f64(seconds + 4.0))?;
    let slept = at - stop.started()?;
    // The kernel looks whether the time is over when it would send the SYN again.
    let most = seconds + 1.5 + stop.lost().as_secs_f64();
    ensure!((seconds - 0.1..most).contains(&slept), "slept {slept} s, not {seconds}: {error}");
    ensure!(error.contains("timed out"), "{error}");
    let term = stop.terminated_within(AT_ONCE)?;
    ensure!(term - at < 1.0 + stop.lost().as_secs_f64(), "SIGTERM came {} s after the hook", term - at);
    Ok(())
}

/// A pod that holds its hook as long as the session is open.
fn database(node: &Node) -> Result<(Pod, Conn)> {
    // No deadline is anywhere near, however long an agent takes to start.
    let pod = node.pod("db").echo(5432).grace(120).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("BEGIN")?;
    session.expect("BEGIN")?;
    Ok((pod, session))
}

scenarios! {
    /// The programs stay when the agent goes: each pod sleeps as long as it was told to, and its
    /// grace at most; one that came later sleeps for 5 s. All are counted.
    fn an_absent_agent_is_a_sleep(node) {
        let known = node.pod("known").http(8080).start()?;
        let short = node.pod("short").http(8080).grace(4).start()?;
        let agent = node.agent().flag("--nobody-home-wait", "7s").start()?;
        agent.kill();
        let unknown = node.pod("unknown").http(8080).start()?;
        let stop = |pod: &Pod| node.kubelet().delete(pod);
        let (known, short, unknown) = (stop(&known)?, stop(&short)?, stop(&unknown)?);
        sleeps_for(&short, 3.0)?;
        sleeps_for(&unknown, 5.0)?;
        sleeps_for(&known, 7.0)?;
        known.gone_within(SOON)?;
        let agent = node.agent().start()?;
        agent.counts("lastcall_agent_absent_sleeps_total", 3.0).context("not all sleeps were counted")
    }

    /// An agent that comes back takes the sleeping hooks over, and answers them by the policy.
    fn an_agent_that_comes_back_takes_the_hook_over(node) {
        let (pod, session) = database(node)?;
        let calm = node.pod("calm").http(8080).start()?;
        node.agent().start()?.kill();
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "the hook did not sleep");
        let calm = node.kubelet().delete(&calm)?;
        let agent = node.agent().start()?;
        let answer = calm.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        // Each comes in with its next SYN, a second later at first, later and later on a slow machine.
        agent.counts("lastcall_hooks_held", 1.0).context("the other was not taken over")?;
        // Now the policy holds it, not the sleep.
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a session open");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Somebody who listens on the agent's port while it is away gets no call: he has not its mark.
    fn a_squatter_gains_nothing(node) {
        let pod = node.pod("web").http(8080).start()?;
        node.agent().flag("--nobody-home-wait", "3s").start()?.kill();
        let squatter = Server::listen(node.host().netns(), 9902)?;
        let stop = node.kubelet().delete(&pod)?;
        sleeps_for(&stop, 3.0)?;
        drop(squatter);
        Ok(())
    }

    /// While the hook is held, the agent is killed, and none comes back: a sleep of 20 s since the last word.
    fn a_killed_agent_is_a_sleep(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("db").echo(5432).grace(60).start()?;
        let mut session = node.client()?.connect(&pod, 5432)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        agent.kill();
        let (at, error) = stop.failed_within(Duration::from_secs(25))?;
        let (held, lost) = (at - stop.started()?, stop.lost().as_secs_f64());
        ensure!((19.5..22.5 + lost).contains(&held), "held for {held} s: {error}");
        ensure!(stop.terminated_within(AT_ONCE)? - at < 1.0 + lost, "SIGTERM was late");
        Ok(())
    }

    /// A held hook is state, not a process: the next agent takes it back and answers it, and the kubelet
    /// has noticed nothing.
    fn a_held_hook_outlives_its_agent(node) {
        let agent = node.agent().start()?;
        let (pod, session) = database(node)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        agent.kill();
        ensure!(stop.still_held_after(Duration::from_secs(3)), "the kill was noticed");
        let agent = node.agent().start()?;
        agent.logs("taken back", SOON)?;
        // Past the keep-alive at which a kubelet finds a dead connection out.
        ensure!(stop.still_held_after(Duration::from_secs(15)), "answered with a session open");
        agent.counts("lastcall_hooks_held", 1.0)?;
        session.close();
        let answer = stop.answered_within(AT_ONCE)?;
        ensure!(answer.outcome() == "drained" && answer.waited > Duration::from_secs(19), "{answer:?}");
        Ok(())
    }

    /// The deadline that the first agent found is kept by the next, which by itself would find a later one.
    fn a_promised_deadline_outlives_its_agent(node) {
        let agent = node.agent().flag("--max-drain", "9s").start()?;
        let (pod, _session) = database(node)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(2)), "answered with a session open");
        agent.kill();
        node.agent().start()?.logs("taken back", SOON)?;
        let returned = clock::now();
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "deadline", "{answer:?}");
        // By itself the second one would hold it for 9 s more than the first did; a start may take its time.
        ensure!(answer.since_order > Duration::from_millis(8990), "{answer:?}");
        let most = (returned - stop.started()?).max(9.0) + 2.0;
        ensure!(answer.took_less_than(Duration::from_secs_f64(most)), "not within {most} s: {answer:?}");
        Ok(())
    }
}
