//! **Settled**: how long the hook waits for routing to converge, and what it says about it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lastcall_tests::kubelet::Answer;
use lastcall_tests::load::Kind;
use lastcall_tests::manifest::ServiceKind;
use lastcall_tests::{Client, Hook, Node, Pod, Repeated, clock, scenarios};

const SECOND: Duration = Duration::from_secs(1);
/// λ is taken over two seconds at least, so that a pod has to be known for longer.
const KNOWN: Duration = Duration::from_secs(3);

/// The readiness path of the app: none that everybody uses.
const READY: &str = "/app/ready";

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// The answer says "drained", waited between `least` and a second and a half longer, and gave `why`.
fn is_drained(answer: &Answer, least: f64, why: &str) -> Result<()> {
    ensure!(answer.outcome() == "drained", "{answer:?}");
    ensure!(answer.since_order > seconds(least - 0.01), "waited not even {least} s: {answer:?}");
    ensure!(answer.took_less_than(seconds(least + 1.5)), "waited longer than {least} s: {answer:?}");
    says(answer, why)
}

fn says(answer: &Answer, text: &str) -> Result<()> {
    ensure!(answer.body["why"].as_str().is_some_and(|why| why.contains(text)), "no {text:?} in {answer:?}");
    Ok(())
}

/// A pod of a ClusterIP Service, alone behind it.
fn served(node: &Node) -> Result<Pod> {
    node.service("web").port("http", 80, 8080).start()?;
    node.pod("web-0").of("web").http(8080).readiness(READY, 8080).start()
}

/// New connections to the pod, each with one request.
fn visits(client: &Client, pod: &Pod, period: Duration) -> Repeated {
    let (client, to) = (client.clone(), pod.addr(8080));
    Repeated::every(period, move || drop(client.fetch(to, "/")))
}

/// What three sources do once a second.
fn by_three(node: &Node, check: impl Fn(&Client) + Clone + Send + 'static) -> Result<Vec<Repeated>> {
    let three = (0..3).map(|_| {
        let (client, check) = (node.client()?, check.clone());
        Ok(Repeated::every(SECOND, move || check(&client)))
    });
    three.collect()
}

