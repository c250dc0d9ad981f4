//! One drain: what it promises, when it ends, and the task that runs it.
//!
//! In: a pod that is Terminating, or whose hook calls. Out: a [`Verdict`] for everyone who waits, and
//! what happened after it (late, cut). [`policy`] is pure; `task` looks, asks the
//! policy, and sleeps until something changes; [`registry`] keeps one drain a pod.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{PodFacts, PodName},
    contract::{Audience, Calls, Contract},
    ledger::{Ledger, View},
    moment::Moment,
};

mod announced;
mod evidence;
mod explain;
mod eyes;
mod happened;
mod noise;
mod openings;
mod place;
pub mod policy;
mod probes;
pub mod registry;
mod restart;
mod second_look;
pub mod services;
mod task;
mod verdict;
mod wake;

pub use announced::Announced;
pub use evidence::Witnesses;
pub use happened::{Fallback, Happened, Listener};
pub use registry::Drains;
pub use services::{AttachChoice, Bounds, Paces, Services};
pub use wake::Wake;

use policy::Outcome;

/// How a drain ended, for everyone who waited.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The decision.
    pub outcome: Outcome,
    /// When it was made.
    pub at: Moment,
    /// One sentence for people.
    pub why: String,
    /// What was left.
    pub view: View,
    /// From the kernel's last event (a connection's close) to the decision, where the decision waited
    /// for nothing else.
    pub after_last_close: Option<std::time::Duration>,
    /// The pod was Terminating by then. Where it was not, a container may only have been restarted, and
    /// the pod's real end will be another drain.
    pub terminating: bool,
    /// Its network namespace was found.
    pub seen: bool,
    /// At which ports clients were told to leave.
    pub audience: Audience,
}

/// Where a drain stands.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What it waits for, for people.
    pub waiting_for: String,
    /// What is left, once somebody has looked.
    pub view: Option<View>,
    /// What was chosen for settling and why, for people; empty until somebody has looked.
    pub settle: String,
    /// At which ports clients are told to leave.
    pub audience: Audience,
    /// Why nobody can be told, though somebody asked for it.
    pub unable: Option<String>,
    /// When it will be answered in any case.
    pub deadline: Option<Moment>,
    /// When the grace asks for an answer; later than the deadline where it is not known yet whether the pod
    /// stops.
    pub promise: Option<Moment>,
    /// Why its pod is polled, if it is.
    pub fallback: Option<Fallback>,
    /// How it ended.
    pub verdict: Option<Arc<Verdict>>,
    /// The pod is gone, nothing is watched any more.
    pub over: bool,
}

/// One pod's drain. Shared by its task, the hooks that wait, and the status page.
pub struct Drain {
    /// When its end was seen first: deletion or hook.
    pub began: Moment,
    /// What was asked for.
    pub contract: Contract,
    /// What the kernel rings.
    pub wake: Arc<Wake>,
    identity: Mutex<Identity>,
    ledger: Mutex<Ledger>,
    progress: watch::Sender<Progress>,
    hooks: AtomicU32,
    /// The deadline that an earlier agent had found for one of its hooks: the grace began when that one saw
    /// the pod's end. Nanoseconds as in [`Moment`].
    promised: AtomicU64,
    listener: Listener,
    predecessor: Mutex<Option<Arc<Drain>>>,
    superseded: CancellationToken,
}

/// Whose drain it is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// What the sources say; a hook may be earlier than they.
    pub facts: Option<Arc<PodFacts>>,
    /// Every address that it was called by.
    pub addresses: BTreeSet<IpAddr>,
}

impl Drain {
    fn new(began: Moment, contract: Contract, listener: Listener, predecessor: Option<Arc<Self>>) -> Self {
        Self {
            predecessor: Mutex::new(predecessor),
            superseded: CancellationToken::new(),
            began,
            contract,
            wake: Arc::default(),
            identity: Mutex::default(),
            ledger: Mutex::new(Ledger::new(began)),
            progress: watch::Sender::new(Progress::default()),
            hooks: AtomicU32::new(0),
            promised: AtomicU64::new(u64::MAX),
            listener,
        }
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whose clients are told to leave: what the operator allows and the contract says. A pod whose hook
    /// has called has one, whatever the sources say of it yet.
    fn audience(&self, allowed: Calls, facts: Option<&PodFacts>) -> Audience {
        let hook = self.hooks_waiting() > 0 || facts.is_some_and(|f| !f.hooks.is_empty());
        Audience::of(allowed, self.contract.last_call, hook)
    }

    /// An earlier agent has promised an answer by then.
    fn promise(&self, deadline: Moment) {
        self.promised.fetch_min(deadline.0, Ordering::Relaxed);
    }

    fn promised(&self) -> Moment {
        Moment(self.promised.load(Ordering::Relaxed))
    }

    /// Its name, where the sources know the pod.
    pub fn name(&self) -> Option<PodName> {
        self.identity().facts.map(|f| f.name.clone())
    }

    fn learn(&self, facts: Option<Arc<PodFacts>>, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = facts {
            identity.addresses.extend(facts.addresses.iter().copied());
            identity.facts = Some(facts);
        }
        identity.addresses.extend(addresses);
    }

    /// What is known of its connections.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Hooks that wait.
    pub fn hooks_waiting(&self) -> u32 {
        self.hooks.load(Ordering::Relaxed)
    }

    /// Waits until somebody has looked, and knows by when the grace asks for an answer.
    pub async fn deadline(&self) -> Moment {
        let mut progress = self.progress.subscribe();
        let known = progress.wait_for(|p| p.promise.is_some()).await.map(|p| p.promise);
        match known {
            Ok(Some(deadline)) => deadline,
            // The sender lives in `self`.
            _ => std::future::pending().await,
        }
    }

    /// Waits for the verdict. Dropping the future leaves the drain as it is.
    pub async fn verdict(&self) -> Arc<Verdict> {
        struct Leave<'a>(&'a AtomicU32);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.hooks.fetch_add(1, Ordering::Relaxed);
        let _leave = Leave(&self.hooks);
        // A hook that comes is news to the policy.
        self.wake.removed.notify_one();
        let mut progress = self.progress.subscribe();
        loop {
            if let Some(verdict) = &progress.borrow_and_update().verdict {
                return Arc::clone(verdict);
            }
            if progress.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Another drain of the same pod has begun: this one only watched what came after its verdict.
    async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Ends the watch of an earlier drain of the same pod, so that its addresses are free.
    async fn predecessor_over(&self) {
        let before = self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before {
            before.superseded.cancel();
            before.over().await;
        }
    }

    /// Waits until nothing of the pod is watched any more.
    pub async fn over(&self) {
        let mut progress = self.progress.subscribe();
        // The sender lives in `self`.
        let _ = progress.wait_for(|p| p.over).await;
    }

    fn happened(&self, what: &Happened) {
        (self.listener)(self, what);
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity();
        match (&identity.facts, identity.addresses.first()) {
            (Some(facts), _) => write!(f, "{}", facts.name),
            (None, Some(address)) => write!(f, "pod {address}"),
            (None, None) => f.write_str("a pod without name or address"),
        }
    }
}
