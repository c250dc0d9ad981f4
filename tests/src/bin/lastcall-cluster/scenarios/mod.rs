//! The scenarios: named, each in a namespace of its own, side by side where they leave the node alone.

mod absence;
mod bounds;
mod containers;
mod install;
mod kinds;
mod node;
mod pressure;
mod recovery;
mod stage;
mod stops;
mod told;
mod watch;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::pods::Pods;
use stage::Stage;

/// `cargo xtask e2e test`
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TestArgs {
    /// Only scenarios with one of these in their name.
    filter: Vec<String>,
    /// Name them, and do nothing.
    #[arg(long)]
    list: bool,
}

/// Whom a scenario shares the node with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    /// With others like it.
    Any,
    /// The same, and only on a node whose components are ours.
    AnyOnOurNode,
    /// With nobody: it disturbs the node or its agent.
    Alone,
    /// With nobody, and only on a node whose components are ours.
    AloneOnOurNode,
}

/// A scenario.
struct Scenario {
    name: &'static str,
    company: Company,
    /// It takes long, so it begins early.
    long: bool,
    /// Labels of its namespace.
    labels: fn() -> Value,
    play: fn(&Stage<'_>) -> Result<()>,
}

const fn scenario(name: &'static str, play: fn(&Stage<'_>) -> Result<()>) -> Scenario {
    Scenario { name, company: Company::Any, long: false, labels: || json!({}), play }
}

impl Company {
    fn is_alone(self) -> bool {
        matches!(self, Self::Alone | Self::AloneOnOurNode)
    }

    fn is_our_node(self) -> bool {
        matches!(self, Self::AnyOnOurNode | Self::AloneOnOurNode)
    }
}

impl Scenario {
    const fn alone(self) -> Self {
        Self { company: Company::Alone, ..self }
    }

    const fn on_our_node(self) -> Self {
        Self { company: Company::AloneOnOurNode, ..self }
    }

    const fn with_our_node(self) -> Self {
        Self { company: Company::AnyOnOurNode, ..self }
    }

    const fn long(self) -> Self {
        Self { long: true, ..self }
    }

    const fn labelled(self, labels: fn() -> Value) -> Self {
        Self { labels, ..self }
    }
}

/// Pods that drain at the same time, on two cores.
const SIDE_BY_SIDE: usize = 6;

/// Plays them, says how each went, and whether all went well.
pub(crate) fn run(cluster: &Cluster, args: &TestArgs) -> Result<bool> {
    // What stops the API server comes last: others would meet what recovers from it.
    let all = [
        stops::ALL,
        kinds::ALL,
        containers::ALL,
        told::ALL,
        bounds::ALL,
        pressure::ALL,
        watch::ALL,
        absence::ALL,
        install::ALL,
        node::ALL,
    ];
    let chosen: Vec<&Scenario> = all
        .into_iter()
        .flatten()
        .filter(|s| args.filter.is_empty() || args.filter.iter().any(|text| s.name.contains(text.as_str())))
        .collect();
    if args.list {
        chosen.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(true);
    }
    if chosen.is_empty() {
        bail!("no scenario of that name");
    }
    let pods = Pods::watch(cluster);
    let agent = Agent::install(cluster)?;
    let started = Instant::now();
    let (ours, skipped): (Vec<&Scenario>, Vec<&Scenario>) =
        chosen.iter().copied().partition(|scenario| cluster.is_own() || !scenario.company.is_our_node());
    for scenario in skipped {
        println!("{:45} skipped: the node is not ours", scenario.name);
    }
    let (alone, mut together): (Vec<&Scenario>, Vec<&Scenario>) =
        ours.into_iter().partition(|scenario| scenario.company.is_alone());
    together.sort_by_key(|scenario| !scenario.long);
    let results = Mutex::new(Vec::new());
    let queue = Mutex::new(VecDeque::from(together));
    let place = Place { cluster, pods: &pods, agent: &agent, results: &results };
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(scenario) = next else { break };
                    place.play(scenario);
                }
            });
        }
    });
    for scenario in alone {
        place.play(scenario);
    }
    let removed = agent.remove();
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed: Vec<&str> = results.iter().filter(|(_, good)| !good).map(|(name, _)| *name).collect();
    println!(
        "\n{} scenarios, {} failed{}{}, in {:.0} s",
        results.len(),
        failed.len(),
        if failed.is_empty() { "" } else { ": " },
        failed.join(", "),
        started.elapsed().as_secs_f64()
    );
    // Last, and not instead of the scenarios' results.
    if let Err(error) = &removed {
        println!("lastcall cannot be removed: {error:#}");
    }
    Ok(failed.is_empty() && removed.is_ok())
}

struct Place<'a> {
    cluster: &'a Cluster,
    pods: &'a Pods,
    agent: &'a Agent,
    results: &'a Mutex<Vec<(&'static str, bool)>>,
}

impl Place<'_> {
    fn play(&self, scenario: &Scenario) {
        let started = Instant::now();
        let namespace = scenario.name.replace('_', "-");
        let stage =
            Stage { cluster: self.cluster, pods: self.pods, agent: self.agent, namespace: &namespace };
        let played = stage.open(&(scenario.labels)()).and_then(|()| (scenario.play)(&stage));
        let took = started.elapsed().as_secs_f64();
        match &played {
            Ok(()) => println!("{:45} ok      {took:6.1} s", scenario.name),
            Err(error) => {
                println!("{:45} FAILED  {took:6.1} s  {error:#}", scenario.name);
                match stage.evidence() {
                    Ok(file) => println!("{:45} evidence in {}", "", file.display()),
                    Err(error) => println!("{:45} no evidence: {error:#}", ""),
                }
            }
        }
        if let Err(error) = stage.close() {
            println!("{:45} cannot be tidied up: {error:#}", scenario.name);
        }
        // The next one alone must not meet this one's pods.
        if scenario.company.is_alone() {
            let _ = self.pods.wait(Duration::from_secs(60), "the end of its pods", |all| {
                all.values().all(|pod| pod.namespace != namespace || pod.gone.is_some()).then_some(())
            });
        }
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push((scenario.name, played.is_ok()));
    }
}