scenarios! {
    /// Ten connections a second, then none: two seconds of silence prove that routing has converged.
    fn the_silence_of_many_clients_is_proof(node) {
        let _agent = node.agent().start()?;
        let pod = served(node)?;
        let visits = visits(&node.client()?, &pod, seconds(0.1));
        thread::sleep(KNOWN);
        visits.stop();
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        is_drained(&answer, 2.0, "2 s of silence:")
    }

    /// The same through the Service, with a successor that takes the traffic over: nobody is refused or
    /// cut, and it is over two seconds after kube-proxy's second.
    fn a_rolling_update_behind_a_service_cuts_nobody(node) {
        let _agent = node.agent().start()?;
        let service = node.service("web").port("http", 80, 8080).start()?;
        let old = node.pod("old").of("web").http(8080).start()?;
        node.pod("new").of("web").http(8080).start()?;
        node.proxy_synced()?;
        let load = node.client()?.load(Kind::ComingAndGoing, service.address)?;
        thread::sleep(KNOWN);
        let stop = node.kubelet().delete(&old)?;
        let answer = stop.answered_within(seconds(8.0))?;
        ensure!(answer.outcome() == "drained" && answer.since_order > seconds(2.9), "{answer:?}");
        ensure!(answer.took_less_than(seconds(5.5)), "{answer:?}");
        says(&answer, "2 s of silence:")?;
        stop.gone_within(seconds(20.0))?;
        let report = load.finish()?;
        ensure!(report.failed == 0 && report.requests > 200, "{report:?}");
        Ok(())
    }

    /// One connection in five seconds: silence proves nothing, the floor of a Service holds.
    fn the_silence_of_few_clients_proves_nothing(node) {
        let _agent = node.agent().start()?;
        let pod = served(node)?;
        node.client()?.fetch(pod.addr(8080), "/")?;
        thread::sleep(seconds(5.0));
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        is_drained(&answer, 5.0, "connections/s, silence proves nothing")
    }

    /// Nobody ever came, or nobody knows: the floor again.
    fn nobody_came_or_nobody_knows(node) {
        let _agent = node.agent().start()?;
        let known = served(node)?;
        thread::sleep(KNOWN);
        let begin = Instant::now();
        let young = node.pod("web-1").of("web").http(8080).start()?;
        let stops = [node.kubelet().delete(&known)?, node.kubelet().delete(&young)?];
        // After two seconds its rate is known, and where starting a pod takes that long nobody can tell.
        let young = if begin.elapsed() < seconds(1.9) { "5 s: not known how often" } else { "5 s: " };
        is_drained(&stops[0].answered_within(seconds(8.0))?, 5.0, "5 s: 0.0 connections/s")?;
        is_drained(&stops[1].answered_within(seconds(8.0))?, 5.0, young)
    }

    /// New connections put it off, each by the silence that proves something, and no longer.
    fn new_connections_start_the_silence_again(node) {
        let _agent = node.agent().start()?;
        let (pod, client) = (served(node)?, node.client()?);
        let visits = visits(&client, &pod, seconds(0.1));
        thread::sleep(KNOWN);
        visits.stop();
        // In flight: else it would be over as soon as nobody comes for longer than the silence takes.
        let mut slow = client.connect(&pod, 8080)?;
        slow.send("GET / HTTP/1.1\r\n")?;
        let stop = node.kubelet().delete(&pod)?;
        for n in 0..3 {
            client.fetch(pod.addr(8080), "/")?;
            ensure!(stop.still_held_after(seconds(1.5)), "answered 1.5 s after client {n}");
        }
        let came = clock::now();
        client.fetch(pod.addr(8080), "/")?;
        slow.send("\r\n")?;
        slow.response()?;
        slow.close();
        let answer = stop.answered_within(seconds(8.0))?;
        let (silent, lost) = (answer.at - came, answer.lost.as_secs_f64());
        ensure!((1.99..3.5 + lost).contains(&silent), "after {silent} s of silence: {answer:?}");
        ensure!(answer.outcome() == "drained", "{answer:?}");
        says(&answer, "2 s of silence:")
    }

    /// Clients that never stop: until the deadline, and not a moment longer.
    fn connections_that_never_stop_have_until_the_deadline(node) {
        let _agent = node.agent().start()?;
        let pod = node.pod("web-0").http(8080).hook(Hook::http("/drain?settle=5s")).grace(12).start()?;
        let _visits = visits(&node.client()?, &pod, seconds(0.5));
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(11.0))?;
        ensure!(answer.outcome() == "deadline", "{answer:?}");
        // 9 s of 12 are the drain's.
        ensure!(answer.since_order > seconds(8.99) && answer.took_less_than(seconds(9.3)), "{answer:?}");
        Ok(())
    }

    /// Load balancers that go on asking for the readiness path are no traffic.
    fn health_checks_by_path_do_not_put_it_off(node) {
        let _agent = node.agent().start()?;
        let pod = served(node)?;
        let to = pod.addr(8080);
        let _checks = by_three(node, move |client| drop(client.fetch(to, READY)))?;
        thread::sleep(KNOWN);
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        is_drained(&answer, 5.0, "silence proves nothing")
    }

    /// Nor are those that connect and say nothing. Nor do they make the pod's silence a proof.
    fn health_checks_by_connect_do_not_put_it_off(node) {
        let _agent = node.agent().start()?;
        let pod = served(node)?;
        let to = pod.addr(8080);
        let _checks = by_three(node, move |client| drop(client.connect_to(to)))?;
        thread::sleep(KNOWN);
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        is_drained(&answer, 5.0, "silence proves nothing")
    }

    /// Nor is what the operator says is none, whatever it asks for.
    fn ignored_sources_do_not_put_it_off(node) {
        let _agent = node.agent().flag("--ignore-sources", "10.78.0.0/16,fd00:78::/32").start()?;
        let pod = served(node)?;
        let to = pod.addr(8080);
        let _checks = by_three(node, move |client| drop(client.fetch(to, "/")))?;
        thread::sleep(KNOWN);
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        is_drained(&answer, 5.0, "silence proves nothing")
    }

    /// The floor of each kind of Service, and why; a floor that does not fit the grace ends at the deadline.
    fn each_kind_of_service_has_its_floor(node) {
        let agent = node.agent().start()?;
        let local = ServiceKind::NodePort { local: true };
        node.service("cluster").port("http", 80, 8080).start()?;
        node.service("headless").port("http", 80, 8080).kind(ServiceKind::Headless).start()?;
        node.service("local").port("http", 80, 8080).kind(local).start()?;
        let rows = [
            ("cluster", "settling, 5 s: "),
            ("local", "settling, 15 s: externalTrafficPolicy Local"),
            ("headless", "settling, 30 s: a headless Service"),
        ];
        for (app, text) in rows {
            let pod = node.pod(&format!("{app}-0")).of(app).http(8080).start()?;
            node.kubelet().delete(&pod)?;
            agent.says(&pod, text)?;
        }
        // Of two seconds a busy machine may let none look.
        let pod = node.pod("none-0").http(8080).start()?;
        says(&node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?, "waited 2 s: no Service")?;
        let gate = "target-health.elbv2.k8s.aws/k8s-web";
        let pod = node.pod("lb-0").of("cluster").http(8080).readiness_gate(gate).grace(4).start()?;
        let answer = node.kubelet().delete(&pod)?.answered_within(seconds(8.0))?;
        ensure!(answer.outcome() == "deadline", "{answer:?}");
        says(&answer, "30 s: a load balancer that targets the pod")
    }

    /// With another ready endpoint on the node, policy Local changes nothing: only rules have to turn.
    fn policy_local_with_another_endpoint_is_like_cluster(node) {
        let agent = node.agent().start()?;
        let local = ServiceKind::NodePort { local: true };
        node.service("web").port("http", 80, 8080).kind(local).start()?;
        let pod = node.pod("web-0").of("web").http(8080).start()?;
        node.pod("web-1").of("web").http(8080).start()?;
        node.kubelet().delete(&pod)?;
        agent.says(&pod, "settling, 5 s: ")
    }

    /// `settle=` on the hook is what holds, longer or shorter, but never below the cluster's minimum.
    fn the_hook_may_ask_for_another_floor(node) {
        let _agent = node.agent().flag("--min-settle", "2s").start()?;
        node.service("web").port("http", 80, 8080).start()?;
        let pod = |name: &str, path| node.pod(name).of("web").http(8080).hook(Hook::http(path)).start();
        let (short, long) = (pod("short", "/drain?settle=500ms")?, pod("long", "/drain?settle=7s")?);
        let stops = [node.kubelet().delete(&short)?, node.kubelet().delete(&long)?];
        is_drained(&stops[0].answered_within(seconds(8.0))?, 2.0, "2 s: the cluster's minimum")?;
        is_drained(&stops[1].answered_within(seconds(9.0))?, 7.0, "7 s: the hook asks for it")
    }
}
