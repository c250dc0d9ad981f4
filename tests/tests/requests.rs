//! What a bad request gets, and what a bad manifest changes: nothing that makes a drain shorter.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Agent, Conn, Hook, Node, Pod, scenarios};

/// Nothing is in flight and no Service stands before the pod: its settle floor and a margin.
const SOON: Duration = Duration::from_secs(20);
/// From an event to the answer, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The floor of a pod without a Service.
const FLOOR: Duration = Duration::from_secs(2);

/// What a request on the node's loopback is told: status, the `Allow` header, body.
fn told(node: &Node, request: &str) -> Result<(u16, Option<String>, String)> {
    let mut conn = node.dial(Ipv4Addr::LOCALHOST)?;
    conn.send(request)?;
    let (head, body) = conn.response()?;
    let status = head.status().context("no status")?;
    Ok((status, head.header("allow").map(str::to_owned), String::from_utf8(body)?))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")
}

/// A pod that holds its hook as long as the session is open, and the hook.
fn held(node: &Node) -> Result<(Pod, Conn, lastcall_tests::Stop)> {
    let pod = node.pod("db").echo(5432).start()?;
    let mut session = node.client()?.connect(&pod, 5432)?;
    session.send("BEGIN")?;
    session.expect("BEGIN")?;
    let stop = node.kubelet().delete(&pod)?;
    ensure!(stop.still_held_after(Duration::from_secs(1)), "answered with a session open");
    Ok((pod, session, stop))
}

