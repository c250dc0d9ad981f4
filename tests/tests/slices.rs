//! What EndpointSlices may say about a pod, and who is believed.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Agent, Node, Pod, scenarios};

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_secs(4);
/// From the last close to the answer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A slice written by hand: of a namespace, with a port, for a pod's addresses.
struct Slice<'a> {
    namespace: &'a str,
    service: &'a str,
    port: (&'a str, u16),
    /// Name and UID of the targetRef.
    target: Option<(&'a str, &'a str)>,
    terminating: bool,
}

impl Slice<'_> {
    fn write(&self, node: &Node, pod: &Pod) -> Result<()> {
        let Self { namespace, service, port: (name, number), terminating, .. } = self;
        let ip = pod.addr(0).ip();
        let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        let mut yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  \
             name: {service}-1\n  namespace: {namespace}\n  labels: {{kubernetes.io/service-name: {service}}}\n\
             ports:\n- {{name: {name}, port: {number}, protocol: TCP}}\nendpoints:\n- addresses: [\"{ip}\"]\n  \
             conditions: {{ready: {}, serving: true, terminating: {terminating}}}\n",
            !terminating
        );
        if let Some((pod, uid)) = self.target {
            let _ = writeln!(
                yaml,
                "  targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}, uid: {uid:?}}}"
            );
        }
        node.cluster().write(&format!("by-hand-{namespace}-{service}.yaml"), &yaml)
    }
}

/// Waits until the agent has read what was written up to now: it drains a pod that was deleted later.
fn has_read(agent: &Agent, node: &Node) -> Result<()> {
    let marker = node.pod("marker").start()?;
    node.kubelet().delete(&marker)?;
    agent.sees(&marker, |_| true).map(drop)
}

/// The slice does not start the pod's drain, nor add its port, nor make the pod's settle older.
fn changes_nothing(node: &Node, slice: &Slice<'_>) -> Result<()> {
    let agent = node.agent().start()?;
    let pod = node.pod("web").http(8080).start()?;
    let server = pod.listen(slice.port.1)?;
    slice.write(node, &pod)?;
    has_read(&agent, node)?;
    let drains = agent.status()?["drains"].clone();
    let ip = pod.addr(0).ip().to_string();
    ensure!(!drains.to_string().contains(&ip), "it drains, and nobody has deleted it: {drains:#}");
    let _open = node.client()?.connect(&pod, slice.port.1)?;
    let _served = server.accept()?;
    let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
    ensure!(answer.outcome() == "drained" && answer.body["remained"]["open"] == 0, "{answer:?}");
    let why = answer.body["why"].as_str().unwrap_or_default();
    ensure!(why.contains("waited 2 s: no Service"), "{answer:?}");
    ensure!(answer.since_order > Duration::from_millis(1990), "it settled before its time: {answer:?}");
    Ok(())
}

scenarios! {
    /// Any tenant can write a slice with any address.
    fn a_slice_of_another_namespace_changes_nothing(node) {
        let port = ("sql", 5432);
        let slice = Slice { namespace: "evil", service: "theirs", port, target: None, terminating: true };
        changes_nothing(node, &slice)
    }

    /// The pod that had this name before is not this pod.
    fn a_slice_with_another_uid_changes_nothing(node) {
        let (port, target) = (("sql", 5432), Some(("web", "00000000-0000-4000-8000-00000000dead")));
        let slice = Slice { namespace: "default", service: "old", port, target, terminating: true };
        changes_nothing(node, &slice)
    }

    /// Two slices of two Services: the ports of both count, and the stricter floor.
    fn a_pod_in_two_slices_has_the_ports_of_both(node) {
        let agent = node.agent().start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = node.pod("web").http(8080).start()?;
        let server = pod.listen(5432)?;
        let port = ("sql", 5432);
        let sql = Slice { namespace: "default", service: "sql", port, target: None, terminating: false };
        sql.write(node, &pod)?;
        has_read(&agent, node)?;
        let client = node.client()?;
        let (session, served) = (client.connect(&pod, 5432)?, server.accept()?);
        let mut idle = client.connect(&pod, 8080)?;
        idle.get("/")?;
        idle.response()?;
        let stop = node.kubelet().delete(&pod)?;
        // Nobody knows what kind of Service the second one is.
        agent.says(&pod, "settling, 10 s: the kind of Service is not known")?;
        agent.sees(&pod, |drain| drain["counts"]["open"] == 2)?;
        ensure!(stop.still_held_after(Duration::from_secs(12)), "answered with a session open");
        session.close();
        served.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Its own slice, and no containerPort: the slice's port is the pod's, and what it is called says what
    /// it speaks.
    fn a_slice_alone_says_which_ports_count(node) {
        let agent = node.agent().start()?;
        node.service("web").port("sql", 5432, 5432).start()?;
        let pod = node.pod("web").start()?;
        let (counts, not) = (pod.listen(5432)?, pod.listen(7000)?);
        let client = node.client()?;
        let (session, served) = (client.connect(&pod, 5432)?, counts.accept()?);
        let (_other, _accepted) = (client.connect(&pod, 7000)?, not.accept()?);
        let stop = node.kubelet().delete(&pod)?;
        agent.sees(&pod, |drain| drain["counts"]["open"] == 1)?;
        ensure!(stop.still_held_after(Duration::from_secs(5) + A_WHILE), "answered with a session open");
        session.close();
        served.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }
}
