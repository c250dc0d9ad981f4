//! What one drain's task tells: how things stand, the verdict, what came after it, what the last call did.
//!
//! In: the task's own view. Out: its progress for the status page, the verdict for everyone who waits, and
//! happenings for log and metrics.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        Happened, Verdict,
        explain::{Circumstance, explain},
        eyes::link_change,
        policy::{self, Circumstances, Outcome},
        verdict,
    },
    Task,
};
use crate::{contract::Audience, ledger::View, moment::Moment};

use lastcall_ebpf::abi::Pod;

/// A pod that is not gone this long after the decision is not going: its links are given back.
const WATCHED_AFTERWARDS: Duration = Duration::from_secs(600);

impl Task {
    pub(super) fn conclude(
        &self,
        verdict: &policy::Verdict,
        view: View,
        circumstances: &Circumstances,
        now: Moment,
    ) -> Arc<Verdict> {
        let settle = policy::settle(&self.drain.contract, circumstances, &view);
        let settled = settle.settled(circumstances.began, &view);
        if now >= settled {
            self.drain.happened(&Happened::Settled(settled.since(circumstances.began), settle.per_second));
        }
        let View { last_new, missed, missed_next, .. } = view;
        let since = |at: Moment| at.since(circumstances.began);
        tracing::debug!(
            pod = %self.drain,
            last_new = ?last_new.map(since),
            missed,
            missed_next = ?missed_next.map(since),
            others_ready = ?circumstances.others_ready,
            "what the settling went by"
        );
        let within = self.granted();
        if verdict.outcome == Outcome::Deadline && settle.floor > within && !self.unfit {
            self.drain.happened(&Happened::Unfit(settle.floor, within));
        }
        let unable = self.eyes.cannot_tell();
        let settled = now >= settled;
        let told = Circumstance { settle: &settle, settled, view: &view, audience: self.audience, unable };
        let mut why = explain(verdict, &told);
        let known = self.facts.as_ref().is_some_and(|f| f.terminating.is_some());
        if verdict.outcome == Outcome::Deadline && !known && self.stop.bound().is_some() {
            why = "nobody can tell whether the pod stops or a container restarts".to_owned();
        }
        self.publish(&view, circumstances, String::new());
        // Of use only where a close came last, not a timer.
        let event = Moment(self.drain.wake.last_event());
        let close = (self.woken && self.settled_at.is_none_or(|at| event > at)).then(|| now.since(event));
        verdict::conclude(&self.drain, verdict, &why, view, now, close)
    }

    /// What the grace leaves for the drain.
    fn granted(&self) -> Duration {
        self.deadline().since(self.drain.began)
    }

    /// Says once that routing takes longer to settle than the grace leaves, as soon as it is known: whatever
    /// becomes of this drain, the next one of the workload has the same grace.
    pub(super) fn warn_if_unfit(&mut self, view: &View, circumstances: &Circumstances) {
        let (settle, within) = (policy::settle(&self.drain.contract, circumstances, view), self.granted());
        if !self.unfit && settle.exceeds(within) {
            self.unfit = true;
            self.drain.happened(&Happened::Unfit(settle.floor, within));
        }
    }

    /// Counts what the decision did not keep: until the pod is gone.
    pub(super) async fn afterwards(&mut self, verdict: &Verdict) {
        let end = verdict.at + WATCHED_AFTERWARDS;
        let Some(at_verdict) = self.counters() else {
            tokio::select! {
                () = self.namespace.gone() => {}
                // The node's own namespace stays.
                () = tokio::time::sleep_until(end.instant()) => {}
                () = self.drain.superseded() => {}
            }
            return;
        };
        loop {
            tokio::select! {
                () = self.namespace.gone() => break,
                () = tokio::time::sleep_until(end.instant()) => break,
                () = self.drain.superseded() => break,
                () = link_change(&mut self.links) => self.eyes.look_at_links(&self.drain).await,
            }
        }
        if let Some(now) = self.counters() {
            let stayed = self.drain.ledger().stayed();
            self.count_announced(&now, stayed);
            self.drain.happened(&Happened::Gone {
                late: now.new_connections.saturating_sub(at_verdict.new_connections),
                cut: match verdict.outcome {
                    // Nobody held it: what it cut came before this, by and by.
                    Outcome::Gone => cut(&self.waited, &Pod::default(), &now),
                    _ => cut(&verdict.view, &at_verdict, &now),
                },
            });
        }
    }

    pub(super) fn counters(&self) -> Option<Pod> {
        let number = self.eyes.number()?;
        self.services.observer.as_ref()?.pod(number).ok()
    }

    /// Begins the last call where a hook has come of which the sources knew nothing, and attaches its programs
    /// where what was learned since asks for them. It never ends before the drain does: what a joining hook says
    /// changes nothing.
    pub(super) async fn announce(&mut self) {
        if self.audience == Audience::Nobody {
            self.audience = self.drain.audience(self.services.last_call, self.facts.as_deref());
            if self.audience != Audience::Nobody {
                self.eyes.tell(self.audience);
                self.eyes.set_ports(&self.drain, self.facts.as_ref().map(|f| &f.ports), &self.listening);
            }
        }
        self.eyes.announce(&self.drain).await;
        // Nobody waits for a last call that cannot be heard.
        let heard = if self.eyes.cannot_tell().is_some() { Audience::Nobody } else { self.audience };
        self.drain.ledger().tell(heard);
    }

    pub(super) fn count_announced(&mut self, pod: &Pod, stayed: u64) {
        if let Some(new) = self.tally.step(pod, stayed) {
            self.drain.happened(&Happened::Announced(new));
        }
    }

    pub(super) fn publish(&self, view: &View, circumstances: &Circumstances, waiting_for: String) {
        let settle = policy::settle(&self.drain.contract, circumstances, view);
        self.drain.progress.send_modify(|p| {
            p.waiting_for = waiting_for;
            p.settle = settle.to_string();
            p.audience = self.audience;
            p.unable = self.eyes.cannot_tell().map(str::to_owned);
            p.view = Some(*view);
            p.deadline = Some(circumstances.deadline);
            p.promise = Some(self.deadline());
            p.fallback = self.eyes.fallback();
        });
    }
}

/// Connections that the pod ended between two reads with a request or a response unfinished. Of those that the
/// kernel has followed it counts them; of those of which no packet was seen it counts the ends, and the idle
/// ones among them are taken to have ended too.
fn cut(before: &View, first: &Pod, last: &Pod) -> u64 {
    let followed = last.cut.saturating_sub(first.cut);
    let ended = last.silent_ends.saturating_sub(first.silent_ends);
    let at_work = before.silent_at_work as u64;
    let idle = (before.silent as u64).saturating_sub(at_work);
    followed + ended.saturating_sub(idle).min(at_work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_ends_are_cuts_as_far_as_the_idle_ones_do_not_explain_them() {
        let cut = |silent, silent_at_work, ends: u64| {
            let before = View { silent, silent_at_work, ..View::default() };
            let first = Pod { cut: 2, silent_ends: 1, ..Pod::default() };
            cut(&before, &first, &Pod { cut: 5, silent_ends: 1 + ends, ..first }) - 3
        };
        assert_eq!(cut(1, 1, 1), 1, "a request of before the drain");
        assert_eq!(cut(1, 1, 0), 0, "its client went away");
        assert_eq!(cut(3, 0, 3), 0, "idle ones alone");
        assert_eq!(cut(3, 2, 3), 2);
        assert_eq!(cut(3, 2, 9), 2, "no more than there were");
        assert_eq!(cut(3, 2, 1), 0, "it may have been the idle one");
    }
}
