//! What a big cluster costs: bytes from the API server, and memory of the agent, at 10,000 EndpointSlices of
//! 100 endpoints. Takes a minute and half a gigabyte, so it is asked for by name:
//! `cargo xtask test -- ten_thousand_slices --ignored --nocapture`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lastcall_tests::{Agent, ApiServer, Family, Node, scenario};

const SLICES: usize = 10_000;
const NAMESPACES: usize = 100;
const ENDPOINTS: usize = 100;
const MB: u64 = 1 << 20;

/// As the API server writes them, managedFields and all; one endpoint in a hundred is of this node.
fn slice(namespace: &str, name: &str, number: usize, version: u64) -> String {
    let mut text = format!(
        r#"{{"metadata":{{"name":"{name}","generateName":"web-{number}-","namespace":"{namespace}","uid":"0b7f7c1e-5f0e-4a53-9d0c-{number:012}","resourceVersion":"{version}","generation":7,"creationTimestamp":"2026-11-20T09:00:00Z","labels":{{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web-{number}"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"web-{number}","uid":"1b7f7c1e-5f0e-4a53-9d0c-{number:012}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"discovery.k8s.io/v1","time":"2026-11-20T09:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:addressType":{{}},"f:endpoints":{{}},"f:ports":{{}}}}}}]}},"addressType":"IPv4","endpoints":["#
    );
    for n in 0..ENDPOINTS {
        let node = if n == 0 {
            "node".to_owned()
        } else {
            format!("ip-10-0-{}-{n}.eu-west-1.internal", number % 256)
        };
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"addresses":["10.{}.{}.{n}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"{namespace}","name":"web-{number}-7d9c5b8f6d-{n:05}","uid":"2b7f7c1e-5f0e-4a53-{n:04}-{number:012}"}},"nodeName":"{node}","zone":"eu-west-1a"}}"#,
            number / 256,
            number % 256
        );
    }
    text + r#"],"ports":[{"name":"http","protocol":"TCP","port":8080,"appProtocol":"http"}]}"#
}

fn fill(api: &ApiServer) {
    for number in 0..SLICES {
        let namespace = match number % NAMESPACES {
            0 => "default".to_owned(),
            n => format!("team-{n}"),
        };
        let name = format!("web-{number}-abcde");
        api.fill("endpointslices", &namespace, &name, |version| slice(&namespace, &name, number, version));
    }
}

/// Bytes of slices that the server has sent, once it has no more to send.
fn slice_bytes(api: &ApiServer, at_least: u64) -> Result<u64> {
    let until = Instant::now() + Duration::from_secs(120);
    let sum =
        || api.requests().iter().filter(|r| r.resource == "endpointslices").map(|r| r.bytes).sum::<u64>();
    let mut before = 0;
    while Instant::now() < until {
        let now = sum();
        // Bookmarks go on; a second without more than those is the end.
        if now >= at_least && now < before + 10_000 {
            return Ok(now);
        }
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!("only {} bytes", sum())
}

/// Bytes, and the agent's memory: before, after, at most.
fn measure(node: &Node, which: &str, streams: bool, at_least: u64) -> Result<[u64; 4]> {
    let api = node.api()?;
    if !streams {
        api.without_streamed_lists();
    }
    fill(api);
    let plain = node.agent_of_cluster()?.flag("--endpoint-slices", "none").start()?;
    let before = plain.memory()?.0;
    plain.kill();
    let agent: std::sync::Arc<Agent> = node.agent_of_cluster()?.flag("--endpoint-slices", which).start()?;
    let pod = node.pod("web").http(8080).start()?;
    node.cluster().mark_deleted(pod.name(), None)?;
    agent.sees(&pod, |_| true)?;
    let bytes = slice_bytes(api, at_least)?;
    let (now, most) = agent.memory()?;
    println!(
        "{which}{}: {:.1} MB from the API server, memory {:.1} MB before, {:.1} MB after, {:.1} MB at most",
        if streams { "" } else { " (pages)" },
        bytes as f64 / MB as f64,
        before as f64 / MB as f64,
        now as f64 / MB as f64,
        most as f64 / MB as f64
    );
    Ok([bytes, before, now, most])
}

#[test]
#[ignore = "takes a minute and half a gigabyte"]
fn ten_thousand_slices_of_a_hundred_endpoints_draining() {
    scenario::run(Family::Ipv4, |node| {
        let [bytes, before, now, most] = measure(node, "draining", true, 2 * MB)?;
        ensure!(bytes < 5 * MB, "more than one namespace: {bytes}");
        ensure!(now < before + 15 * MB && most < before + 15 * MB, "{before} {now} {most}");
        Ok(())
    });
}

#[test]
#[ignore = "takes a minute and half a gigabyte"]
fn ten_thousand_slices_of_a_hundred_endpoints_all() {
    scenario::run(Family::Ipv4, |node| {
        let [bytes, before, now, most] = measure(node, "all", true, 270 * MB)?;
        ensure!(bytes < 400 * MB, "{bytes}");
        ensure!(now < before + 40 * MB && most < before + 40 * MB, "{before} {now} {most}");
        Ok(())
    });
}

#[test]
#[ignore = "takes a minute and half a gigabyte"]
fn ten_thousand_slices_of_a_hundred_endpoints_in_pages() {
    scenario::run(Family::Ipv4, |node| {
        let [bytes, before, now, most] = measure(node, "all", false, 270 * MB)?;
        ensure!(bytes < 400 * MB, "{bytes}");
        ensure!(now < before + 60 * MB && most < before + 60 * MB, "{before} {now} {most}");
        Ok(())
    });
}