/// The problems that /status names, once there are some, or none any more: the log is a little earlier.
fn problems(agent: &Agent, some: bool) -> Result<String> {
    let until = Instant::now() + SOON;
    loop {
        let said = agent.status()?["problems"].to_string();
        if (said != "[]") == some || Instant::now() > until {
            return Ok(said);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

scenarios! {
    /// Parameters that mean nothing keep their defaults, and everybody is told.
    fn parameters_that_mean_nothing(node) {
        let agent = node.agent().start()?;
        let path = "/drain?untill=settled&settle=0&until=never&reserve=1h1&idle-after=%zz&patience=5s&patience=1s";
        let pod = node.pod("web").http(8080).hook(Hook::http(path)).start()?;
        let answer = node.kubelet().delete(&pod)?.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained" && answer.since_order >= FLOOR, "{answer:?}");
        let warnings = answer.body["warnings"].to_string();
        for (name, problem) in [
            ("untill", "no such parameter"),
            ("settle", "`0` is not a duration"),
            ("until", "`never` is not one of"),
            ("reserve", "`1h1` is not a duration"),
            ("idle-after", "malformed percent-encoding"),
            ("patience", "given 2 times"),
        ] {
            ensure!(warnings.contains(&format!("{name}: {problem}")), "no word of {name}: {warnings}");
        }
        ensure!(agent.metric("lastcall_bad_requests_total{reason=\"parameter\"}")? >= 6.0);
        Ok(())
    }

    /// Whatever a caller on the node sends, he gets a clear 4xx, and the drain goes on.
    fn bad_requests_get_a_clear_answer(node) {
        let agent = node.agent().start()?;
        let _idle = node.pod("idle").http(8080).start()?;
        let (_pod, session, stop) = held(node)?;
        let long = format!("GET /status HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
        for (request, status, word) in [
            (get("/drain/default/nobody"), 404, "no pod default/nobody"),
            (get("/drain/default/idle"), 404, "does not drain"),
            (get("/drain"), 404, "/drain/NAMESPACE/NAME"),
            (get("/drain/Default/db"), 400, "not the name of a pod"),
            (get("/drain/default/../db"), 400, "not the name of a pod"),
            (get("/"), 404, "no such path"),
            (get("/status/default/nobody"), 404, "no such pod"),
            ("POST /drain/default/db HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\n\r\n".to_owned(), 405, "only GET"),
            ("GET /drain/default/db HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\nhi".to_owned(), 413, "no body"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, ""),
            ("\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400, ""),
            (long, 431, ""),
        ] {
            let first = request.lines().next().unwrap_or_default().to_owned();
            let (got, allow, body) = told(node, &request).with_context(|| first.clone())?;
            ensure!(got == status && body.contains(word), "{first}: {got} {body}");
            ensure!(status != 405 || allow.as_deref() == Some("GET"), "{first}: no Allow");
        }
        let drains = agent.status()?["drains"].as_array().context("no drains")?.len();
        ensure!(drains == 1, "a bad request started a drain");
        ensure!(stop.still_held_after(Duration::from_secs(2)), "a bad request ended the drain");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// Headers that never end keep nobody out, and are told so after a while.
    fn a_caller_who_never_comes_to_the_point(node) {
        let _agent = node.agent().start()?;
        let mut slow: Vec<Conn> = (0..20).map(|_| node.dial(Ipv4Addr::LOCALHOST)).collect::<Result<_>>()?;
        for conn in &mut slow {
            conn.send("GET /drain/default/db HTTP/1.1\r\nHo")?;
        }
        let pod = node.pod("web").http(8080).start()?;
        ensure!(node.kubelet().delete(&pod)?.answered_within(SOON)?.outcome() == "drained");
        for mut conn in slow {
            let (head, _) = conn.response()?;
            ensure!(head.status() == Some(408), "{head:?}");
        }
        Ok(())
    }

    /// A file that cannot be read any more keeps what it said last: the drain goes on, and /status names
    /// the file, the line and the reason until it is mended.
    fn a_broken_manifest_keeps_the_last_good_state(node) {
        let agent = node.agent().start()?;
        let (pod, session, stop) = held(node)?;
        let good = node.cluster().pod(pod.name())?.yaml();
        node.cluster().write("pod-db.yaml", &good.replace("spec:\n", "spec: }\n"))?;
        agent.logs("pod-db.yaml", SOON)?;
        let said = problems(&agent, true)?;
        ensure!(said.contains("/run/lastcall/manifests/pod-db.yaml:"), "no file: {said}");
        let line = good.lines().position(|line| line == "spec:").context("no spec")? + 1;
        ensure!(said.contains(&format!("pod-db.yaml:{line}:7: ")), "it is in line {line}: {said}");
        agent.counts("lastcall_manifest_problems", 1.0)?;
        ensure!(stop.still_held_after(Duration::from_secs(3)), "a broken manifest ended the drain");
        node.cluster().write("pod-db.yaml", &good)?;
        agent.logs("understood again", SOON)?;
        let said = problems(&agent, false)?;
        ensure!(said == "[]", "{said}");
        session.close();
        ensure!(stop.answered_within(AT_ONCE)?.outcome() == "drained");
        Ok(())
    }

    /// A List of JSON, as `kubectl get pods -o json` prints it, instead of a file for each.
    fn a_list_of_json(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).start()?;
        node.cluster().remove("pod-web.yaml")?;
        let ips = pod.ips();
        let list = |deleted: &str| format!(
            r#"{{"apiVersion": "v1", "kind": "List", "items": [{{"apiVersion": "v1", "kind": "Pod",
               "metadata": {{"name": "web", "namespace": "json", "uid": "u-1"{deleted}}},
               "spec": {{"containers": [{{"name": "app", "ports": [{{"containerPort": 8080, "name": "http"}}]}}]}},
               "status": {{"podIP": "{0}", "podIPs": [{{"ip": "{0}"}}, {{"ip": "{1}"}}]}}}}]}}"#,
            ips[0], ips[1]
        );
        node.cluster().write("pods.json", &list(""))?;
        let deleted = r#", "deletionTimestamp": "2026-11-20T10:00:00Z", "deletionGracePeriodSeconds": 30"#;
        node.cluster().write("pods.json", &list(deleted))?;
        agent.logs("drain begins", SOON)?;
        let drains = agent.status()?["drains"].to_string();
        ensure!(drains.contains(r#""namespace":"json""#), "{drains}");
        Ok(())
    }

    /// With manifests alone, and only there, an endpoint that is `terminating` starts a drain.
    fn a_terminating_endpoint_alone_starts_a_drain(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").http(8080).start()?;
        let family = if pod.ips()[0].is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = |terminating: bool| format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
             metadata: {{name: by-hand, namespace: hand, labels: {{kubernetes.io/service-name: web}}}}\n\
             endpoints:\n- addresses: [\"{}\"]\n  conditions: {{ready: {}, serving: true, terminating: {terminating}}}\n\
             \x20 targetRef: {{kind: Pod, name: web, namespace: hand, uid: u-2}}\n\
             ports:\n- {{name: http, port: 8080, protocol: TCP, appProtocol: http}}\n",
            pod.ips()[0], !terminating
        );
        // Nobody has told of the Pod.
        node.cluster().write("pod-web.yaml", "apiVersion: v1\nkind: List\nitems: []\n")?;
        node.cluster().write("slice-by-hand.yaml", &slice(false))?;
        let _other = node.pod("other").http(8080).start()?;
        ensure!(agent.status()?["drains"] == serde_json::json!([]), "a drain of a pod that stays");
        node.cluster().write("slice-by-hand.yaml", &slice(true))?;
        agent.logs("drain begins", SOON)?;
        let drain = agent.status()?["drains"][0].to_string();
        ensure!(drain.contains(r#""name":"web""#) && drain.contains(r#""namespace":"hand""#), "{drain}");
        // Its hook joins.
        let answer = node.kubelet().call_hook(&pod)?.answered_within(SOON)?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        ensure!(agent.status()?["drains"].as_array().is_some_and(|drains| drains.len() == 1));
        Ok(())
    }
}
