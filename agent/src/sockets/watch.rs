//! Notices namespaces that come and go.
//!
//! In: events. Out: a call of `changed` after each. Two sources, because a namespace appears by two
//! steps: the file is created, of which inotify tells, then the namespace is bound over it, of which
//! only the mount table tells (`poll` on `/proc/self/mountinfo`, fs/namespace.c). Namespaces that go
//! do the same backwards.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use super::error::{Error, Result};

/// The two sources.
pub(super) struct Watch {
    directory: PathBuf,
    entries: Arc<Notify>,
    watcher: RecommendedWatcher,
    /// Device and inode of the directory that is watched; a new one under the same path is not.
    watched: Option<(u64, u64)>,
    mounts: AsyncFd<File>,
}

impl Watch {
    /// Starts watching; what changes from here on is seen. Needs a tokio runtime.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let entries = Arc::new(Notify::new());
        let changed = Arc::clone(&entries);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the directory is an event as well, and must not lead to the next reading.
            let matters = event.map_or(true, |event| {
                event.need_rescan()
                    || matches!(
                        event.kind,
                        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                    )
            });
            if matters {
                changed.notify_one();
            }
        })
        .map_err(|e| Error::Watch { what: directory.display().to_string(), source: io::Error::other(e) })?;
        let table = "/proc/self/mountinfo";
        let mounts = File::open(table)
            .and_then(|file| {
                // SAFETY: the file is owned by the `AsyncFd`, which never gives it away, and gives the
                // same descriptor as long as it lives.
                unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.map_err(io::Error::from)
            })
            .map_err(|source| Error::Watch { what: table.into(), source })?;
        let mut watch = Self { directory: directory.into(), entries, watcher, watched: None, mounts };
        watch.follow();
        Ok(watch)
    }

    /// Ends after the next change. Cancelling loses nothing.
    pub(super) async fn changed(&mut self) -> Result<()> {
        tokio::select! {
            () = self.entries.notified() => {}
            ready = self.mounts.ready(Interest::PRIORITY) => {
                ready
                    .map_err(|source| Error::Watch { what: "/proc/self/mountinfo".into(), source })?
                    .clear_ready();
            }
        }
        self.follow();
        Ok(())
    }

    /// Watches the directory if it has appeared, or has been made anew.
    fn follow(&mut self) {
        let present = fs::metadata(&self.directory).ok().map(|m| (m.dev(), m.ino()));
        if present == self.watched {
            return;
        }
        if self.watched.take().is_some() {
            // Fails where the directory has gone, and the watch with it.
            drop(self.watcher.unwatch(&self.directory));
        }
        if present.is_some() {
            match self.watcher.watch(&self.directory, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = present,
                // The mount table still tells of nearly everything, and lookups read the directory.
                Err(error) => {
                    tracing::warn!(directory = %self.directory.display(), %error, "cannot watch directory");
                }
            }
        }
    }
}
