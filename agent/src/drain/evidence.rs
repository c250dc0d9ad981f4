//! Gathers what tells a stop from a restart, for one drain.
//!
//! In: the drain's hooks, the sources' news, the API server's answers. Out: a judgement that may change
//! once more: a sign that comes late still counts. Nothing waits for it: the drain runs meanwhile.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Drain,
    restart::{Evidence, Judgement, SIBLINGS, UNDECIDED, UNKNOWN_MOST, Why, judge},
};
use crate::{
    cluster::{
        PodFacts,
        api::{Live, live},
    },
    moment::Moment,
};

/// Events reach the API server some milliseconds after the hook; they are looked for again.
const AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(500)];
/// And then, for as long as nobody knows, this often.
const LATER: Duration = Duration::from_secs(2);
/// Events that have told of a restart once; the oldest are forgotten.
const SPENT_MAX: usize = 1024;

/// Who is asked, and what was concluded from before.
pub struct Witnesses {
    live: Arc<Live>,
    /// An Event is of one kill, and so tells of one restart.
    spent: Mutex<BTreeSet<(String, i32)>>,
}

impl Witnesses {
    /// By an API server.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, spent: Mutex::default() }
    }

    fn spend(&self, ids: Vec<(String, i32)>) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= SPENT_MAX {
            spent.clear();
        }
        spent.extend(ids);
    }

    fn is_spent(&self, id: &(String, i32)) -> bool {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    async fn ask(&self, known: &mut Evidence, facts: &PodFacts) {
        let (pod, node, events) = tokio::join!(
            self.live.pod(&facts.name, &facts.uid),
            self.live.this_node(),
            self.live.events(&facts.name, &facts.uid),
        );
        let lost = |error: &live::Error| matches!(error, live::Error::Unreachable(_));
        known.unreachable |=
            pod.is_err() || node.as_ref().is_err_and(lost) || events.as_ref().is_err_and(lost);
        if let Ok(pod) = pod {
            known.stops |= pod.stops;
            known.started = pod.started;
        }
        known.node = node.ok();
        known.events = events.unwrap_or_default();
        known.events.retain(|event| !self.is_spent(&event.id));
    }
}

/// Whether the pod stops, as one drain knows it.
pub(super) struct Stop {
    judgement: watch::Receiver<Judgement>,
    began: Moment,
}

impl Stop {
    /// Looks from now on, where there is somebody to ask.
    pub(super) fn watch(drain: &Arc<Drain>, witnesses: Option<&Arc<Witnesses>>) -> Self {
        let (says, judgement) = watch::channel(Judgement::Looking);
        if let Some(witnesses) = witnesses {
            tokio::spawn(gather(Arc::clone(drain), Arc::clone(witnesses), says));
        }
        Self { judgement, began: drain.began }
    }

    /// The judgement is another; never, where nobody looks any more.
    pub(super) async fn changed(&mut self) {
        if self.judgement.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Only a container restarts.
    pub(super) fn is_restart(&self) -> bool {
        matches!(*self.judgement.borrow(), Judgement::Restart(_))
    }

    /// The node shuts down: pods have less than their grace.
    pub(super) fn is_shutdown(&self) -> bool {
        *self.judgement.borrow() == Judgement::Stop(Why::Shutdown)
    }

    /// By when to answer, where nobody knows which it is.
    pub(super) fn bound(&self) -> Option<Moment> {
        (*self.judgement.borrow() == Judgement::Unknown).then(|| self.began + UNKNOWN_MOST)
    }
}

async fn gather(drain: Arc<Drain>, witnesses: Arc<Witnesses>, says: watch::Sender<Judgement>) {
    let came = Moment::now();
    let mut pauses = [SIBLINGS].into_iter().chain(AGAIN).chain(std::iter::repeat(LATER));
    let mut known = Evidence {
        stops: false,
        killable: true,
        hooks: 0,
        unreachable: false,
        node: None,
        events: Vec::new(),
        started: Default::default(),
        hooked: Vec::new(),
        waited: Duration::ZERO,
    };
    while known.waited < UNKNOWN_MOST {
        tokio::time::sleep(pauses.next().unwrap_or(LATER)).await;
        if drain.progress.borrow().verdict.is_some() {
            return;
        }
        known.waited = Moment::now().since(came);
        // A pod that no source knows cannot be asked for: it is stopping, for all that anybody knows.
        let Some(facts) = drain.identity().facts else {
            if known.waited >= UNDECIDED {
                return;
            }
            continue;
        };
        known.stops |= facts.terminating.is_some();
        known.hooks = known.hooks.max(drain.hooks_waiting());
        known.killable = facts.killable_by_probe;
        known.hooked = facts.hooks.iter().map(|(container, _)| container.clone()).collect();
        if matches!(judge(&known), Judgement::Looking | Judgement::Unknown | Judgement::Restart(_)) {
            witnesses.ask(&mut known, &facts).await;
        }
        let judgement = judge(&known);
        match &judgement {
            Judgement::Looking => continue,
            Judgement::Unknown => {
                tracing::debug!(pod = %drain, "no sign of a restart, and none of a stop");
            }
            Judgement::Restart(ids) => {
                witnesses.spend(ids.clone());
                tracing::info!(pod = %drain, "a container restarts");
            }
            Judgement::Stop(why) => tracing::debug!(pod = %drain, "the pod stops: {why}"),
        }
        let last = judgement != Judgement::Unknown;
        says.send_if_modified(|before| std::mem::replace(before, judgement.clone()) != judgement);
        if last {
            return;
        }
    }
}
