//! Leaving no trace, when somebody asks for it, and handing over, when an update does.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Node, scenarios};
use nix::sys::signal::Signal;

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// An agent has started, or ended, by then, on a busy machine too.
const START: Duration = Duration::from_secs(60);
/// Where the fixtures' agents pin, in the node's own mounts.
const PINS: &str = "/run/lastcall/bpf";

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn uninstall(node: &Node, more: &[&str]) -> Result<(bool, String)> {
    let pins = node.host().outside(PINS);
    let pins = pins.to_str().context("a path that is no text")?;
    let output = node.lastcall(&[&["uninstall", "--bpf-dir", pins], more].concat())?;
    Ok((output.status.success(), said(&output)))
}

scenarios! {
    /// While an agent runs nothing is removed; afterwards the programs are, one by one by name, and a hook
    /// fails at once instead of sleeping.
    fn pins_go_when_asked_and_not_while_an_agent_runs(node) {
        let pod = node.pod("web").http(8080).start()?;
        let agent = node.agent().flag("--nobody-home-wait", "9s").start()?;
        let (worked, words) = uninstall(node, &[])?;
        ensure!(!worked && words.contains("an agent runs here") && words.contains("--force"), "{words}");
        agent.signal(Signal::SIGTERM);
        ensure!(agent.exited_within(START), "the agent did not end");
        let (worked, words) = uninstall(node, &[])?;
        ensure!(worked, "{words}");
        for pin in ["hook4-", "hook6-", "probe-", "HOOK_WAITS", "DIALS"] {
            ensure!(words.contains(pin), "{pin} is not among: {words}");
        }
        let stop = node.kubelet().delete(&pod)?;
        let (at, error) = stop.failed_within(SOON)?;
        let slept = at - stop.started()?;
        ensure!(slept < 8.0, "the hook still slept for {slept} s: {error}");
        ensure!(error.contains("refused"), "{error}");
        let (worked, words) = uninstall(node, &[])?;
        ensure!(worked && words.contains("nothing of lastcall is pinned"), "{words}");
        // And an agent that starts again finds all that it needs.
        let pod = node.pod("again").http(8080).start()?;
        let _agent = node.agent().start()?;
        ensure!(node.kubelet().delete(&pod)?.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// Whoever insists may; what is there while the agent runs is said all the same.
    fn pins_go_by_force(node) {
        let _agent = node.agent().start()?;
        let (worked, words) = uninstall(node, &["--force"])?;
        ensure!(worked && words.contains("hook4-"), "{words}");
        Ok(())
    }

    /// An update with maxSurge: the next agent waits beside the last one, and goes on with its hooks when
    /// it has ended.
    fn the_next_agent_waits_for_the_last_one(node) {
        let last = node.agent().start()?;
        // No deadline is anywhere near, however long an agent takes to start.
        let pod = node.pod("db").echo(5432).grace(120).start()?;
        let mut session = node.client()?.connect(&pod, 5432)?;
        session.send("BEGIN")?;
        session.expect("BEGIN")?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
        let next = node.agent().flag("--hand-over-wait", "60s").start_unready()?;
        next.logs("another agent is still here", START)?;
        last.counts("lastcall_hooks_held", 1.0).context("the next one got in the way")?;
        // The first asks it to end when nothing is held, the second to end now.
        last.signal(Signal::SIGTERM);
        last.logs("told to stop", SOON)?;
        last.signal(Signal::SIGTERM);
        ensure!(last.exited_within(START), "the last one did not end");
        next.ready_within(START).context("the next one did not take its place")?;
        ensure!(stop.still_held_after(Duration::from_secs(1)), "the hook did not survive the update");
        session.close();
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// One that waits can be told to end, also as a container's first process.
    fn a_waiting_agent_ends_when_told(node) {
        let last = node.agent().start()?;
        let next = node.agent().flag("--hand-over-wait", "60s").start_unready()?;
        next.logs("another agent is still here", START)?;
        next.signal(Signal::SIGTERM);
        ensure!(next.exit_code_within(START) == Some(0), "it did not end well");
        ensure!(last.metric("lastcall_hooks_held")? == 0.0);
        Ok(())
    }
}
