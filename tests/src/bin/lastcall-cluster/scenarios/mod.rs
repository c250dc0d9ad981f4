//! The scenarios: named, each in a namespace of its own, side by side where they leave the node alone; those
//! that disturb the node or its agent have a cluster to themselves meanwhile, of those that there are.

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
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::pods::Pods;
use stage::Stage;

/// `cargo xtask e2e test`
#[derive(Args, Clone, Debug)]
pub(crate) struct TestArgs {
    /// Only scenarios with one of these in their name.
    filter: Vec<String>,
    /// Name them, and do nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// Boot so many clusters, where none is up, for those that need one to themselves.
    #[arg(long, value_name = "COUNT", default_value_t = CLUSTERS)]
    clusters: usize,
}

impl Default for TestArgs {
    fn default() -> Self {
        Self { filter: Vec::new(), list: false, clusters: CLUSTERS }
    }
}

impl TestArgs {
    /// How many clusters have something to do.
    pub(crate) fn clusters(&self) -> Result<usize> {
        let (alone, together): (Vec<_>, Vec<_>) =
            chosen(self)?.into_iter().partition(|scenario| scenario.company.is_alone());
        Ok(self.clusters.min(alone.len() + usize::from(!together.is_empty())))
    }
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
/// Clusters at the same time, on two cores: nearly all of a scenario is waiting.
const CLUSTERS: usize = 3;

/// Names them.
pub(crate) fn list(args: &TestArgs) -> Result<()> {
    chosen(args)?.iter().for_each(|scenario| println!("{}", scenario.name));
    Ok(())
}

fn chosen(args: &TestArgs) -> Result<Vec<&'static Scenario>> {
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
    if chosen.is_empty() {
        bail!("no scenario of that name");
    }
    Ok(chosen)
}

/// Plays them, says how each went, and whether all went well.
///
/// The first cluster has those that go together, and then a share of the others; the others begin with them.
pub(crate) fn run(clusters: &[Cluster], args: &TestArgs) -> Result<bool> {
    let started = Instant::now();
    let are_own = clusters.iter().all(Cluster::is_own);
    let (ours, skipped): (Vec<&Scenario>, Vec<&Scenario>) =
        chosen(args)?.into_iter().partition(|scenario| are_own || !scenario.company.is_our_node());
    for scenario in skipped {
        println!("{:45} skipped: the node is not ours", scenario.name);
    }
    let (mut alone, mut together): (Vec<&Scenario>, Vec<&Scenario>) =
        ours.into_iter().partition(|scenario| scenario.company.is_alone());
    together.sort_by_key(|scenario| !scenario.long);
    alone.sort_by_key(|scenario| !scenario.long);
    let (together, alone) = (Queue::of(together), Queue::of(alone));
    let results = Mutex::new(Vec::new());
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let (together, alone, results) = (&together, &alone, &results);
        let plays: Vec<_> = clusters
            .iter()
            .enumerate()
            .map(|(number, cluster)| {
                scope.spawn(move || {
                    let place = Place {
                        cluster,
                        pods: Pods::watch(cluster),
                        agent: Agent::install(cluster)?,
                        results,
                    };
                    if number == 0 {
                        place.play_side_by_side(together);
                    }
                    place.play_one_by_one(alone);
                    place.agent.remove()
                })
            })
            .collect();
        plays.into_iter().map(|play| play.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
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
    for error in ends.iter().filter_map(|end| end.as_ref().err()) {
        println!("lastcall cannot be installed or removed: {error:#}");
    }
    let left = together.len() + alone.len();
    if left > 0 {
        println!("{left} scenarios were not played");
    }
    Ok(failed.is_empty() && left == 0 && ends.iter().all(Result::is_ok))
}

/// What is still to be played.
struct Queue(Mutex<VecDeque<&'static Scenario>>);

impl Queue {
    fn of(scenarios: Vec<&'static Scenario>) -> Self {
        Self(Mutex::new(VecDeque::from(scenarios)))
    }

    fn next(&self) -> Option<&'static Scenario> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

struct Place<'a> {
    cluster: &'a Cluster,
    pods: Pods,
    agent: Agent,
    results: &'a Mutex<Vec<(&'static str, bool)>>,
}

impl Place<'_> {
    fn play_side_by_side(&self, queue: &Queue) {
        thread::scope(|scope| {
            for _ in 0..SIDE_BY_SIDE {
                scope.spawn(|| self.play_one_by_one(queue));
            }
        });
    }

    fn play_one_by_one(&self, queue: &Queue) {
        while let Some(scenario) = queue.next() {
            self.play(scenario);
        }
    }

    fn play(&self, scenario: &Scenario) {
        let started = Instant::now();
        let namespace = scenario.name.replace('_', "-");
        let stage =
            Stage { cluster: self.cluster, pods: &self.pods, agent: &self.agent, namespace: &namespace };
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
            let _ = self.pods.wait(stage::LONG, "the end of its pods", |all| {
                all.values().all(|pod| pod.namespace != namespace || pod.gone.is_some()).then_some(())
            });
        }
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push((scenario.name, played.is_ok()));
    }
}
