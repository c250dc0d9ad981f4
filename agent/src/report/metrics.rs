//! What the agent counts while it works.
//!
//! In: one call for each thing that happened. Out: Prometheus' text format. What can be read from the
//! agent's state instead is not kept here: [`super::scrape`] reads it when somebody asks.

use std::time::Duration;

use lastcall_ebpf::abi::told;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use super::{
    catalogue::{self, Kind, Metric},
    labels::{Announcement, BadRequest, EventResult, Fallback, Labels, Outcome, Workloads},
    scrape::{Scraped, Snapshot},
};
use crate::drain::Announced;

/// Most workloads with series of their own, for the life of the agent; the others are `other`.
pub const MAX_WORKLOADS: usize = 200;

/// The agent's own counters and histograms.
pub struct Metrics {
    registry: Registry,
    workloads: Workloads,
    drains: IntCounterVec,
    drain_duration: HistogramVec,
    hook_wait: Histogram,
    openings: Histogram,
    settle: Histogram,
    propagation: Histogram,
    late: IntCounterVec,
    cut: IntCounterVec,
    corrections: IntCounter,
    announcements: IntCounterVec,
    announced_left: IntCounterVec,
    announced_leaving: CounterVec,
    announced_stayed: IntCounter,
    fallbacks: IntCounterVec,
    bad_requests: IntCounterVec,
    events: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything registered, and every series of a closed set at zero: a rate needs a start.
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = register(&registry, IntGaugeVec::new(opts(&catalogue::BUILD_INFO), &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            workloads: Workloads::new(MAX_WORKLOADS),
            drains: counter(&registry, &catalogue::DRAINS),
            drain_duration: histogram(&registry, &catalogue::DRAIN_DURATION),
            hook_wait: histogram(&registry, &catalogue::HOOK_WAIT).with_label_values::<&str>(&[]),
            openings: histogram(&registry, &catalogue::OPENINGS).with_label_values::<&str>(&[]),
            settle: histogram(&registry, &catalogue::SETTLE).with_label_values::<&str>(&[]),
            propagation: histogram(&registry, &catalogue::PROPAGATION).with_label_values::<&str>(&[]),
            late: counter(&registry, &catalogue::LATE_CONNECTIONS),
            cut: counter(&registry, &catalogue::CUT_CONNECTIONS),
            corrections: plain(&registry, &catalogue::RECONCILE_CORRECTIONS),
            announcements: counter(&registry, &catalogue::ANNOUNCEMENTS),
            announced_left: counter(&registry, &catalogue::ANNOUNCED_LEFT),
            announced_leaving: seconds(&registry, &catalogue::ANNOUNCED_LEAVING),
            announced_stayed: plain(&registry, &catalogue::ANNOUNCED_STAYED),
            fallbacks: counter(&registry, &catalogue::FALLBACKS),
            bad_requests: counter(&registry, &catalogue::BAD_REQUESTS),
            events: counter(&registry, &catalogue::EVENTS),
            registry,
        }
    }

    /// From now on every scrape also reads `snapshot`. Once; a second call changes nothing.
    pub fn read_from(&self, snapshot: impl Snapshot + 'static) {
        // The only error is a duplicate, which is the second call.
        let _ = self.registry.register(Box::new(Scraped::new(snapshot)));
    }

    /// A drain ended, `took` after the pod's end was seen first.
    pub fn drain_ended(&self, pod: &Labels, outcome: Outcome, took: Duration) {
        let [namespace, workload] = self.workloads.bound(pod);
        self.drains.with_label_values(&[namespace, workload, outcome.as_str()]).inc();
        self.drain_duration.with_label_values(&[outcome.as_str()]).observe(took.as_secs_f64());
    }

    /// A hook was answered after `waited`.
    pub fn hook_answered(&self, waited: Duration) {
        self.hook_wait.observe(waited.as_secs_f64());
    }

    /// Routing settled, `after` the pod's end was seen first; λ as it was used, if it was known.
    pub fn settled(&self, openings_per_second: Option<f64>, after: Duration) {
        if let Some(rate) = openings_per_second {
            self.openings.observe(rate);
        }
        self.settle.observe(after.as_secs_f64());
    }

    /// The last new connection came `after` the pod had been withdrawn from its slices.
    pub fn propagated(&self, after: Duration) {
        self.propagation.observe(after.as_secs_f64());
    }

    /// Connections that came after the hook's answer.
    pub fn late_connections(&self, pod: &Labels, count: u64) {
        self.late.with_label_values(&self.workloads.bound(pod)).inc_by(count);
    }

    /// Connections that were in flight when the pod's processes ended.
    pub fn cut_connections(&self, pod: &Labels, count: u64) {
        self.cut.with_label_values(&self.workloads.bound(pod)).inc_by(count);
    }

    /// A reconcile found what packets had not shown.
    pub fn corrected(&self, count: u64) {
        self.corrections.inc_by(count);
    }

    /// Clients were told to leave, left, or stayed.
    pub fn announced(&self, new: &Announced) {
        for (protocol, i) in [(Announcement::Http1, told::HTTP1), (Announcement::Http2, told::HTTP2)] {
            let label = &[protocol.as_str()];
            self.announcements.with_label_values(label).inc_by(new.told[i]);
            self.announced_left.with_label_values(label).inc_by(new.left[i]);
            self.announced_leaving.with_label_values(label).inc_by(new.left_after[i].as_secs_f64());
        }
        self.announced_stayed.inc_by(new.stayed);
    }

    /// A drain is judged by polling.
    pub fn fell_back(&self, reason: Fallback) {
        self.fallbacks.with_label_values(&[reason.as_str()]).inc();
    }

    /// A request was refused, or part of it left out of account.
    pub fn bad_request(&self, reason: BadRequest) {
        self.bad_requests.with_label_values(&[reason.as_str()]).inc();
    }

    /// What became of a Kubernetes Event.
    pub fn event(&self, result: EventResult) {
        self.events.with_label_values(&[result.as_str()]).inc();
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let families = self.registry.gather();
        // Encoding fails only for a family without a name or a metric, and none is made here.
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}

/// The catalogue's entry, as the library wants it.
pub(super) fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

/// The names of its labels.
pub(super) fn label_names(metric: &Metric) -> Vec<&'static str> {
    metric.labels.iter().map(|l| l.name).collect()
}

fn counter(registry: &Registry, metric: &Metric) -> IntCounterVec {
    let counter = register(registry, IntCounterVec::new(opts(metric), &label_names(metric)));
    if let [only] = metric.labels {
        for value in only.values {
            counter.with_label_values(&[*value]);
        }
    }
    counter
}

fn plain(registry: &Registry, metric: &Metric) -> IntCounter {
    register(registry, IntCounter::with_opts(opts(metric)))
}

/// A counter of seconds, by a closed set.
fn seconds(registry: &Registry, metric: &Metric) -> CounterVec {
    let counter = register(registry, CounterVec::new(opts(metric), &label_names(metric)));
    for value in metric.labels.iter().flat_map(|label| label.values) {
        counter.with_label_values(&[*value]);
    }
    counter
}

fn histogram(registry: &Registry, metric: &Metric) -> HistogramVec {
    let mut opts = HistogramOpts::from(opts(metric));
    if let Kind::Histogram(bounds) = metric.kind {
        opts = opts.buckets(bounds.to_vec());
    }
    register(registry, HistogramVec::new(opts, &label_names(metric)))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    made.and_then(|c| registry.register(Box::new(c.clone())).map(|()| c))
        .expect("the catalogue's names are valid and unique, which its tests show for each of them")
}
