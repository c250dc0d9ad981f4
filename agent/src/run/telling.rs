//! What happens to drains, into log and metrics.

use std::{sync::Arc, time::Duration};

use crate::{
    cluster::api::Api,
    drain::{Drain, Fallback, Happened, Listener, Verdict, policy::Outcome},
    report::{
        events::{Events, Reason, Subject},
        labels::{self, Labels},
        metrics::Metrics,
    },
};

pub(super) struct Telling {
    metrics: Arc<Metrics>,
    api: Option<Api>,
    events: Events,
}

impl Telling {
    pub(super) fn new(metrics: Arc<Metrics>, api: Option<Api>, events: Events) -> Self {
        Self { metrics, api, events }
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
                if let Some(propagation) = propagation(drain, verdict) {
                    m.propagated(propagation);
                }
                let reason = match outcome {
                    Outcome::Deadline => Reason::DrainDeadline,
                    Outcome::Busy => Reason::DrainBusy,
                    Outcome::Drained => Reason::Drained,
                    Outcome::Forced | Outcome::Restart | Outcome::Gone => return,
                };
                self.event(drain, reason, || format!("after {:.1} s: {}", took.as_secs_f64(), verdict.why));
            }
            Happened::Unfit(to_settle, within) => {
                let note = format!(
                    "routing takes {:.0} s to settle, and terminationGracePeriodSeconds leaves {:.1} s for it: make \
                     it longer, or set settle= on the hook",
                    to_settle.as_secs_f64(),
                    within.as_secs_f64()
                );
                tracing::warn!(pod = %drain, "{note}");
                self.event(drain, Reason::SettleExceedsGrace, || note);
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
                    let n = if *cut == 1 { "1 connection" } else { &format!("{cut} connections") };
                    self.event(drain, Reason::ConnectionsCut, || {
                        format!(
                            "{n} ended with a request or a response unfinished when the pod's processes did"
                        )
                    });
                } else {
                    tracing::info!(pod = %drain, late, "pod gone");
                }
                m.late_connections(&labels_of(drain), *late);
                m.cut_connections(&labels_of(drain), *cut);
            }
        }
    }
}

impl Telling {
    /// An Event beside the pod; none about pods without the hook, which asked for nothing.
    fn event(&self, drain: &Drain, reason: Reason, note: impl FnOnce() -> String) {
        let Some(facts) = drain.identity().facts.filter(|facts| !facts.hooks.is_empty()) else { return };
        let subject = Subject::Pod {
            namespace: facts.name.namespace.clone(),
            name: facts.name.name.clone(),
            uid: facts.uid.clone(),
        };
        self.events.tell(subject, reason, note());
    }
}

/// From the pod's withdrawal to the last new connection that still came.
fn propagation(drain: &Drain, verdict: &Verdict) -> Option<Duration> {
    let withdrawn = drain.identity().facts?.terminating.as_ref()?.withdrawn?;
    let last = verdict.view.last_new.filter(|last| *last > withdrawn)?;
    Some(last.since(withdrawn))
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
