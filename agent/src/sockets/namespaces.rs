//! The node's network namespaces: which there are, which has an address, a way into each.
//!
//! In: a directory of namespace files, changes of it, addresses. Out: [`Namespace`]s.

use std::{
    fs::File,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    directory::{self, Listing},
    error::{Error, Result},
    index::Index,
    links,
    namespace::{Namespace, Place},
    thread::{Thread, Visitor},
    watch::Watch,
};

/// Where container runtimes and `ip netns` keep them.
pub const DIRECTORY: &str = "/run/netns";

/// All network namespaces of the node. Cheap to clone; all clones share the one thread that enters
/// namespaces.
///
/// Idle, it holds paths, inodes and addresses and no namespace open: a pod that goes is gone.
#[derive(Clone, Debug)]
pub struct Namespaces {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) thread: Thread,
    pub(super) listing: watch::Sender<Arc<Listing>>,
    directory: PathBuf,
    home_inode: u64,
    home_cookie: Option<u64>,
    index: Mutex<Index>,
    _watch: DropGuard,
}

impl Namespaces {
    /// Starts the thread and watches the directory, which may be missing and appear later. To be
    /// called in the node's namespace, within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Start`] and [`Error::Watch`], both fatal.
    pub fn start(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let thread = Thread::start()?;
        let home_inode = thread.home.metadata().map_err(Error::Start)?.ino();
        let home_cookie = thread.run_blocking("node", |_| Ok(super::cookie::of_this_thread()))?;
        // Watch first, read second: what comes in between is seen.
        let watch = Watch::start(&directory)?;
        let listing = watch::Sender::new(Arc::new(directory::list(&directory, home_inode)));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            thread,
            listing,
            directory,
            home_inode,
            home_cookie,
            index: Mutex::default(),
            _watch: stop.clone().drop_guard(),
        });
        tokio::spawn(stop.run_until_cancelled_owned(follow(Arc::downgrade(&shared), watch)));
        Ok(Self { shared })
    }

    /// The node's own namespace: where hostNetwork pods and the kubelet listen.
    pub fn node(&self) -> Namespace {
        let shared = &self.shared;
        Namespace::new(
            Arc::clone(shared),
            Place::Node,
            shared.home_inode,
            shared.home_cookie,
            Arc::clone(&shared.thread.home),
        )
    }

    /// All namespaces but the node's. Each is held open until dropped: look, and let go.
    ///
    /// One that goes while the list is made is left out.
    ///
    /// # Errors
    /// [`Error::NoAnswer`].
    pub async fn list(&self) -> Result<Vec<Namespace>> {
        let shared = Arc::clone(&self.shared);
        let opened = self
            .shared
            .thread
            .run(move |visitor| {
                let listing = shared.refresh();
                Ok(listing.iter().filter_map(|(p, i)| attempt(p, Opened::new(visitor, p, *i))).collect())
            })
            .await;
        opened.map(|all: Vec<_>| all.into_iter().map(|o| o.namespace(&self.shared)).collect())
    }

    /// The namespace, other than the node's, that has this address on one of its links (loopback
    /// addresses and IPv6 link-local ones stand for no pod). The answer is read from the namespace
    /// now, never from memory: an address is given to the next pod.
    ///
    /// Reads the directory (0.5 ms for 110 pods) and visits those that had the address, are new, or had
    /// no address at all; where none of these has it, all others too (5 ms for 110).
    ///
    /// # Errors
    /// [`Error::Ambiguous`] where several have it; [`Error::NoAnswer`]. A namespace that cannot be
    /// entered is logged and passed over.
    pub async fn find(&self, address: IpAddr) -> Result<Option<Namespace>> {
        let shared = Arc::clone(&self.shared);
        let opened = self.shared.thread.run(move |visitor| shared.search(visitor, address.to_canonical()));
        Ok(opened.await?.map(|o| o.namespace(&self.shared)))
    }

    /// Waits until the directory's namespaces change.
    pub async fn changed(&self) {
        // The sender lives as long as `self`.
        let _ = self.listing().changed().await;
    }

    /// Runs `f` on the thread inside the namespace: for what must be done there and cannot be handed
    /// out as a descriptor (attaching to a link). Others wait meanwhile, so keep it short. `f` must
    /// not block on [`Namespace`]'s own blocking calls, and a thread or process that it starts stays
    /// inside.
    ///
    /// # Errors
    /// [`Error::Enter`]; [`Error::Panicked`] where `f` panics.
    pub async fn within<T: Send + 'static>(
        &self,
        namespace: &Namespace,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        namespace.within(f).await
    }

    /// What there is, for those in this module who follow it.
    pub(super) fn listing(&self) -> watch::Receiver<Arc<Listing>> {
        self.shared.listing.subscribe()
    }

    /// Runs `f` on the thread, in no other namespace than its own.
    #[cfg(test)]
    pub(super) async fn on_the_thread<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.shared.thread.run(|_| Ok(f())).await
    }

    /// Reads the TCP counter of a listed namespace without keeping it open.
    pub(super) async fn passive_opens(&self, path: PathBuf, inode: u64) -> Result<u64> {
        self.shared
            .thread
            .run(move |visitor| {
                let file = open(&path, inode)?;
                let name = path.display().to_string();
                visitor
                    .visit(&file, &name, super::counters::passive_opens)?
                    .map_err(|source| Error::Counters { namespace: name, source })
            })
            .await
    }
}

