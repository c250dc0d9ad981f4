//! What all drains share: the kernel, the namespaces, and the pace at which links are attached to.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{evidence::Witnesses, happened::Listener, wake::Wake};
use crate::{
    cluster::Cluster,
    contract::{Calls, Contract},
    kernel::{Attach, LastCall, Observer, observer::PodNumber},
    sockets::{Namespaces, OpeningRates},
};

/// Bounds that the cluster's operator sets.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Grace of a pod of which nothing says it.
    pub default_grace: Duration,
    /// Longest drain.
    pub max_drain: Option<Duration>,
    /// What a node's shutdown leaves to its pods.
    pub node_shutdown: Option<Duration>,
    /// Shortest settle.
    pub min_settle: Duration,
    /// How long a hook is held of whose pod nothing can be seen: as long as without an agent.
    pub nobody_home_wait: Duration,
}

/// What all drains share.
pub struct Services {
    /// Who is Terminating.
    pub cluster: Cluster,
    /// Who tells a stop from a restart, where there is an API server.
    pub witnesses: Option<Arc<Witnesses>>,
    /// The kernel programs, where there are any.
    pub observer: Option<Arc<Observer>>,
    /// Tells clients to leave, where the kernel can.
    pub announcer: Option<Arc<LastCall>>,
    /// Why it cannot, for people.
    pub no_announcer: Option<String>,
    /// The node's network namespaces.
    pub namespaces: Namespaces,
    /// How often each pod was connected to before its drain.
    pub rates: OpeningRates,
    /// How to attach.
    pub attach: AttachChoice,
    /// In what pace.
    pub paces: Paces,
    /// Paths of health checks, beside those of the pods' own probes.
    pub health_paths: Vec<String>,
    /// Sources that do not keep a pod unsettled.
    pub ignored: Vec<IpNet>,
    /// The contract of a hook that asks for nothing.
    pub contract: Contract,
    /// The operator's bounds.
    pub bounds: Bounds,
    /// Whose clients may be told to leave.
    pub last_call: Calls,
    /// How long it takes until each of a pod's clients has had its turn to be told.
    pub told_within: Duration,
    /// Told of everything that happens.
    pub listener: Listener,
    /// Whom to wake at an edge event of a pod.
    pub wakes: Mutex<HashMap<PodNumber, Arc<Wake>>>,
}

impl Services {
    /// Whom to wake at an edge event of a pod.
    pub fn wakes(&self) -> MutexGuard<'_, HashMap<PodNumber, Arc<Wake>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No drain yet.
    pub fn no_wakes() -> Mutex<HashMap<PodNumber, Arc<Wake>>> {
        Mutex::default()
    }

    /// This source's connections do not keep a pod unsettled.
    pub fn ignores(&self, peer: IpAddr) -> bool {
        self.ignored.iter().any(|net| net.contains(&peer))
    }
}

/// TCX or clsact, or neither.
pub struct AttachChoice {
    wanted: Option<Attach>,
    auto: bool,
    tcx_missing: AtomicBool,
}

impl AttachChoice {
    /// `best`, and clsact where TCX is refused all the same.
    pub fn auto(best: Attach) -> Self {
        let tcx_missing = AtomicBool::new(best == Attach::Clsact);
        Self { wanted: Some(Attach::Tcx), auto: true, tcx_missing }
    }

    /// One way only, or none.
    pub fn only(how: Option<Attach>) -> Self {
        Self { wanted: how, auto: false, tcx_missing: AtomicBool::new(false) }
    }

    /// Nothing is attached to anything.
    pub fn is_none(&self) -> bool {
        self.wanted.is_none()
    }

    /// The way to try now. A crowd goes by clsact, which holds the RTNL lock for less.
    pub fn choose(&self, crowd: bool) -> Attach {
        match self.wanted {
            Some(Attach::Tcx) if self.auto && (crowd || self.tcx_missing.load(Ordering::Relaxed)) => {
                Attach::Clsact
            }
            Some(how) => how,
            None => Attach::Clsact,
        }
    }

    /// Where TCX is refused, clsact may be tried.
    pub fn may_fall_back(&self) -> bool {
        self.auto
    }

    /// The kernel has no TCX: do not try again.
    pub fn no_tcx(&self) {
        self.tcx_missing.store(true, Ordering::Relaxed);
    }

    /// For people.
    pub fn describe(&self) -> &'static str {
        match self.wanted {
            None => "none",
            Some(_) if self.choose(false) == Attach::Tcx => "tcx",
            Some(_) => "clsact",
        }
    }
}

/// Attaches one at a time, and leaves the RTNL lock alone as long as it was held: the CNI of other
/// pods waits for the same lock.
pub struct Paces {
    waiting: Arc<AtomicUsize>,
    turn: Arc<Semaphore>,
}

impl Default for Paces {
    fn default() -> Self {
        Self { waiting: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// More than this many at once are a crowd.
const CROWD: usize = 8;
/// The longest rest between two.
const REST: Duration = Duration::from_millis(20);

impl Paces {
    /// Waits for the turn.
    pub async fn enter(&self) -> Place {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let leave = Leave(Arc::clone(&self.waiting));
        let permit = Arc::clone(&self.turn).acquire_owned().await.ok();
        Place { leave, permit, crowded: before >= CROWD, since: Instant::now() }
    }
}

struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The turn, until dropped.
pub struct Place {
    leave: Leave,
    permit: Option<OwnedSemaphorePermit>,
    crowded: bool,
    since: Instant,
}

impl Place {
    /// Many wait.
    pub fn crowded(&self) -> bool {
        self.crowded
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if self.leave.0.load(Ordering::Relaxed) <= 1 {
            return; // Nobody waits.
        }
        let rest = self.since.elapsed().min(REST);
        tokio::spawn(async move {
            tokio::time::sleep(rest).await;
            drop(permit);
        });
    }
}
