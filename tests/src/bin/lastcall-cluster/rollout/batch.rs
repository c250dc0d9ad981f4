//! Cells that are measured side by side: they share the node and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lastcall_tests::load::Report;
use serde_json::{Value, json};

use super::balancer::Balancer;
use super::trial::{GATE, Outcome, Trial, Way};
use crate::app::{PORT, list};
use crate::cluster::Cluster;
use crate::load::Load;
use crate::pods::{All, Pods, Seen};

/// A batch has a namespace of its own, so that it can begin while the one before it is taken down.
const NAMESPACES: &str = "rollout-";
const REPLICAS: usize = 2;
/// How late the emulated load balancer learns that a pod is going.
const LAG: Duration = Duration::from_secs(15);
/// From the start of the loads to the rolling updates.
const BEFORE: Duration = Duration::from_secs(10);
/// From the end of a cell's last old pod to the end of its load.
const AFTER: Duration = Duration::from_secs(2);
/// Images are there already; a loaded machine still needs its time for dozens of pods.
const READY: Duration = Duration::from_secs(240);
/// Two pods after each other, each with a grace of a minute at most.
const GONE: Duration = Duration::from_secs(240);

/// Measures the trials side by side, in a namespace. `ready` runs when all is ready and the loads run. What is left
/// of them is still being taken down when it returns.
pub(crate) fn measure(
    cluster: &Cluster,
    pods: &Pods,
    (namespace, trials): (&str, &[Trial]),
    ready: impl FnOnce() -> Result<()>,
) -> Result<Vec<Outcome>> {
    let place = Place { cluster, pods, namespace };
    let balancers = balancers(cluster, trials)?;
    let metadata = json!({ "name": namespace });
    let manifest = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
    cluster.apply(&manifest.to_string())?;
    cluster.apply(&list(namespace, trials.iter().flat_map(manifests).collect()))?;
    let over = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        let gates = scope.spawn(|| place.feed_balancers(&balancers, &over));
        let measured = place.run(trials, &balancers, ready);
        over.store(true, Ordering::Relaxed);
        gates.join().unwrap_or(Ok(())).and(measured)
    });
    cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    cluster.kubectl(&["-n", namespace, "delete", "pods", "--all", "--grace-period=1", "--wait=false"])?;
    measured
}

/// Waits until nothing of any batch is left.
pub(crate) fn wait_for_the_end(cluster: &Cluster, pods: &Pods) -> Result<()> {
    no_pods(pods, |namespace| namespace.starts_with(NAMESPACES))?;
    let all = cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
    for namespace in all.lines().filter(|name| name.starts_with(&format!("namespace/{NAMESPACES}"))) {
        let wait = ["wait", "--for=delete", namespace, "--timeout=180s"];
        cluster.kubectl_with(&wait, "", GONE)?;
    }
    Ok(())
}

fn no_pods(pods: &Pods, of: impl Fn(&str) -> bool) -> Result<()> {
    pods.wait(GONE, "the end of the measured pods", |all| {
        all.values().all(|pod| pod.gone.is_some() || !of(&pod.namespace)).then_some(())
    })
}

/// Where a batch is measured.
#[derive(Clone, Copy)]
struct Place<'a> {
    cluster: &'a Cluster,
    pods: &'a Pods,
    namespace: &'a str,
}

fn manifests(trial: &Trial) -> [Value; 2] {
    let (kind, policy) = match trial.way {
        Way::ClusterIp | Way::Balancer => ("ClusterIP", None),
        Way::NodePort | Way::NodePort6 => ("NodePort", Some("Cluster")),
        Way::NodePortLocal => ("NodePort", Some("Local")),
    };
    let app = trial.app();
    [app.deployment(REPLICAS as u32), app.service(kind, policy)]
}

