//! The API server as the source: what it says starts, informs and ends drains, and what it does not say
//! ends none.

use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Conn, Node, Pod, scenarios};

/// Nothing is in flight and the Service is an ordinary one: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(8);
/// From an event to the answer, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

fn secs(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// A pod that holds its hook as long as the session is open.
fn database(node: &Node, grace: u32) -> Result<(Pod, Conn)> {
    let pod = node.pod("db").echo(5432).grace(grace).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("SELECT 1")?;
    session.expect("SELECT 1")?;
    Ok((pod, session))
}

scenarios! {
    /// The deletion starts the drain, the slices inform, and the Service is asked for once.
    fn a_deleted_pod_drains(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let stop = node.kubelet().delete(&pod)?;
        agent.says(&pod, "settling, 5 s: ")?;
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        let asked = node.api()?.requests();
        let of = |verb: &str, resource: &str| {
            asked.iter().filter(|r| r.verb == verb && r.resource == resource).count()
        };
        ensure!(of("get", "services") == 1, "{asked:#?}");
        ensure!(of("list", "endpointslices") == 1, "{asked:#?}");
        let all = asked.iter().find(|r| r.resource == "endpointslices" && r.namespace.is_empty());
        ensure!(all.is_none(), "slices of all namespaces: {all:?}");
        ensure!(of("list", "pods") == 1 && of("get", "pods") == 0, "{asked:#?}");
        Ok(())
    }

    /// A second delete with a shorter grace, then the object taken away by force.
    fn deadlines_come_from_the_api(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(1.0)), "answered with a session open");
        pod.update(|object| object.deleted = object.deleted.map(|(at, _)| (at, 8)))?;
        let answer = stop.answered_within(secs(8.0))?;
        ensure!(answer.outcome() == "deadline" && answer.waited < secs(7.5), "{answer:?}");
        Ok(())
    }

    fn a_pod_object_gone_is_forced(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        pod.forget()?;
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "forced");
        Ok(())
    }
}
