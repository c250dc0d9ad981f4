//! hostNetwork pods of a template, whose hooks can name their workload and not themselves.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::tc;
use lastcall_tests::{Hook, Node, Pod, Server, scenarios};
use serde_json::json;

/// A floor of 2 s where nothing is known of a Service, by `settle=` on the hook, and a margin.
const SOON: Duration = Duration::from_secs(20);

/// A pod of the DaemonSet `edge` that shares the node's network and serves there, at `port`.
fn edge(node: &Node, name: &str, port: u16) -> Result<(Pod, Server)> {
    let path = "/drain/default/daemonset/edge?settle=2s";
    let pod = node.pod(name).hook(Hook::http(path)).port("sql", port).grace(90).start()?;
    // What the small kubelet dials, as the real one does with `host: 127.0.0.1`.
    pod.update(|object| object.ips = vec![Ipv4Addr::LOCALHOST.into()])?;
    let mut object = node.api()?.get("pods", "default", name).context("no pod")?;
    object["spec"]["hostNetwork"] = json!(true);
    object["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["host"] = json!("127.0.0.1");
    object["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "edge", "uid": "e", "controller": true}]);
    node.api()?.put(object)?;
    Ok((pod, Server::listen(node.host().netns(), port)?))
}

/// Its drain begins, with all that is connected to it by then.
fn delete(node: &Node, pod: &Pod) -> Result<()> {
    let mut object = node.api()?.get("pods", "default", pod.name()).context("no pod")?;
    object["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(90);
    node.api()?.put(object)
}

scenarios! {
    /// The hook of one is answered when both have drained: nobody can tell whose hook it is.
    fn all_terminating_pods_of_it_are_waited_for(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let client = node.client()?;
        let (first, _server) = edge(node, "edge-1", 7001)?;
        let (second, server) = edge(node, "edge-2", 7002)?;
        // One that stays is none of it.
        let (_third, busy) = edge(node, "edge-3", 7003)?;
        let [ip, _] = client.node_ips();
        let open = client.connect_to((ip, 7002).into())?;
        let served = server.accept()?;
        let _open = client.connect_to((ip, 7003).into())?;
        let _served = busy.accept()?;
        delete(node, &first)?;
        delete(node, &second)?;
        agent.says(&second, "1 connection")?;
        let stop = node.kubelet().call_hook(&first)?;
        ensure!(stop.still_held_after(Duration::from_secs(4)), "answered while the second is not drained");
        open.close();
        drop(served);
        let answer = stop.answered_within(SOON)?;
        ensure!((answer.status, answer.outcome()) == (200, "drained"), "{answer:?}");
        Ok(())
    }

    /// Each pod that starts is a new link of the node. Nothing is attached to it, and nobody else's connections
    /// are waited for.
    fn a_new_link_of_the_node_stays_untouched(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let client = node.client()?;
        let (first, server) = edge(node, "edge-1", 7001)?;
        let [ip, _] = client.node_ips();
        let open = client.connect_to((ip, 7001).into())?;
        let served = server.accept()?;
        delete(node, &first)?;
        let stop = node.kubelet().call_hook(&first)?;
        agent.says(&first, "1 connection")?;
        // Somebody on the node is connected to the pod's port, as its probes are, for a while; and there is
        // another server on the node.
        let inside = node.host().netns().run(move || TcpStream::connect((ip, 7001)))?;
        let probed = server.accept()?;
        let foreign = Server::listen(node.host().netns(), 7009)?;
        let _theirs = client.connect_to((ip, 7009).into())?;
        let _accepted = foreign.accept()?;
        let web = node.pod("web").http(8080).start()?;
        let mut busy = client.connect(&web, 8080)?;
        busy.get("/slow?ms=30000")?;
        // Time for the agent to look at the new link: another drain begins and ends meanwhile.
        let other = node.pod("other").http(8080).hook(Hook::http("/drain?settle=1s")).start()?;
        let gone = node.kubelet().delete(&other)?.answered_within(SOON * 2).context("the other pod's hook")?;
        ensure!(gone.outcome() == "drained", "{gone:?}");
        // The other pod's link is going, and may go while they are listed.
        let listed = (0..20).find_map(|_| tc::attached(node.host().netns()).ok());
        let attached = listed.context("the node's links cannot be listed")?;
        ensure!(attached.is_empty(), "attached to the node's links: {attached:?}");
        drop((inside, probed));
        open.close();
        drop(served);
        let answer = stop.answered_within(SOON).context("the hostNetwork pod's hook")?;
        ensure!((answer.status, answer.outcome()) == (200, "drained"), "{answer:?}");
        Ok(())
    }

    /// A hook of 127.0.0.1 outlives its agent too, and the keep-alives of the time without one; and it sleeps
    /// where it comes meanwhile.
    fn a_hook_of_it_outlives_its_agent(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let client = node.client()?;
        let (first, server) = edge(node, "edge-1", 7001)?;
        let [ip, _] = client.node_ips();
        let open = client.connect_to((ip, 7001).into())?;
        let served = server.accept()?;
        delete(node, &first)?;
        agent.says(&first, "1 connection")?;
        node.kubelet().keeps_alive_every(1)?;
        let held = node.kubelet().call_hook(&first)?;
        ensure!(held.still_held_after(Duration::from_secs(2)), "answered with a connection open");
        agent.kill();
        let slept = node.kubelet().call_hook(&first)?;
        ensure!(slept.still_held_after(Duration::from_secs(6)), "nobody was home, and the hook was no sleep");
        let agent = node.agent_of_cluster()?.start()?;
        agent.logs("taken back", SOON)?;
        ensure!(slept.still_held_after(Duration::from_secs(3)), "answered with a connection open");
        open.close();
        drop(served);
        for hook in [held, slept] {
            let answer = hook.answered_within(SOON)?;
            ensure!((answer.status, answer.outcome()) == (200, "drained"), "{answer:?}");
        }
        Ok(())
    }

    /// A path is anybody's word: who is not the kubelet starts no drain by it.
    fn a_stranger_starts_no_drain_by_it(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _server) = edge(node, "edge-1", 7001)?;
        let answer = agent.get(9902, "/drain/default/daemonset/edge")?;
        ensure!(answer.0 == 404, "{answer:?}");
        ensure!(agent.drain(&pod)?.is_none(), "it drains");
        Ok(())
    }
}
