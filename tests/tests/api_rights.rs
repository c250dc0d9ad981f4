//! What the agent asks of the API server is what its table of rights says, no more and no less.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Family, Node, scenario};
use serde_json::json;

/// Plain data, taken from the agent as it is.
#[path = "../../agent/src/cluster/api/rights.rs"]
#[allow(dead_code, unreachable_pub, reason = "the agent's own file, whose reasons are for people")]
mod rights;

const SOON: Duration = Duration::from_secs(30);

/// Everything that makes the agent ask for something.
fn everything(node: &Node) -> Result<()> {
    let agent = node.agent_of_cluster()?.start()?;
    node.service("web").port("http", 80, 8080).start()?;
    // A drain behind a Service.
    let web = node.pod("web").http(8080).start()?;
    ensure!(node.kubelet().delete(&web)?.answered_within(SOON)?.outcome() == "drained");
    // Two deadlines of one pod.
    let slow = node.pod("slow").echo(5432).grace(4).start()?;
    let mut session = node.client()?.connect(&slow, 5432)?;
    session.send("SELECT 1")?;
    session.expect("SELECT 1")?;
    for _ in 0..2 {
        ensure!(node.kubelet().call_hook(&slow)?.answered_within(SOON)?.outcome() == "deadline");
        // A call that comes at once would join the drain that has just ended.
        std::thread::sleep(Duration::from_millis(2500));
    }
    // A hook without a deletion, of a container that a probe may have killed.
    let mut object = node.api()?.get("pods", "default", "slow").context("no pod")?;
    object["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 5432}});
    node.api()?.put(object)?;
    let marker = node.pod("marker").http(8080).start()?;
    node.kubelet().delete(&marker)?;
    agent.sees(&marker, |_| true)?;
    let _held = node.kubelet().call_hook(&slow)?;
    node.api()?.asked(SOON, |r| r.verb == "list" && r.resource == "events")?;
    node.api()?.asked(SOON, |r| r.verb == "patch" && r.resource == "events").map(drop)
}

#[test]
fn what_is_asked_is_what_the_table_says() {
    scenario::run(Family::Ipv4, |node| {
        everything(node)?;
        let listed: BTreeSet<[&str; 3]> = rights::RIGHTS
            .iter()
            .flat_map(|right| right.verbs.iter().map(|verb| [right.group, right.resource, *verb]))
            .collect();
        // All but the last of it is waited for above; what comes beside that, comes soon.
        for [group, resource, verb] in &listed {
            let asked =
                node.api()?.asked(SOON, |r| [&r.group, &r.resource, &r.verb] == [group, resource, verb]);
            asked.with_context(|| format!("{verb} {resource} in the table, and never asked for"))?;
        }
        let requests = node.api()?.requests();
        let asked: BTreeSet<[&str; 3]> =
            requests.iter().map(|r| [r.group.as_str(), r.resource.as_str(), r.verb.as_str()]).collect();
        let more: Vec<_> = asked.difference(&listed).collect();
        ensure!(more.is_empty(), "asked for, and not in the table: {more:?}");
        // Nothing of other nodes' pods.
        let pods = requests.iter().filter(|r| r.resource == "pods" && matches!(&*r.verb, "list" | "watch"));
        let mine = |selector: Option<&String>| selector.is_some_and(|s| s == "spec.nodeName=node");
        ensure!(pods.into_iter().all(|r| mine(r.query.get("fieldSelector"))), "{requests:#?}");
        Ok(())
    });
}
