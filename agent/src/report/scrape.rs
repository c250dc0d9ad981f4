//! What is read from the agent's state at the moment of a scrape, and kept nowhere else.
//!
//! In: a [`Reading`] from whoever holds the state. Out: gauges, and the counters that the kernel
//! keeps. A gauge that is kept up to date by hand is wrong after the first forgotten path.

use prometheus::{
    IntCounterVec, IntGaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    catalogue::{self, Metric},
    labels::{ConnectionState, HookCall},
    metrics::{label_names, opts},
};
use crate::last_call::REFUSALS;

/// The state of the agent, as one scrape sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Terminating pods that have not drained.
    pub drains_in_progress: u64,
    /// Hooks waiting for their answer.
    pub hooks_held: u64,
    /// Connections of draining pods, by state.
    pub connections: ConnectionCounts,
    /// Entries of the kernel's connection table.
    pub table_entries: u64,
    /// Its capacity.
    pub table_capacity: u64,
    /// Edge events received. Never goes down.
    pub edge_events: u64,
    /// Edge events lost. Never goes down.
    pub edge_events_lost: u64,
    /// Calls to the hook's port, from the kernel's counters. Never go down.
    pub hook_calls: HookCalls,
    /// Answers that told nobody though they might have, by reason. Never go down.
    pub announcement_refusals: Vec<(&'static str, u64)>,
    /// Manifests that cannot be read.
    pub manifest_problems: u64,
    /// The API server, where there is one.
    pub api: Option<ApiReading>,
    /// The kernel programs are loaded.
    pub ebpf_available: bool,
}

/// What the requests to the API server said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApiReading {
    /// It answers.
    pub reachable: bool,
    /// Requests. Never go down.
    pub requests: u64,
    /// Those that failed. Never go down.
    pub failures: u64,
}

/// Connections by [`ConnectionState`]; each is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the states'")]
pub struct ConnectionCounts {
    pub in_flight: u64,
    pub idle: u64,
    pub closing: u64,
    pub vanished: u64,
    pub doubt: u64,
}

/// Calls to the hook's port, as `lastcall_ebpf::abi::hook_count` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCalls {
    /// Led to the agent.
    pub agent: u64,
    /// Found no agent and sleep.
    pub nobody_home: u64,
    /// The pod listens itself.
    pub passed_through: u64,
    /// Not the kubelet.
    pub not_the_kubelet: u64,
    /// No name was free.
    pub no_name: u64,
}

/// Whoever can say how things stand. Called at each scrape, from a thread of the runtime: it must
/// neither block for long nor fail.
pub trait Snapshot: Send + Sync {
    /// How things stand.
    fn read(&self) -> Reading;
}

impl<F: Fn() -> Reading + Send + Sync> Snapshot for F {
    fn read(&self) -> Reading {
        self()
    }
}

/// The gauges' collector.
pub(super) struct Scraped<S> {
    snapshot: S,
    descriptions: Vec<Desc>,
}

impl<S: Snapshot> Scraped<S> {
    pub(super) fn new(snapshot: S) -> Self {
        let descriptions = families(&Reading::default()).into_iter().map(|(d, _)| d).collect();
        Self { snapshot, descriptions }
    }
}

impl<S: Snapshot> Collector for Scraped<S> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.snapshot.read()).into_iter().flat_map(|(_, f)| f).collect()
    }
}

type Family = (Desc, Vec<MetricFamily>);

fn families(reading: &Reading) -> Vec<Family> {
    let c = &reading.connections;
    let calls = &reading.hook_calls;
    let api = reading.api.unwrap_or(ApiReading { reachable: true, ..ApiReading::default() });
    [
        gauge(&catalogue::DRAINS_IN_PROGRESS, &[("", reading.drains_in_progress)]),
        gauge(&catalogue::HOOKS_HELD, &[("", reading.hooks_held)]),
        gauge(
            &catalogue::CONNECTIONS,
            &[
                (ConnectionState::InFlight.as_str(), c.in_flight),
                (ConnectionState::Idle.as_str(), c.idle),
                (ConnectionState::Closing.as_str(), c.closing),
                (ConnectionState::Vanished.as_str(), c.vanished),
                (ConnectionState::Doubt.as_str(), c.doubt),
            ],
        ),
        gauge(&catalogue::TABLE_ENTRIES, &[("", reading.table_entries)]),
        gauge(&catalogue::TABLE_CAPACITY, &[("", reading.table_capacity)]),
        gauge(&catalogue::MANIFEST_PROBLEMS, &[("", reading.manifest_problems)]),
        gauge(&catalogue::API_REACHABLE, &[("", api.reachable.into())]),
        counter(&catalogue::API_REQUESTS, &[("", api.requests)]),
        counter(&catalogue::API_FAILURES, &[("", api.failures)]),
        gauge(&catalogue::EBPF_AVAILABLE, &[("", reading.ebpf_available.into())]),
        counter(&catalogue::EDGE_EVENTS, &[("", reading.edge_events)]),
        counter(&catalogue::EDGE_EVENTS_LOST, &[("", reading.edge_events_lost)]),
        counter(&catalogue::ANNOUNCEMENT_REFUSALS, &refusals(reading)),
        counter(&catalogue::AGENT_ABSENT_SLEEPS, &[("", calls.nobody_home)]),
        counter(
            &catalogue::HOOK_CALLS,
            &[
                (HookCall::Agent.as_str(), calls.agent),
                (HookCall::PassedThrough.as_str(), calls.passed_through),
                (HookCall::NotTheKubelet.as_str(), calls.not_the_kubelet),
                (HookCall::NoName.as_str(), calls.no_name),
            ],
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Every reason, also where nothing can be refused because nobody can be told.
fn refusals(reading: &Reading) -> Vec<(&'static str, u64)> {
    let counted =
        |reason| reading.announcement_refusals.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n);
    REFUSALS.into_iter().map(|reason| (reason, counted(reason))).collect()
}

/// The label's values; none for a metric without labels.
fn values<'a>(metric: &Metric, value: &'a str) -> Vec<&'a str> {
    if metric.labels.is_empty() { vec![] } else { vec![value] }
}

fn gauge(metric: &Metric, series: &[(&str, u64)]) -> Option<Family> {
    let made = IntGaugeVec::new(opts(metric), &label_names(metric)).ok()?;
    for (value, n) in series {
        made.with_label_values(&values(metric, value)).set(i64::try_from(*n).unwrap_or(i64::MAX));
    }
    Some((made.desc().first().copied()?.clone(), made.collect()))
}

fn counter(metric: &Metric, series: &[(&str, u64)]) -> Option<Family> {
    let made = IntCounterVec::new(opts(metric), &label_names(metric)).ok()?;
    for (value, n) in series {
        made.with_label_values(&values(metric, value)).inc_by(*n);
    }
    Some((made.desc().first().copied()?.clone(), made.collect()))
}
