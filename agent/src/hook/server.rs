//! The hook's server: HTTP/1.1, one request a connection, everything bounded but the wait itself.
//!
//! In: connections from [`Listeners`], and those that an earlier agent wrote down. Out: calls at the
//! [`Desk`]. Each connection is a task; a task that dies while its hook is held has lost nothing:
//! the connection is taken back from its record within [`Limits::take_back`].

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Callee, Desk},
    held::{HeldError, HeldKey, HeldStore, Returned},
    listen::Listeners,
};

mod running;

use running::Running;

/// What the server puts up with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to the end of the request's head.
    pub header: Duration,
    /// The request's head, bytes; hyper's least is 8 KiB.
    pub header_bytes: usize,
    /// A status page.
    pub status: Duration,
    /// From the answer until the caller has taken it.
    pub farewell: Duration,
    /// Hooks of one pod held at once: one for each container, and the kubelet may send each twice.
    pub hooks_per_pod: usize,
    /// Connections of the kubelet served at once. More wait their turn: to turn one away would be
    /// SIGTERM for a pod.
    pub hooks: usize,
    /// Connections of everybody else. More are turned away.
    pub guests: usize,
    /// How often to look for hooks that another agent held and does not any more.
    pub take_back: Duration,
    /// For how long the door stays open after the presence has closed: a call that was aimed at it
    /// just before arrives within this. And for how long it is still looked at when it lets nobody in any
    /// more: by then a handshake that had begun is over.
    pub last_orders: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(5),
            header_bytes: 8 * 1024,
            status: Duration::from_secs(10),
            farewell: Duration::from_secs(2),
            hooks_per_pod: 64,
            hooks: 1024,
            guests: 128,
            take_back: Duration::from_secs(1),
            last_orders: Duration::from_millis(100),
        }
    }
}

/// The hook's server.
#[derive(Debug)]
pub struct HookServer<D>(Arc<Shared<D>>);

/// What every connection's task needs.
pub(super) struct Shared<D> {
    pub(super) desk: Arc<D>,
    pub(super) store: Arc<dyn HeldStore>,
    pub(super) limits: Limits,
    /// Held hooks, by pod.
    pub(super) places: Mutex<HashMap<Callee, usize>>,
    /// Held hooks, all.
    pub(super) held: watch::Sender<usize>,
    /// Connections that this process serves. To take one of them back would fail as it must, but cost.
    own: Mutex<HashSet<HeldKey>>,
    said: AtomicBool,
}

impl<D> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D> Shared<D> {
    /// What keeps hooks from outliving the process is the same for all of them.
    pub(super) fn say_once(&self, error: &HeldError) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "held hooks will not survive this process"
            );
        }
    }
}

impl<D: Desk> HookServer<D> {
    /// A server that answers as `desk` says and writes held hooks into `store`.
    pub fn new(desk: Arc<D>, store: Arc<dyn HeldStore>, limits: Limits) -> Self {
        Self(Arc::new(Shared {
            desk,
            store,
            limits,
            places: Mutex::default(),
            held: watch::Sender::new(0),
            own: Mutex::default(),
            said: AtomicBool::new(false),
        }))
    }

    /// How many hooks are held. An agent that is told to stop waits for zero, or for its grace.
    pub fn held(&self) -> watch::Receiver<usize> {
        self.0.held.subscribe()
    }

    /// Goes on with what an earlier agent held, then serves until `stop`.
    ///
    /// Then: nobody is home any more; what was accepted is still read; hooks that are held are left as
    /// state, without a word to the kubelet (without TCP_REPAIR: they end here). Returns when that is done.
    pub async fn serve(self, mut listeners: Listeners, returned: Returned, stop: CancellationToken) {
        let last_orders = self.0.limits.last_orders;
        let mut running = Running::new(self.0);
        running.take_in(returned);
        running.accept_until(&mut listeners, stop.cancelled()).await;
        running.admit_all(listeners.close_presence());
        running.accept_until(&mut listeners, sleep(last_orders)).await;
        listeners.shut();
        running.accept_until(&mut listeners, sleep(last_orders)).await;
        running.admit_all(listeners.close());
        running.finish().await;
    }
}

#[cfg(test)]
mod tests;
