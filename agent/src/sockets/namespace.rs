//! One network namespace, held open.
//!
//! In: questions about its links, sockets and counters. Out: answers, over netlink sockets that were
//! opened inside and are used from any thread.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    directory,
    error::{Error, Result},
    namespaces::Shared,
    wire::{Wire, WireError},
};

/// How often something that changes while it is dumped is dumped again.
const ATTEMPTS: usize = 4;
/// How often a namespace that has no file of its own is looked for among the processes.
const PROCESS_CHECK: Duration = Duration::from_secs(1);

/// A network namespace. Cheap to clone; the clones share its netlink sockets.
///
/// **Holding one keeps the namespace alive**, with its links, addresses and connections, after its
/// pod has gone: through the open file, and through the netlink sockets. Whoever holds one for longer
/// than a question waits for [`Namespace::gone`] too, and drops it then.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    place: Place,
    name: String,
    inode: u64,
    cookie: Option<u64>,
    file: Arc<File>,
    sock_diag: Mutex<Option<Wire>>,
    route: Mutex<Option<Wire>>,
}

/// How a namespace was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The thread started in it.
    Node,
    /// Its file in the directory, or that of one of its processes.
    File(PathBuf),
}

impl Namespace {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        inode: u64,
        cookie: Option<u64>,
        file: Arc<File>,
    ) -> Self {
        let name = match &place {
            Place::Node => "node".into(),
            Place::File(path) => path.display().to_string(),
        };
        let (sock_diag, route) = Default::default();
        Self { inner: Arc::new(Inner { shared, place, name, inode, cookie, file, sock_diag, route }) }
    }

    /// Its inode in nsfs, as `ls -i` and `lsns` show it. Used again once the namespace is gone.
    pub fn inode(&self) -> u64 {
        self.inner.inode
    }

    /// `SO_NETNS_COOKIE`, what `bpf_get_netns_cookie` gives; never used again. None before Linux 5.14.
    pub fn cookie(&self) -> Option<u64> {
        self.inner.cookie
    }

    /// Its file; none for the node's own.
    pub fn path(&self) -> Option<&Path> {
        match &self.inner.place {
            Place::Node => None,
            Place::File(path) => Some(path),
        }
    }

    /// Its path, or "node": for messages.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// It is the node's own.
    pub fn is_node(&self) -> bool {
        self.inner.place == Place::Node
    }

    /// Its file has gone, or stands for another namespace by now; for one found by its processes: all
    /// have ended. The node's own never goes.
    pub fn is_gone(&self) -> bool {
        let Some(path) = self.path() else { return false };
        directory::inode(path) != Some(self.inode())
            && !(is_process(path) && directory::has_process(self.inode()))
    }

    /// Ends when [`Namespace::is_gone`]. An event, for namespaces with a file; for the others, looked
    /// for every second.
    pub async fn gone(&self) {
        let Some(path) = self.path() else { return std::future::pending().await };
        let mut listing = self.inner.shared.listing.subscribe();
        while !self.is_gone() {
            if is_process(path) {
                tokio::time::sleep(PROCESS_CHECK).await;
            } else if listing.changed().await.is_err() {
                // Impossible: the sender lives in `shared`.
                return std::future::pending().await;
            }
        }
    }

    /// Runs `f` on the thread inside this namespace; see [`super::Namespaces::within`].
    ///
    /// # Errors
    /// [`Error::Enter`]; [`Error::Panicked`] where `f` panics.
    pub async fn within<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let file = Arc::clone(&self.inner.file);
        let name = self.inner.name.clone();
        self.inner.shared.thread.run(move |visitor| visitor.visit(&file, &name, f)).await
    }

    /// The same for a caller that may block.
    pub(super) fn within_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let file = Arc::clone(&self.inner.file);
        let name = self.inner.name.clone();
        self.inner.shared.thread.run_blocking(&self.inner.name, move |visitor| visitor.visit(&file, &name, f))
    }

    /// `TcpPassiveOpens` (RFC 4022) of the namespace: connections accepted since it was made. Counts
    /// what has reached ESTABLISHED, whether or not the application has accepted it.
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Counters`].
    pub async fn passive_opens(&self) -> Result<u64> {
        self.within(super::counters::passive_opens)
            .await?
            .map_err(|source| Error::Counters { namespace: self.inner.name.clone(), source })
    }

    /// Asks over the sock_diag socket; see [`Namespace::ask`].
    pub(super) fn ask_sock_diag<T>(
        &self,
        operation: &'static str,
        question: impl FnMut(&mut Wire) -> Result<(T, bool), WireError>,
    ) -> Result<(T, bool)> {
        self.ask(&self.inner.sock_diag, libc::NETLINK_SOCK_DIAG, operation, question)
    }

    /// Asks over the route socket; see [`Namespace::ask`].
    pub(super) fn ask_route<T>(
        &self,
        operation: &'static str,
        question: impl FnMut(&mut Wire) -> Result<(T, bool), WireError>,
    ) -> Result<(T, bool)> {
        self.ask(&self.inner.route, libc::NETLINK_ROUTE, operation, question)
    }

    /// Asks over a socket, opened inside at its first use and after each failure. Asks again, a bounded
    /// number of times, where the answer was interrupted by a change or lost; the last answer is given
    /// with whether it was interrupted too.
    fn ask<T>(
        &self,
        slot: &Mutex<Option<Wire>>,
        protocol: libc::c_int,
        operation: &'static str,
        mut question: impl FnMut(&mut Wire) -> Result<(T, bool), WireError>,
    ) -> Result<(T, bool)> {
        // One exchange at a time. A panic in one leaves answers behind: hence the new socket.
        let mut slot = slot.lock().unwrap_or_else(|poisoned| {
            let mut slot = PoisonError::into_inner(poisoned);
            *slot = None;
            slot
        });
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == ATTEMPTS;
            let mut wire = match slot.take() {
                Some(wire) => wire,
                None => self
                    .within_blocking(move || Wire::open(protocol))?
                    .map_err(|e| self.failed(operation, WireError::Io(e)))?,
            };
            match question(&mut wire) {
                Ok((_, true)) if !last => *slot = Some(wire),
                Ok(answer) => {
                    *slot = Some(wire);
                    return Ok(answer);
                }
                Err(e) if e.is_transient() && !last => {
                    // A truncated answer was read to its end, and the buffer has grown.
                    if matches!(e, WireError::Truncated) {
                        *slot = Some(wire);
                    }
                }
                Err(e) => return Err(self.failed(operation, e)),
            }
        }
    }

    fn failed(&self, operation: &'static str, e: WireError) -> Error {
        let namespace = self.inner.name.clone();
        match e {
            WireError::Io(source) => Error::Netlink { operation, namespace, source },
            WireError::Malformed(problem) => Error::Malformed { operation, namespace, problem },
            WireError::Truncated => {
                Error::Malformed { operation, namespace, problem: "a message is longer than the buffer" }
            }
        }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({} {})", self.inner.name, self.inner.inode)
    }
}

fn is_process(path: &Path) -> bool {
    path.starts_with("/proc")
}
