//! A hook without a deletion: a container's restart, or a pod's end of which the API says nothing yet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Conn, Hook, Node, Pod, Stop, scenarios};
use serde_json::{Value, json};

/// From the hook to an answer that nothing has to be waited for, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(8);

fn secs(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// A pod whose container `app` has a liveness probe and has run since nine o'clock, and an open session
/// that keeps it from being drained.
fn database(node: &Node, second_hook: bool) -> Result<(Pod, Conn)> {
    let pod = node.pod("db").echo(5432).grace(60);
    let pod = if second_hook { pod.container("side", Hook::http("/drain")) } else { pod };
    let pod = pod.start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("SELECT 1")?;
    session.expect("SELECT 1")?;
    let mut object = node.api()?.get("pods", "default", "db").context("no pod")?;
    object["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 5432}});
    object["status"]["containerStatuses"] = json!([
        {"name": "app", "image": "x", "imageID": "x", "ready": true, "restartCount": 1,
         "state": {"running": {"startedAt": "2026-11-20T09:00:00Z"}}}]);
    node.api()?.put(object)?;
    Ok((pod, session))
}

/// What the kubelet writes about the pod.
fn event(node: &Node, pod: &Pod, time: &str, reason: &str, message: &str) -> Result<()> {
    let object = node.api()?.get("pods", "default", pod.name()).context("no pod")?;
    node.api()?.put(json!({"kind": "Event", "apiVersion": "v1", "reason": reason, "message": message,
        "type": "Normal", "count": 1, "lastTimestamp": format!("2026-11-20T{time}Z"),
        "metadata": {"name": format!("{}.{reason}", pod.name()), "namespace": "default", "uid": reason},
        "involvedObject": {"kind": "Pod", "name": pod.name(), "namespace": "default",
                           "uid": object["metadata"]["uid"], "fieldPath": "spec.containers{app}"}}))
}

const KILLED: (&str, &str) = ("Killing", "Container app failed liveness probe, will be restarted");

fn node_condition(node: &Node, condition: Value) -> Result<()> {
    node.api()?.put(json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node"},
        "status": {"conditions": [condition]}}))
}

/// It is held, and not only for as long as nobody knows: for the pod's grace.
fn is_a_stop(agent: &Agent, pod: &Pod, stop: &Stop) -> Result<()> {
    ensure!(stop.still_held_after(secs(2.5)), "answered with a session open");
    let drain = agent.sees(pod, |_| true)?;
    let left = drain["deadline_in_seconds"].as_f64().context("no deadline")?;
    ensure!(left > 20.0, "it is bounded as if nobody knew: {drain:#}");
    Ok(())
}

/// Waits until the agent has read what was written up to now: it drains a pod that was deleted later.
fn has_read(agent: &Agent, node: &Node) -> Result<()> {
    let marker = node.pod("marker").start()?;
    node.kubelet().delete(&marker)?;
    agent.sees(&marker, |_| true).map(drop)
}

scenarios! {
    /// The kubelet's own word, of this very run of the container: answered at once.
    fn a_liveness_kill_is_not_waited_for(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        let answer = node.kubelet().call_hook(&pod)?.answered_within(AT_ONCE)?;
        ensure!((answer.status, answer.outcome()) == (200, "restart"), "{answer:?}");
        // One kill, one Event: the next hook is another stop.
        let again = node.kubelet().call_hook(&pod)?;
        ensure!(again.still_held_after(secs(2.5)), "an Event of one kill was believed for two");
        Ok(())
    }

    /// An Event of an earlier kill says nothing of this hook; nobody knows, so it drains, for 10 s at most.
    fn an_old_kill_proves_nothing(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "08:59:30", KILLED.0, KILLED.1)?;
        let stop = node.kubelet().stop(&pod)?;
        ensure!(stop.still_held_after(secs(8.0)), "answered without a sign of a restart");
        let answer = stop.answered_within(secs(20.0))?;
        ensure!(answer.outcome() == "deadline" && answer.took_less_than(secs(11.0)), "{answer:?}");
        ensure!(answer.body["why"].to_string().contains("nobody can tell"), "{answer:?}");
        Ok(())
    }

    /// Preemption shows in nothing but an Event until the containers have ended.
    fn a_preemption_is_a_stop(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        event(node, &pod, "09:10:00", "Preempting", "Preempted in order to admit critical pod")?;
        let stop = node.kubelet().stop(&pod)?;
        is_a_stop(&agent, &pod, &stop)
    }

    /// A liveness kill calls one container's hook.
    fn hooks_of_two_containers_are_a_stop(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, true)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        let stop = node.kubelet().stop(&pod)?;
        is_a_stop(&agent, &pod, &stop)?;
        ensure!(!node.api()?.requests().iter().any(|r| r.resource == "events"), "asked, although it knew");
        Ok(())
    }

    /// The node's pressure explains the hook better than any Event.
    fn pressure_is_a_stop(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        node_condition(node, json!({"type": "MemoryPressure", "status": "True"}))?;
        let stop = node.kubelet().stop(&pod)?;
        is_a_stop(&agent, &pod, &stop)
    }

    /// A node that shuts down leaves less than the grace, which no object says.
    fn a_shutdown_is_a_stop_with_a_grace_of_its_own(node) {
        let agent = node.agent_of_cluster()?.flag("--node-shutdown-grace", "12s").start()?;
        let (pod, _session) = database(node, false)?;
        node_condition(node, json!({"type": "Ready", "status": "False", "message": "node is shutting down"}))?;
        let stop = node.kubelet().stop(&pod)?;
        ensure!(stop.still_held_after(secs(2.5)), "answered with a session open");
        let drain = agent.sees(&pod, |_| true)?;
        let left = drain["deadline_in_seconds"].as_f64().context("no deadline")?;
        ensure!(left < 9.0, "12 s less 3 s of reserve: {drain:#}");
        ensure!(stop.answered_within(secs(20.0))?.outcome() == "deadline");
        Ok(())
    }

    /// A watch that is frozen for seconds makes no deletion a restart: the server itself is asked.
    fn a_frozen_watch_hides_no_deletion(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        has_read(&agent, node)?;
        node.api()?.freeze(true);
        let mut object = node.api()?.get("pods", "default", "db").context("no pod")?;
        object["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = json!(40);
        node.api()?.put(object)?;
        let stop = node.kubelet().stop(&pod)?;
        is_a_stop(&agent, &pod, &stop)?;
        node.api()?.freeze(false);
        // 40 s less the reserve, from the deletion's first sight on.
        agent.sees(&pod, |drain| drain["deadline_in_seconds"].as_f64().is_some_and(|left| left < 36.0))?;
        Ok(())
    }

    /// Whoever cannot be asked says nothing: the hook drains like any other.
    fn without_the_api_server_a_hook_is_a_stop(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, false)?;
        event(node, &pod, "09:10:00", KILLED.0, KILLED.1)?;
        has_read(&agent, node)?;
        node.api()?.go_away();
        let stop = node.kubelet().stop(&pod)?;
        is_a_stop(&agent, &pod, &stop)?;
        agent.counts("lastcall_api_reachable", 0.0)?;
        let until = Instant::now() + secs(30.0);
        loop {
            let ready = agent.get(9903, "/readyz")?;
            if ready.0 == 503 && ready.1.contains("failing  API server") {
                break;
            }
            ensure!(Instant::now() < until, "{ready:?}");
            std::thread::sleep(secs(0.02));
        }
        node.api()?.come_back();
        agent.ready_within(secs(60.0))?;
        agent.counts("lastcall_api_reachable", 1.0)
    }
}
