//! What happens to drains, into log and metrics.

use std::sync::Arc;

use crate::{
    cluster::api::Api,
    drain::{Drain, Fallback, Happened, Listener, policy::Outcome},
    report::{
        labels::{self, Labels},
        metrics::Metrics,
    },
};

pub(super) struct Telling {
    metrics: Arc<Metrics>,
    api: Option<Api>,
}

impl Telling {
    pub(super) fn new(metrics: Arc<Metrics>, api: Option<Api>) -> Self {
        Self { metrics, api }
    }

    pub(super) fn listener(self) -> Listener {
        Arc::new(move |drain, what| self.tell(drain, what))
    }

    fn tell(&self, drain: &Drain, what: &Happened) {
        let m = &self.metrics;
        match what {
            Happened::Began => {
                tracing::info!(pod = %drain, "drain begins");
                self.api.iter().for_each(Api::look);
            }
            Happened::Settled(after, rate) => m.settled(*rate, *after),
            Happened::Ended(verdict) => {
                let (outcome, took) = (verdict.outcome, verdict.at.since(drain.began));
                tracing::info!(pod = %drain, %outcome, seconds = took.as_secs_f64(), "drain ends: {}", verdict.why);
                m.drain_ended(&labels_of(drain), as_label(outcome), took);
            }
            Happened::Corrected(n) => m.corrected(*n),
            Happened::Announced(new) => m.announced(new),
            Happened::FellBack(why) => {
                tracing::warn!(pod = %drain, "its sockets are polled: {}", why.why());
                m.fell_back(fallback(*why));
            }
            Happened::Gone { late, cut } => {
                if *cut > 0 {
                    tracing::warn!(pod = %drain, cut, late, "pod gone: it cut connections");
                } else {
                    tracing::info!(pod = %drain, late, "pod gone");
                }
                m.late_connections(&labels_of(drain), *late);
                m.cut_connections(&labels_of(drain), *cut);
            }
        }
    }
}

fn labels_of(drain: &Drain) -> Labels {
    match drain.identity().facts {
        Some(facts) => Labels { namespace: facts.name.namespace.clone(), workload: facts.workload.clone() },
        None => Labels { namespace: String::new(), workload: String::new() },
    }
}

pub(super) fn as_label(outcome: Outcome) -> labels::Outcome {
    match outcome {
        Outcome::Drained => labels::Outcome::Drained,
        Outcome::Busy => labels::Outcome::Busy,
        Outcome::Deadline => labels::Outcome::Deadline,
        Outcome::Forced => labels::Outcome::Forced,
        Outcome::Restart => labels::Outcome::Restart,
        Outcome::Gone => labels::Outcome::Gone,
    }
}

fn fallback(why: Fallback) -> labels::Fallback {
    match why {
        Fallback::NoEbpf => labels::Fallback::NoEbpf,
        Fallback::AttachFailed => labels::Fallback::AttachFailed,
        Fallback::TableFull => labels::Fallback::TableFull,
        Fallback::Blind => labels::Fallback::Blind,
        Fallback::HostNetwork => labels::Fallback::HostNetwork,
        Fallback::Forced => labels::Fallback::Forced,
    }
}
