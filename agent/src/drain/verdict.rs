//! The verdict, for everyone who waits, in words.

use std::{sync::Arc, time::Duration};

use super::{
    Drain, Happened, Verdict,
    policy::{self, Outcome},
};
use crate::{ledger::View, moment::Moment};

/// Ends a drain of a pod that was never seen.
pub(super) fn blind(drain: &Drain, outcome: Outcome, why: &str) {
    let now = Moment::now();
    let view = drain.ledger().view(now, &drain.contract);
    let verdict = policy::Verdict { outcome, awaited: 0, open: 0 };
    tell(drain, Verdict { seen: false, ..words(drain, &verdict, why, view, now, None) });
}

/// Tells everyone who waits.
pub(super) fn conclude(
    drain: &Drain,
    verdict: &policy::Verdict,
    why: &str,
    view: View,
    at: Moment,
    after_last_close: Option<Duration>,
) -> Arc<Verdict> {
    tell(drain, words(drain, verdict, why, view, at, after_last_close))
}

fn words(
    drain: &Drain,
    verdict: &policy::Verdict,
    why: &str,
    view: View,
    at: Moment,
    after_last_close: Option<Duration>,
) -> Verdict {
    let terminating = drain.identity().facts.is_some_and(|f| f.terminating.is_some());
    Verdict {
        outcome: verdict.outcome,
        at,
        why: why.to_owned(),
        view,
        after_last_close,
        terminating,
        seen: true,
        audience: drain.progress().audience,
    }
}

fn tell(drain: &Drain, verdict: Verdict) -> Arc<Verdict> {
    let verdict = Arc::new(verdict);
    drain.happened(&Happened::Ended(Arc::clone(&verdict)));
    drain.progress.send_modify(|p| {
        p.waiting_for = String::new();
        p.view = Some(verdict.view);
        p.verdict = Some(Arc::clone(&verdict));
    });
    verdict
}
