//! Clients that never leave by themselves: told on the app's behalf, they go, and lose nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lastcall_tests::load::Kind;
use lastcall_tests::{Node, scenarios};

/// The port of the app.
const PORT: u16 = 8080;
/// Until each of the load's connections has had several answers.
const BEFORE: Duration = Duration::from_secs(3);
/// Far less than the grace, by which it would end anyway.
const GONE: Duration = Duration::from_secs(18);

fn busy(node: &Node) -> Result<()> {
    let agent = node.agent().flag("--last-call", "auto").start()?;
    let service = node.service("web").port("http", 80, PORT).start()?;
    let pod = |name: &str| node.pod(name).of("web").http(PORT).start();
    let old = pod("old")?;
    node.proxy_synced()?;
    let load = node.client()?.load(Kind::Busy, service.address)?;
    old.has_sockets(PORT, "established", 50)?;
    std::thread::sleep(BEFORE);
    pod("new")?;
    node.proxy_synced()?;
    let stop = node.kubelet().delete(&old)?;
    let answer = stop.answered_within(GONE)?;
    ensure!(answer.outcome() == "drained", "{answer:?}");
    stop.gone_within(GONE)?;
    let report = load.finish()?;
    ensure!(
        report.failed == 0 && report.requests > 100,
        "{} of {}: {:?}",
        report.failed,
        report.requests,
        report.failures.first()
    );
    let told = answer.body["last_call"]["told"].as_u64().context("the answer does not say who was told")?;
    ensure!(told >= 40, "of 50 clients {told} were told: {answer:?}");
    drop(agent);
    Ok(())
}

scenarios! {
    /// Fifty clients that POST back to back on connections that they keep, while their pod drains.
    fn busy_clients_are_told_and_lose_nothing(node) {
        busy(node)
    }
}