impl Place<'_> {
    /// The pods that are there, of one cell or of all.
    fn of<'a>(&'a self, all: &'a All, name: Option<&'a str>) -> impl Iterator<Item = &'a Seen> {
        all.values().filter(move |pod| {
            pod.namespace == self.namespace && pod.gone.is_none() && name.is_none_or(|name| pod.app == name)
        })
    }

    fn run(
        &self,
        trials: &[Trial],
        balancers: &BTreeMap<String, Balancer>,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Outcome>> {
        let Self { cluster, pods, namespace } = *self;
        pods.wait(READY, "pods to measure", |all| {
            let ready = |trial: &&Trial| {
                self.of(all, Some(&trial.name)).filter(|pod| pod.is_ready()).count() == REPLICAS
            };
            (trials.iter().filter(ready).count() == trials.len()).then_some(())
        })?;
        // The pods of the batch before must not take part in this one.
        no_pods(pods, |other| other.starts_with(NAMESPACES) && other != namespace)?;
        let all = pods.all();
        let old: Vec<(String, String)> =
            self.of(&all, None).map(|pod| (pod.app.clone(), pod.uid().to_owned())).collect();
        let mut loads = Vec::new();
        for trial in trials {
            let target = match balancers.get(&trial.name) {
                Some(balancer) => balancer.address,
                None => {
                    self.address(trial).with_context(|| format!("the address of Service {}", trial.name))?
                }
            };
            loads.push(Load::start(cluster, &trial.traffic, target, 20)?);
        }
        loads.iter_mut().try_for_each(Load::begins)?;
        ready()?;
        thread::sleep(BEFORE);
        // A new template; all cells within the time of one call.
        let mut words = vec!["-n".to_owned(), namespace.to_owned(), "set".to_owned(), "env".to_owned()];
        words.extend(trials.iter().map(|trial| format!("deployment/{}", trial.name)));
        words.push("VERSION=2".to_owned());
        cluster.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let finished: Vec<Result<Outcome>> = thread::scope(|scope| {
            let waiting: Vec<_> = trials
                .iter()
                .zip(loads)
                .map(|(trial, load)| {
                    let old: Vec<&str> = old
                        .iter()
                        .filter(|(app, _)| *app == trial.name)
                        .map(|(_, uid)| uid.as_str())
                        .collect();
                    scope.spawn(move || finish(pods, trial, &old, load))
                })
                .collect();
            waiting
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
                .collect()
        });
        let outcomes = trials.iter().zip(finished).map(|(trial, outcome)| {
            let described = Outcome {
                name: trial.row.to_string(),
                load: trial.traffic.to_string(),
                service: trial.way.to_string(),
                ..Outcome::default()
            };
            match outcome {
                Ok(outcome) => Outcome {
                    name: described.name,
                    load: described.load,
                    service: described.service,
                    ..outcome
                },
                Err(error) => Outcome { error: Some(format!("{error:#}")), ..described },
            }
        });
        Ok(outcomes.collect())
    }

    /// Where a cell's clients go.
    fn address(&self, trial: &Trial) -> Result<SocketAddr> {
        let Self { cluster, namespace, .. } = *self;
        let text = cluster.kubectl(&["-n", namespace, "get", "service", &trial.name, "-o", "json"])?;
        let service: Value = serde_json::from_str(&text)?;
        let spec = &service["spec"];
        let port = spec["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        match trial.way {
            Way::ClusterIp | Way::Balancer => {
                Ok(SocketAddr::new(spec["clusterIP"].as_str().context("no clusterIP")?.parse()?, 80))
            }
            Way::NodePort | Way::NodePortLocal => {
                Ok(SocketAddr::new(cluster.address(false)?, port.context("no nodePort")?))
            }
            Way::NodePort6 => Ok(SocketAddr::new(cluster.address(true)?, port.context("no nodePort")?)),
        }
    }

    /// Plays the load balancers' controller: targets come when their containers are ready, which opens their
    /// readiness gate, and are asked to go when their pod is Terminating.
    fn feed_balancers(&self, balancers: &BTreeMap<String, Balancer>, over: &AtomicBool) -> Result<()> {
        let Self { cluster, pods, namespace } = *self;
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        while !balancers.is_empty() && !over.load(Ordering::Relaxed) {
            // A turn without news is how the end is noticed.
            let next = pods.wait(Duration::from_millis(500), "news", |all| {
                let mut behind = self.of(all, None).filter(|pod| balancers.contains_key(&pod.app));
                behind
                    .find(|pod| match pod.deleting {
                        None => !added.contains(&pod.uid().to_owned()) && containers_ready(pod),
                        Some(_) => !removed.contains(&pod.uid().to_owned()),
                    })
                    .cloned()
            });
            let Ok(pod) = next else { continue };
            let balancer = balancers.get(&pod.app).context("a pod behind a balancer")?;
            let target = format!("{}:{PORT}", pod.ip().unwrap_or_default());
            if pod.deleting.is_some() {
                removed.push(pod.uid().to_owned());
                balancer.remove(&target)?;
            } else {
                added.push(pod.uid().to_owned());
                balancer.add(&target)?;
                let condition = json!({ "status": { "conditions": [{ "type": GATE, "status": "True" }] } });
                let words = [
                    "-n",
                    namespace,
                    "patch",
                    "pod",
                    &pod.name,
                    "--subresource=status",
                    "-p",
                    &condition.to_string(),
                ];
                cluster.kubectl(&words)?;
            }
        }
        Ok(())
    }
}

/// Waits until a cell's old pods are gone, and ends its load.
fn finish(pods: &Pods, trial: &Trial, old: &[&str], load: Load) -> Result<Outcome> {
    let what = format!("the end of the old pods of {}", trial.name);
    let ends = pods.wait(GONE, &what, |all| {
        let end = |pod: &Seen| Some((pod.name.clone(), pod.deleting?, pod.gone?));
        old.iter().map(|uid| all.get(*uid).and_then(end)).collect::<Option<Vec<_>>>()
    });
    thread::sleep(AFTER);
    let Report { requests, failed, cut, failures } = load.finish()?;
    let ends = ends?;
    let gone_s = ends.iter().map(|(_, deleted, gone)| gone - deleted).reduce(f64::max);
    // What matters of a failure is how long after a pod's deletion it was.
    let first_failure = failures.first().map(|failure| {
        let after: Vec<String> =
            ends.iter().map(|(_, deleted, _)| format!("{:+.1} s", failure.at - deleted)).collect();
        format!("{} at {} from the deletions", failure.error, after.join(", "))
    });
    let pods = ends.into_iter().map(|(name, ..)| name).collect();
    Ok(Outcome { requests, failed, cut, gone_s, pods, first_failure, ..Outcome::default() })
}

fn balancers(cluster: &Cluster, trials: &[Trial]) -> Result<BTreeMap<String, Balancer>> {
    let behind = trials.iter().filter(|trial| trial.way == Way::Balancer);
    behind
        .zip(18_000..)
        .map(|(trial, port)| Ok((trial.name.clone(), Balancer::start(cluster, port, LAG)?)))
        .collect()
}

fn containers_ready(pod: &Seen) -> bool {
    let conditions = pod.object["status"]["conditions"].as_array();
    let is = |condition: &Value| condition["type"] == "ContainersReady" && condition["status"] == "True";
    pod.ip().is_some() && conditions.is_some_and(|all| all.iter().any(is))
}
