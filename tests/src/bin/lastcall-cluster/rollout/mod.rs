//! The experiment of record: what a rolling update costs, by the way to stop a pod.

pub(crate) mod balancer;
mod batch;
mod plan;
mod table;
pub(crate) mod trial;

use std::path::PathBuf;
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::agent::Agent;
use crate::cluster::{Change, Cluster};
use crate::pods::Pods;
use plan::Extent;
use trial::{Outcome, Row, Trial};

/// `cargo xtask e2e rollout`
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RolloutArgs {
    /// Write the rows here as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Every row under each of the ten loads, not only those that tell something about it.
    #[arg(long)]
    every_row: bool,
    /// Every row under every load behind every kind of Service, in both modes of kube-proxy: an hour.
    #[arg(long, conflicts_with = "every_row")]
    full: bool,
    /// Only these rows, under every load: none, "sleep 5", "sleep 20", lastcall, "last call off", "agent absent".
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<Row>,
    /// Only loads whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    load: Option<String>,
    /// Only Services whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    service: Option<String>,
    /// Only this mode of kube-proxy.
    #[arg(long, value_name = "MODE")]
    proxy: Option<String>,
}

impl RolloutArgs {
    fn extent(&self) -> Extent {
        match (self.full, self.every_row || !self.rows.is_empty()) {
            (true, _) => Extent::Full,
            (false, true) => Extent::EveryRow,
            (false, false) => Extent::Telling,
        }
    }

    /// The cells of one mode of kube-proxy.
    fn trials(&self, mode: &str) -> Vec<Trial> {
        if self.proxy.as_ref().is_some_and(|only| only != mode) {
            return Vec::new();
        }
        plan::trials(self.extent(), mode)
            .into_iter()
            .filter(|trial| self.rows.is_empty() || self.rows.contains(&trial.row))
            .filter(|trial| self.load.as_ref().is_none_or(|text| trial.traffic.to_string().contains(text)))
            .filter(|trial| self.service.as_ref().is_none_or(|text| trial.way.to_string().contains(text)))
            .collect()
    }
}

/// Measures, prints the table, and says whether every cell could be measured and lastcall kept its word.
pub(crate) fn run(cluster: &Cluster, args: &RolloutArgs) -> Result<bool> {
    let pods = Pods::watch(cluster);
    let mut agent = None;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut count = 0;
    let started = Instant::now();
    // The cluster's own mode last: the agent goes away for its last row, and need not come back.
    for mode in ["iptables", "nftables"] {
        let trials = args.trials(mode);
        if trials.is_empty() || (!cluster.is_own() && mode == "iptables") {
            continue;
        }
        if cluster.is_own() {
            proxy_mode(cluster, mode)?;
        }
        // The agent goes away for its own row alone, which therefore comes last.
        let (absent, present): (Vec<Trial>, Vec<Trial>) =
            trials.into_iter().partition(|trial| trial.row == Row::AgentAbsent);
        let batches = plan::batches(present).into_iter().map(|batch| (batch, false));
        let without = plan::batches(absent).into_iter().map(|batch| (batch, true));
        for (batch, absent) in batches.chain(without) {
            let started = Instant::now();
            if agent.is_none() && (absent || batch.iter().any(|trial| trial.row.needs_agent())) {
                agent = Some(Agent::install(cluster)?);
            }
            let gone = || match &agent {
                Some(agent) if absent => agent.remove(),
                _ => Ok(()),
            };
            count += 1;
            let mut measured = batch::measure(cluster, &pods, (&format!("rollout-{count}"), &batch), gone)?;
            for outcome in &mut measured {
                outcome.proxy = mode.to_owned();
                let ours = [Row::Lastcall, Row::Untold].iter().any(|row| row.to_string() == outcome.name);
                if let (Some(agent), true) = (&agent, ours) {
                    outcome.hooks = agent.outcomes(&outcome.pods);
                }
            }
            if absent {
                agent = None;
            }
            println!("{mode}: {} cells in {:.0} s", batch.len(), started.elapsed().as_secs_f64());
            for outcome in &measured {
                println!("  {}", table::line(outcome));
            }
            outcomes.extend(measured);
        }
    }
    if outcomes.is_empty() {
        bail!("no such rows");
    }
    batch::wait_for_the_end(cluster, &pods)?;
    if let Some(agent) = agent {
        agent.remove()?;
    }
    println!("\n{}", table::render(&outcomes));
    println!("{} cells in {:.0} s", outcomes.len(), started.elapsed().as_secs_f64());
    let broken = table::broken_promises(&outcomes);
    broken.iter().for_each(|promise| println!("NOT KEPT: {promise}"));
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "rows": outcomes }))?;
        fs::write(file, json + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(broken.is_empty() && outcomes.iter().all(|outcome| outcome.error.is_none()))
}

/// Restarts kube-proxy where it runs in another mode.
fn proxy_mode(cluster: &Cluster, mode: &str) -> Result<()> {
    let file = cluster.home().node().join("proxy-mode");
    if fs::read_to_string(&file)?.trim() == mode {
        return Ok(());
    }
    cluster.component("kube-proxy", Change::Stop)?;
    fs::write(&file, mode)?;
    cluster.component("kube-proxy", Change::Start)?;
    // Its health page answers when its first rules are in place.
    for _ in 0..600 {
        let said = cluster
            .node("curl")
            .args(["-sf", "--max-time", "1", "http://127.0.0.1:10256/healthz"])
            .output()?;
        if said.status.success() {
            return Ok(());
        }
        thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("kube-proxy does not come back in mode {mode}")
}
