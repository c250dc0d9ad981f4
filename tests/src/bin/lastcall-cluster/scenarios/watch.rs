//! The agent's watch hangs: what happens meanwhile it learns from the hook, and by asking.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::stage::{SOON, Stage};
use super::stops::with_liveness;
use super::{Scenario, scenario};
use crate::app::{App, Hook};
use crate::run::{output, run};

pub(super) const ALL: &[Scenario] = &[scenario("watch_frozen_for_five_seconds", frozen).on_our_node()];

/// At least; a busy machine may take longer to see what happens meanwhile.
const FROZEN: Duration = Duration::from_secs(5);
const TABLE: &str = "e2e_frozen";

/// A pod is deleted, and another's container restarted, both while the watch says nothing: the hook of the one
/// is a stop, that of the other a restart.
fn frozen(stage: &Stage<'_>) -> Result<()> {
    let (mut web, mut ill) = (App::new("web", Hook::Drain("")), App::new("ill", Hook::Drain("")));
    (web.grace, ill.grace) = (90, 90);
    stage.apply(vec![web.pod(), with_liveness(ill.pod())])?;
    let (web, ill) = (stage.ready_pod("web")?, stage.ready_pod("ill")?);
    let (ask, lost) = (stage.ask(&web, 12_000)?, stage.ask(&ill, 80_000)?);
    stage.kubectl(&["exec", "ill", "-c", "app", "--", "/app", "get", "http://127.0.0.1:8080/ill"])?;
    freeze(stage)?;
    let since = Instant::now();
    let played = (|| {
        stage.delete("pod/web", &[])?;
        // By its hook alone.
        stage.draining("web")?;
        stage.ends_as("ill", "restart")?;
        thread::sleep(FROZEN.saturating_sub(since.elapsed()));
        dropped(stage)
    })();
    let thawed = run(stage.cluster.node("nft").args(["delete", "table", "inet", TABLE]), SOON);
    let dropped = played?;
    thawed?;
    ensure!(dropped > 0, "nothing came on the watch in all that time");
    lost.cut()?;
    stage.restarted(&ill, "app")?;
    ask.answered()?;
    stage.ends_as("web", "drained")?;
    stage.gone(&web, SOON)?;
    // The longer its connections hung, the later what was dropped comes again: the next scenario's agent shall
    // know its pods.
    stage.agent.renew()
}

/// Drops what comes and goes on the connections that the agent has to the API server; a new one is let through.
fn freeze(stage: &Stage<'_>) -> Result<()> {
    let said = output(stage.cluster.node("ss").args(["-Htnp", "state", "established"]), "", SOON)?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let ours = said.lines().filter(|line| line.contains("(\"lastcall\"")).filter_map(|line| {
        let mut words = line.split_whitespace().skip(2);
        let (local, peer) = (words.next()?, words.next()?);
        let (address, port) = peer.rsplit_once(':')?;
        (port == "443").then(|| (local.rsplit_once(':').map(|(_, port)| port.to_owned()), address.to_owned()))
    });
    let mut rules = format!(
        "table inet {TABLE} {{ counter frozen {{ }}\n\
         chain away {{ type filter hook output priority -310;\n",
    );
    let mut back = String::from("chain back { type filter hook input priority 0;\n");
    let mut count = 0;
    for (port, address) in ours {
        let port = port.context("a port")?;
        // Before the Service's address is translated, and after it has been translated back.
        rules += &format!("ip daddr {address} tcp sport {port} drop\n");
        back += &format!("ip saddr {address} tcp dport {port} counter name frozen drop\n");
        count += 1;
    }
    ensure!(count > 0, "the agent has no connection to the API server: {said}");
    rules += &format!("}}\n{back}}}\n}}\n");
    let done = output(stage.cluster.node("nft").args(["-f", "-"]), &rules, SOON)?;
    ensure!(done.status.success(), "{rules}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// How many packets of the API server's were.
fn dropped(stage: &Stage<'_>) -> Result<u64> {
    let said =
        output(stage.cluster.node("nft").args(["list", "counter", "inet", TABLE, "frozen"]), "", SOON)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let number = text.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("nft said {text:?}"))
}