impl Shared {
    /// Reads the directory and tells everybody who waits for a change.
    fn refresh(&self) -> Arc<Listing> {
        let listing = Arc::new(directory::list(&self.directory, self.home_inode));
        self.listing.send_if_modified(|known| {
            let changed = **known != *listing;
            *known = Arc::clone(&listing);
            changed
        });
        listing
    }

    /// Runs on the thread.
    fn search(&self, visitor: &Visitor, address: IpAddr) -> Result<Option<Opened>> {
        // Only the thread locks it, one job at a time; a panic leaves at worst an old address.
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = self.refresh();
        index.retain(&listing);
        let (likely, others): (Vec<_>, Vec<_>) =
            listing.iter().partition(|(path, _)| index.may_hold(path, address));
        for group in [likely, others] {
            let mut holders: Vec<Opened> = group
                .into_iter()
                .filter_map(|(path, inode)| {
                    let opened = attempt(path, Opened::new(visitor, path, *inode))?;
                    let addresses = attempt(path, opened.addresses(visitor))?;
                    let holds = addresses.contains(&address);
                    index.set(path, *inode, addresses);
                    holds.then_some(opened)
                })
                .collect();
            if holders.len() > 1 {
                let paths = holders.into_iter().map(|holder| holder.path).collect();
                return Err(Error::Ambiguous { address, paths });
            }
            if let Some(holder) = holders.pop() {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }
}

/// A namespace that was opened and visited on the thread, on its way out.
struct Opened {
    path: PathBuf,
    inode: u64,
    cookie: Option<u64>,
    file: File,
}

impl Opened {
    fn new(visitor: &Visitor, path: &Path, inode: u64) -> Result<Self> {
        let file = open(path, inode)?;
        let cookie = visitor.visit(&file, &path.display().to_string(), super::cookie::of_this_thread)?;
        Ok(Self { path: path.into(), inode, cookie, file })
    }

    fn addresses(&self, visitor: &Visitor) -> Result<Vec<IpAddr>> {
        let name = self.path.display().to_string();
        visitor.visit(&self.file, &name, links::addresses_here)?.map_err(|source| Error::Netlink {
            operation: "list addresses",
            namespace: name,
            source,
        })
    }

    fn namespace(self, shared: &Arc<Shared>) -> Namespace {
        let Self { path, inode, cookie, file } = self;
        Namespace::new(Arc::clone(shared), Place::File(path), inode, cookie, Arc::new(file))
    }
}

fn open(path: &Path, inode: u64) -> Result<File> {
    directory::open(path, inode).map_err(|source| Error::Open { path: path.into(), source })
}

/// Passes over a namespace that fails: mostly it has just gone, and no other should suffer for it.
fn attempt<T>(path: &Path, result: Result<T>) -> Option<T> {
    match result {
        Ok(t) => Some(t),
        Err(Error::Open { .. }) => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "namespace passed over");
            None
        }
    }
}

/// Keeps the listing up to date until the last handle has gone.
async fn follow(shared: Weak<Shared>, mut watch: Watch) {
    loop {
        if let Err(error) = watch.changed().await {
            // Lookups go on reading the directory; only news of it comes late.
            tracing::error!(error = &error as &dyn std::error::Error, "namespaces are no longer watched");
            return;
        }
        let Some(shared) = shared.upgrade() else { return };
        let job = Arc::clone(&shared);
        if shared.thread.run(move |_| Ok(job.refresh())).await.is_err() {
            return;
        }
    }
}
