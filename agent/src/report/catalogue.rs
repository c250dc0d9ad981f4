//! Every metric of the agent: name, kind, unit, labels and help, in one place.
//!
//! [`super::metrics`] and [`super::scrape`] register from here, the README's table is made from here
//! ([`markdown`]), and the tests hold the names to Prometheus' rules: base units, `_total` on counters
//! and nowhere else, no label whose values cannot be counted beforehand.

use std::fmt::Write as _;

use super::labels::{Announcement, BadRequest, ConnectionState, EventResult, Fallback, HookCall, Outcome};
use crate::last_call::REFUSALS;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// `lastcall_…`
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What it counts, in base units.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
    /// One sentence: what it says, and what it is good for where that is not plain.
    pub help: &'static str,
}

/// What Prometheus calls its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down; computed when it is scraped.
    Gauge,
    /// Counts by size, with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As in `# TYPE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label, and what its values can be.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values, or none where they are names from the cluster (bounded, then `other`).
    pub values: &'static [&'static str],
}

const NAMESPACE: Label = Label { name: "namespace", values: &[] };
const WORKLOAD: Label = Label { name: "workload", values: &[] };
const VERSION: Label = Label { name: "version", values: &[] };
const PROTOCOL: Label = Label { name: "protocol", values: Announcement::ALL };
const OUTCOME: Label = Label { name: "outcome", values: Outcome::ALL };

/// Drains take from a second to the longest grace people set.
const DRAIN_BOUNDS: Kind =
    Kind::Histogram(&[0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0]);
/// Settling is bounded by the floors: 2, 5, 10, 15 and 30 s.
const SETTLE_BOUNDS: Kind =
    Kind::Histogram(&[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0]);
/// Where λ proves something (more than about one a second) and where it does not.
const RATE_BOUNDS: Kind = Kind::Histogram(&[0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]);

