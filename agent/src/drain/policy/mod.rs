//! When a drain ends, and how. Pure: a [`View`], the circumstances and now in, a [`Decision`] out.
//!
//! The order: what ends every drain (pod gone, namespace gone, deadline, restart), then **settled**, then
//! what the contract's **until** lets remain, then **stalled**. "drained" is said only of a view in which
//! both witnesses were heard after the last change.

use std::time::Duration;

use crate::{
    cluster::Exposure,
    contract::{Contract, Until},
    ledger::{Completeness, View},
    moment::Moment,
};

mod confirm;
mod deadline;
mod display;
mod settle;
mod strictest;
#[cfg(test)]
mod tests;

use confirm::{Confirmation, confirmation};
pub use deadline::{Grace, deadline, reserve};
pub use settle::{Settle, Why, floor, settle};

/// How often the sockets are polled where the table alone cannot tell.
pub const POLL: Duration = Duration::from_millis(100);
/// A stalled drain looks for an instant with nothing at work this often.
const INSTANT: Duration = Duration::from_millis(20);
/// Dumps that follow packets, not time, are at least this far apart.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// After a dump that failed, the next try.
const RETRY: Duration = Duration::from_secs(1);

/// Whether the pod's sockets can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dumps {
    /// Yes.
    Possible,
    /// The last try failed; another may not.
    Failing,
    /// Never: a sandboxed pod (gVisor, Kata) has its sockets elsewhere. The table alone must do.
    Impossible,
}

/// What is known beside the connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Circumstances {
    /// First sight of the deletion or of the hook, whichever came first.
    pub began: Moment,
    /// Somebody waits for the answer.
    pub hook_waiting: bool,
    /// By [`deadline`].
    pub deadline: Moment,
    /// Kind of Service.
    pub exposure: Exposure,
    /// New connections a second before the drain, from two reads of the namespace's `PassiveOpens`;
    /// probes and health checks among them.
    pub openings_per_second: Option<f64>,
    /// The kubelet's probes.
    pub probes_per_second: f64,
    /// Openings a second, since the drain began, that were no client's: the kubelet's probes and health
    /// checks again, and what shows in no other way (those that only connect, ignored sources, scrapes).
    pub noise_per_second: f64,
    /// The cluster's `--min-settle`.
    pub min_settle: Duration,
    /// Ready endpoints beside this pod that a client which was sent away may have gone to instead;
    /// `None` where nobody has counted them.
    pub others_ready: Option<usize>,
    /// The Pod object is gone or another has its name, while the hook is held.
    pub pod_gone: bool,
    /// The network namespace is gone: nothing of the pod is left to wait for.
    pub namespace_gone: bool,
    /// Positive evidence that only a container is being restarted.
    pub restart: bool,
    /// A program watches every link of the pod.
    pub observed_by_kernel: bool,
    /// Whether the pod's sockets can be dumped.
    pub dumps: Dumps,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Nothing before `until`, unless an edge comes; then read the table and ask again. Where no program
    /// watches the pod or its table is incomplete, dump every [`POLL`] meanwhile: nothing else looks.
    Wait {
        /// Later than now, never later than the deadline.
        until: Moment,
        /// For people.
        why: Waiting,
    },
    /// Dump the sockets, **then** read the table, then ask again at once. Where a dump fails, say so in
    /// [`Circumstances::dumps`].
    Confirm,
    /// Answer the hook; the drain is over.
    Answer(Verdict),
}

/// What a drain waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Waiting {
    /// Routing may still send new connections.
    Settling(Settle),
    /// So many connections or flows in flight (or, under `closed`, open).
    Connections(usize),
    /// A closed loop of so many clients: the next instant with nothing at work.
    Stalled(usize),
    /// The view is not complete enough to say "drained".
    Incomplete(Completeness),
    /// The sockets could not be dumped.
    Dumps,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How.
    pub outcome: Outcome,
    /// Connections and flows that the contract still waited for.
    pub awaited: usize,
    /// Connections that were still open.
    pub open: usize,
}

