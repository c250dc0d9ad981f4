//! The API server as the source: what it says starts, informs and ends drains, and what it does not say
//! ends none.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::api::Request;
use lastcall_tests::manifest::ServiceKind;
use lastcall_tests::{Conn, Hook, Node, Pod, scenarios};

/// Nothing is in flight and the Service is an ordinary one: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// From an event to the answer, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

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
        let answer = stop.answered_within(SOON)?;
        ensure!(answer.outcome() == "deadline" && answer.took_less_than(secs(7.5)), "{answer:?}");
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

    /// A deletion that only a list shows, because the watch was cut and its versions are forgotten.
    fn a_relist_is_news_like_any_other(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, 60)?;
        node.api()?.go_away();
        node.cluster().mark_deleted(pod.name(), None)?;
        node.api()?.compact();
        node.api()?.come_back();
        agent.logs("drain begins", secs(60.0))?;
        let stop = node.kubelet().call_hook(&pod)?;
        ensure!(stop.still_held_after(secs(2.0)), "answered with a session open");
        Ok(())
    }

    /// A list comes from a cache, which may not have the pod yet, or any more: the server itself is asked.
    fn a_list_that_lags_ends_no_drain(node) {
        let agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, 60)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |_| true)?;
        node.api()?.hide("pods", "default", "db");
        node.api()?.compact();
        node.api()?.asked(SOON, |r| r.verb == "get" && r.resource == "pods" && r.name == "db")?;
        ensure!(stop.still_held_after(secs(2.0)), "answered because a cache lags");
        // And where it has really gone, by list as by watch.
        pod.forget()?;
        node.api()?.compact();
        ensure!(stop.answered_within(SOON)?.outcome() == "forced");
        Ok(())
    }

    /// All slices, each as it comes; a server that cannot do that is asked for pages.
    fn slices_of_all_namespaces(node) {
        node.api()?;
        let agent = node.agent_of_cluster()?.flag("--endpoint-slices", "all").start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let streamed = |r: &Request| r.resource == "endpointslices" && r.query.contains_key("sendInitialEvents");
        let request = node.api()?.asked(SOON, streamed)?;
        ensure!(request.namespace.is_empty(), "{request:?}");
        let stop = node.kubelet().delete(&pod)?;
        agent.says(&pod, "settling, 5 s: ")?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    fn slices_of_all_namespaces_in_pages(node) {
        node.api()?.without_streamed_lists();
        let agent = node.agent_of_cluster()?.flag("--endpoint-slices", "all").start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let paged = |r: &Request| r.verb == "list" && r.resource == "endpointslices";
        let request = node.api()?.asked(SOON, paged)?;
        ensure!(request.query.contains_key("limit") && request.namespace.is_empty(), "{request:?}");
        let stop = node.kubelet().delete(&pod)?;
        agent.says(&pod, "settling, 5 s: ")?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// Without slices, and without the right to them, nothing rules out any kind of Service.
    fn without_slices_the_kind_of_service_is_not_known(node) {
        node.api()?.forbid("endpointslices");
        let agent = node.agent_of_cluster()?.start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let _stop = node.kubelet().delete(&pod)?;
        agent.says(&pod, "settling, 10 s: ")?;
        agent.logs("watching endpointslices; trying again", SOON)?;
        let until = Instant::now() + SOON;
        // The log may be a little earlier.
        while !agent.status()?["problems"].to_string().contains("endpointslices: 403") {
            ensure!(Instant::now() < until, "{}", agent.status()?["problems"]);
            thread::sleep(Duration::from_millis(20));
        }
        ensure!(agent.get(9903, "/readyz")?.0 == 200, "slices only inform");
        agent.kill();
        let asked = node.api()?.requests().len();
        let agent = node.agent_of_cluster()?.flag("--endpoint-slices", "none").start()?;
        let other = node.pod("other").http(8080).start()?;
        let _stop = node.kubelet().delete(&other)?;
        agent.says(&other, "settling, 10 s: ")?;
        let later = node.api()?.requests().split_off(asked);
        ensure!(!later.iter().any(|r| r.resource == "endpointslices"), "{later:#?}");
        Ok(())
    }

    /// Hooks are answered before the API server has been heard.
    fn an_api_server_that_is_not_there_yet(node) {
        node.api()?.go_away();
        let agent = node.agent_of_cluster()?.start_unready()?;
        agent.logs("hooks are answered", secs(60.0))?;
        let (pod, session) = database(node, 60)?;
        let stop = node.kubelet().call_hook(&pod)?;
        ensure!(stop.still_held_after(secs(2.5)), "answered with a session open");
        let ready = agent.get(9903, "/readyz")?;
        ensure!(ready.0 == 503 && ready.1.contains("waiting  source read"), "{ready:?}");
        node.api()?.come_back();
        agent.ready_within(secs(60.0))?;
        session.close();
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// An Event beside the pod, and a series of it when it happens again.
    fn a_deadline_is_an_event(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let (pod, _session) = database(node, 4)?;
        let stop = node.kubelet().call_hook(&pod)?;
        ensure!(stop.answered_within(SOON)?.outcome() == "deadline");
        node.api()?.asked(SOON, |r| r.verb == "create" && r.resource == "events")?;
        let events = node.api()?.all("events");
        let event = events.iter().find(|e| e["reason"] == "DrainDeadline").context("no such Event")?;
        ensure!(event["type"] == "Warning" && event["metadata"]["namespace"] == "default", "{event:#}");
        ensure!(event["regarding"]["name"] == "db" && event["regarding"]["kind"] == "Pod", "{event:#}");
        ensure!(event["note"].to_string().contains("1 connection"), "{event:#}");
        // The floor of a pod of which nothing is known does not fit either.
        ensure!(events.iter().all(|e| e["regarding"]["name"] == "db"), "{events:#?}");
        Ok(())
    }

    /// A floor that does not fit the grace is said while the drain runs, once, and not only when it has failed.
    fn a_settle_that_exceeds_the_grace_is_an_event(node) {
        let _agent = node.agent_of_cluster()?.start()?;
        let pod = node.pod("web").http(8080).grace(20).start()?;
        node.service("web").port("http", 80, 8080).kind(ServiceKind::Headless).start()?;
        let stop = node.kubelet().delete(&pod)?;
        let is_ours = |r: &Request| r.verb == "create" && r.resource == "events";
        node.api()?.asked(SOON, is_ours)?;
        ensure!(stop.still_held_after(secs(0.0)), "answered before 30 s");
        let events = node.api()?.all("events");
        ensure!(events.len() == 1 && events[0]["reason"] == "SettleExceedsGrace", "{events:#?}");
        let note = events[0]["note"].to_string();
        ensure!(note.contains("takes 30 s") && note.contains("leaves 15.0 s"), "{note}");
        ensure!(stop.answered_within(secs(20.0))?.outcome() == "deadline");
        node.api()?.asked(SOON, |r| is_ours(r) && node.api().is_ok_and(|api| api.all("events").len() > 1))?;
        let reasons: Vec<_> = node.api()?.all("events").iter().map(|e| e["reason"].clone()).collect();
        ensure!(reasons == ["SettleExceedsGrace", "DrainDeadline"], "{reasons:?}");
        Ok(())
    }

    fn no_events_where_none_are_wanted(node) {
        let agent = node.agent_of_cluster()?.flag("--events", "none").start()?;
        let (pod, _session) = database(node, 4)?;
        let stop = node.kubelet().call_hook(&pod)?;
        ensure!(stop.answered_within(SOON)?.outcome() == "deadline");
        // Another drain is over by the time that an Event would have been written.
        let other = node.pod("other").http(8080).hook(Hook::http("/drain?settle=1s")).start()?;
        ensure!(node.kubelet().delete(&other)?.answered_within(SOON)?.outcome() == "drained");
        let asked = node.api()?.requests();
        ensure!(!asked.iter().any(|r| r.verb == "create"), "{asked:#?}");
        ensure!(agent.metric("lastcall_events_total{result=\"written\"}")? == 0.0);
        Ok(())
    }

    /// Hooks that slept while nobody was there are told once, about the node.
    fn an_absence_is_an_event_about_the_node(node) {
        let agent = node.agent_of_cluster()?.flag("--nobody-home-wait", "1s").start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.service("web").port("http", 80, 8080).start()?;
        agent.kill();
        node.kubelet().call_hook(&pod)?.failed_within(SOON)?;
        for _ in 0..2 {
            let agent = node.agent_of_cluster()?.start()?;
            node.api()?.asked(SOON, |r| r.verb == "create" && r.resource == "events")?;
            agent.kill();
        }
        let events = node.api()?.all("events");
        ensure!(events.len() == 1, "told once: {events:#?}");
        ensure!(events[0]["reason"] == "AgentWasAbsent" && events[0]["regarding"]["kind"] == "Node", "{events:#?}");
        ensure!(events[0]["note"].to_string().contains("1 preStop hook"), "{events:#?}");
        Ok(())
    }
}
