//! What the hook server needs from the rest of the agent.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    answer::{Answer, Reply},
    fault::Fault,
    held::{HeldRecord, HeldStore},
    identity::{Page, Workload},
};
use crate::{cluster::PodName, contract::Contract, moment::Moment};

/// The answering side.
pub trait Desk: Send + Sync + 'static {
    /// The contract of a hook that asks for nothing.
    fn defaults(&self) -> Contract {
        Contract::default()
    }

    /// The address that the kubelet dialled when the connect program wrote these 24 bits.
    fn dialled(&self, bits: u32) -> Option<IpAddr>;

    /// Whether the connection from `peer` to `local` was opened by the kubelet.
    ///
    /// Asked once for each connection as it is accepted. Any process of the node's network can
    /// connect to `240.x.y.z` by itself; only the kubelet's own sockets speak for the pod that
    /// `xyz` names. Must not block for long.
    fn is_kubelet(&self, peer: SocketAddr, local: SocketAddr) -> bool;

    /// Waits for the pod's drain, starting or joining it.
    ///
    /// Has to answer by the deadline: nothing else ends the call, the kubelet never hangs up. The
    /// future is dropped where the caller has gone; the drain goes on without it.
    fn drain(&self, call: Call) -> impl Future<Output = Answer> + Send;

    /// Counts what was wrong with a request.
    fn fault(&self, fault: Fault);

    /// A page for a caller on 127.0.0.1.
    fn status(&self, request: StatusRequest) -> impl Future<Output = Reply> + Send;
}

/// A request for a status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// Which.
    pub page: Page,
    /// The query as it came, without `?`.
    pub query: String,
}

/// The pod that a hook is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Callee {
    /// Named by the kernel: the kubelet dialled it.
    Dialled {
        /// The key in the map of dials.
        bits: u32,
        /// The address that was dialled. `None`: the map has forgotten it; the caller is the kubelet
        /// all the same, so an answer at once would be SIGTERM at once for some pod.
        pod: Option<IpAddr>,
    },
    /// Named by a path, which is the caller's word alone: it may wait for a drain that runs, and start
    /// one only for a pod whose own spec has this hook (hostNetwork).
    Named(PodName),
    /// Named by a path too: all pods of a workload that are Terminating here.
    Workload(Workload),
}

/// One hook, to be answered when its pod has drained.
#[derive(Clone, Debug)]
pub struct Call {
    /// For which pod.
    pub callee: Callee,
    /// The kubelet's own connection. Always so for [`Callee::Dialled`]; where it is not, the call
    /// may wait for a drain and must neither start nor change one.
    pub from_kubelet: bool,
    /// The query as it came, without `?`.
    pub query: String,
    /// What the query asks for. Where the API has the pod, its spec's own path is worth more.
    pub contract: Contract,
    /// What was not understood or odd; already in the log and in the answer.
    pub warnings: Vec<String>,
    /// When the hook arrived, in this agent's life or in an earlier one's.
    pub began: Moment,
    /// The deadline that an earlier agent had found for it.
    pub deadline: Option<Moment>,
    /// Where the deadline is written down for the next agent.
    pub book: Book,
}

/// The held hook's entry in the [`HeldStore`], for as long as the hook is held.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Option<Entry>>>);

struct Entry {
    store: Arc<dyn HeldStore>,
    record: HeldRecord,
}

impl Book {
    /// A hook that nothing is written down of.
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    pub(super) fn open(store: Arc<dyn HeldStore>, record: HeldRecord) -> io::Result<Self> {
        store.save(&record)?;
        Ok(Self(Arc::new(Mutex::new(Some(Entry { store, record })))))
    }

    /// Writes the deadline down, so that an agent which restores this hook keeps it: the grace began
    /// when this one saw it. Without effect once the hook has been answered.
    pub fn deadline(&self, deadline: Moment) {
        let mut entry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Entry { store, record }) = entry.as_mut() else { return };
        record.deadline = deadline.0;
        if let Err(error) = store.save(record) {
            tracing::warn!(%error, "a held hook's deadline could not be saved");
        }
    }

    /// The hook is not held any more.
    pub(super) fn close(&self) {
        if let Some(Entry { store, record }) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            store.remove(&record.key());
        }
    }
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Book")
    }
}