/// How a drain ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// What the contract waits for has gone.
    Drained,
    /// A closed loop of clients that no waiting ends.
    Busy,
    /// The grace is used up.
    Deadline,
    /// The Pod object went away while the hook was held.
    Forced,
    /// A container restarts; the pod stays.
    Restart,
    /// The network namespace went away.
    Gone,
}

impl Outcome {
    /// Every outcome, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Drained, Self::Busy, Self::Deadline, Self::Forced, Self::Restart, Self::Gone];
}

/// What to do, given all that is known. Never an answer before the pod has settled, but for the ends that
/// no settling changes.
pub fn decide(contract: &Contract, at: &Circumstances, view: &View, now: Moment) -> Decision {
    let answer = |outcome| {
        let awaited = if outcome == Outcome::Drained { 0 } else { view.awaited };
        Decision::Answer(Verdict { outcome, awaited, open: view.open })
    };
    if at.namespace_gone {
        return answer(Outcome::Gone);
    }
    if at.pod_gone {
        return answer(Outcome::Forced);
    }
    if now >= at.deadline {
        return answer(Outcome::Deadline);
    }
    if at.restart {
        return answer(Outcome::Restart);
    }
    let wait = |until: Moment, why| Decision::Wait { until: until.min(at.deadline), why };

    let settle = settle(contract, at, view);
    let settled = settle.settled(at.began, view);
    if now < settled {
        // Clients that stay away may prove it sooner.
        let sooner = view.missed_next.filter(|m| *m > now && at.others_ready.is_some());
        return wait(settled.min(sooner.unwrap_or(settled)), Waiting::Settling(settle));
    }
    if contract.until == Until::Settled || view.awaited == 0 {
        return match confirmation(contract, at, view, settled) {
            Confirmation::Given => answer(Outcome::Drained),
            Confirmation::NotBefore(moment) if now < moment => {
                wait(moment.min(now + POLL), Waiting::Incomplete(view.completeness))
            }
            Confirmation::NotBefore(_) | Confirmation::ByAnotherLook => match at.dumps {
                Dumps::Failing => wait(now + RETRY, Waiting::Dumps),
                _ if view.interrupted.is_some_and(|at| now < at + LOOK_AGAIN) => {
                    wait(now + LOOK_AGAIN, Waiting::Dumps)
                }
                Dumps::Possible | Dumps::Impossible => Decision::Confirm,
            },
            Confirmation::Never => wait(at.deadline, Waiting::Incomplete(view.completeness)),
        };
    }
    if let Some(begins) = stall_begins(contract, view, settled).filter(|b| now >= *b) {
        let ends = begins + contract.patience;
        let quiet = view.at_work == 0 && view.read_at.is_some_and(|r| r + INSTANT >= now);
        if quiet || now >= ends {
            return answer(Outcome::Busy);
        }
        return wait(ends.min(now + INSTANT), Waiting::Stalled(view.awaited));
    }
    // What only a dump can end, and something has passed since the last one.
    let look = view.dump_started.unwrap_or_default() + LOOK_AGAIN;
    let stirred = view.awaited_by_dump == view.awaited && Some(view.stirred_at) > view.dump_started;
    if stirred && at.dumps == Dumps::Possible && now >= look {
        return Decision::Confirm;
    }
    let next = [
        view.next_change,
        view.resample.map(|r| now + r),
        stirred.then_some(look),
        stall_begins(contract, view, settled),
        view.being_told_until,
        (!at.observed_by_kernel || !view.complete()).then(|| now + POLL),
    ];
    let next = next.into_iter().flatten().filter(|m| *m > now).min();
    wait(next.unwrap_or(at.deadline), Waiting::Connections(view.awaited))
}

/// When a closed loop of clients, if it is one, will have shown its patience.
///
/// Not while a last call is under way: clients that have been told go, most of them after the answer that
/// told them. It cannot hold a drain for ever: who has been told has `patience` to go, who cannot be told
/// has five exchanges ([`crate::ledger::Call`]).
fn stall_begins(contract: &Contract, view: &View, settled: Moment) -> Option<Moment> {
    let may = view.closed_loop && view.being_told == 0 && contract.until != Until::Closed;
    may.then(|| settled.max(view.last_left.unwrap_or_default()) + contract.patience)
}