/// Makes the constants and the list of all of them.
macro_rules! catalogue {
    ($($id:ident: $kind:expr, $name:literal, $unit:literal, [$($label:expr),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric =
                Metric { name: $name, kind: $kind, unit: $unit, labels: &[$($label),*], help: $help };
        )+

        /// Every metric, in the order of the README's table.
        pub const ALL: &[&Metric] = &[$(&$id),+];
    };
}

catalogue! {
    DRAINS_IN_PROGRESS: Kind::Gauge, "lastcall_drains_in_progress", "pods", [],
        "Terminating pods of this node that are being watched and have not drained yet.";
    DRAINS: Kind::Counter, "lastcall_drains_total", "pods", [NAMESPACE, WORKLOAD, OUTCOME],
        "Drains that ended, by whose and how; alert on deadline and busy.";
    DRAIN_DURATION: DRAIN_BOUNDS, "lastcall_drain_duration_seconds", "seconds", [OUTCOME],
        "From the first sight of a pod's end to the verdict; what a sleep would have to be.";
    HOOKS_HELD: Kind::Gauge, "lastcall_hooks_held", "calls", [],
        "preStop hooks that are waiting for their answer.";
    HOOK_WAIT: DRAIN_BOUNDS, "lastcall_hook_wait_seconds", "seconds", [],
        "From a preStop hook's call to its answer.";
    HOOK_CALLS: Kind::Counter, "lastcall_hook_calls_total", "calls",
        [Label { name: "kind", values: HookCall::ALL }],
        "Calls to the hook's port while the agent was there, by what became of them; counted by the kernel, agents' restarts do not reset it.";
    AGENT_ABSENT_SLEEPS: Kind::Counter, "lastcall_agent_absent_sleeps_total", "calls", [],
        "preStop hooks that found no agent and became a sleep; counted by the kernel.";
    BAD_REQUESTS: Kind::Counter, "lastcall_bad_requests_total", "requests",
        [Label { name: "reason", values: BadRequest::ALL }],
        "Requests to the hook's port that were refused, or parts of them that were left out of account.";
    CONNECTIONS: Kind::Gauge, "lastcall_connections", "connections",
        [Label { name: "state", values: ConnectionState::ALL }],
        "Connections of draining pods, by where they stand.";
    LATE_CONNECTIONS: Kind::Counter, "lastcall_late_connections_total", "connections", [NAMESPACE, WORKLOAD],
        "Connections that reached a pod after its hook was answered: routing had not settled.";
    CUT_CONNECTIONS: Kind::Counter, "lastcall_cut_connections_total", "connections", [NAMESPACE, WORKLOAD],
        "Connections that were in flight when the pod's processes ended.";
    PROPAGATION: SETTLE_BOUNDS, "lastcall_propagation_seconds", "seconds", [],
        "From the withdrawal of a pod from its EndpointSlices to the last new connection that still reached it.";
    OPENINGS: RATE_BOUNDS, "lastcall_openings_per_second", "connections per second", [],
        "New connections per second that a pod had before its end, as used to judge its silence.";
    SETTLE: SETTLE_BOUNDS, "lastcall_settle_seconds", "seconds", [],
        "From the first sight of a pod's end to routing having settled.";
    ANNOUNCEMENTS: Kind::Counter, "lastcall_announcements_total", "connections", [PROTOCOL],
        "Clients that were told to leave: the last call, by Connection: close or GOAWAY.";
    ANNOUNCED_LEFT: Kind::Counter, "lastcall_announced_left_total", "connections", [PROTOCOL],
        "Connections that ended after their clients had been told to leave.";
    ANNOUNCED_LEAVING: Kind::Counter, "lastcall_announced_leaving_seconds_total", "seconds", [PROTOCOL],
        "How long those took from the announcement to their end, added up.";
    ANNOUNCEMENT_REFUSALS: Kind::Counter, "lastcall_announcement_refusals_total", "answers",
        [Label { name: "reason", values: &REFUSALS }],
        "Answers that told nobody though they might have, by reason; the next one tries again.";
    ANNOUNCED_STAYED: Kind::Counter, "lastcall_announced_stayed_total", "connections", [],
        "Connections that went on after their clients had been told to leave.";
    RECONCILE_CORRECTIONS: Kind::Counter, "lastcall_reconcile_corrections_total", "connections", [],
        "Entries of the table that the sockets showed to be gone, and no packet had.";
    FALLBACKS: Kind::Counter, "lastcall_fallbacks_total", "pods",
        [Label { name: "reason", values: Fallback::ALL }],
        "Drains judged by polling sockets instead of by the kernel programs.";
    TABLE_ENTRIES: Kind::Gauge, "lastcall_table_entries", "connections", [],
        "Entries in the kernel's connection table.";
    TABLE_CAPACITY: Kind::Gauge, "lastcall_table_capacity", "connections", [],
        "Entries that the kernel's connection table has room for.";
    EDGE_EVENTS: Kind::Counter, "lastcall_edge_events_total", "events", [],
        "Events by which the kernel said that a pod is worth a look.";
    EDGE_EVENTS_LOST: Kind::Counter, "lastcall_edge_events_lost_total", "events", [],
        "Such events that found no place in the ring; the next reconcile makes up for them.";
    MANIFEST_PROBLEMS: Kind::Gauge, "lastcall_manifest_problems", "files", [],
        "Manifests that cannot be read; what they said last still holds.";
    API_REACHABLE: Kind::Gauge, "lastcall_api_reachable", "boolean", [],
        "0 when the last request to the API server found none; 1 also where there is none to reach (--endpoints).";
    API_REQUESTS: Kind::Counter, "lastcall_api_requests_total", "requests", [],
        "Requests to the API server.";
    API_FAILURES: Kind::Counter, "lastcall_api_failures_total", "requests", [],
        "Requests to the API server that failed or were refused.";
    EVENTS: Kind::Counter, "lastcall_events_total", "events",
        [Label { name: "result", values: EventResult::ALL }],
        "Kubernetes Events about drains, by what became of them.";
    EBPF_AVAILABLE: Kind::Gauge, "lastcall_ebpf_available", "boolean", [],
        "1 when the kernel programs are loaded, 0 when sockets are polled instead.";
    BUILD_INFO: Kind::Gauge, "lastcall_build_info", "constant 1", [VERSION],
        "The running version.";
}

/// The README's table.
pub fn markdown() -> String {
    let mut out = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in ALL {
        let labels: Vec<_> = metric.labels.iter().map(label).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | {}, {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.unit,
            labels.join(", "),
            metric.help
        );
    }
    out
}

fn label(label: &Label) -> String {
    if label.values.is_empty() {
        return format!("`{}`", label.name);
    }
    let values: Vec<_> = label.values.iter().map(|v| format!("`{v}`")).collect();
    format!("`{}` ({})", label.name, values.join(" "))
}
