//! `--endpoints DIR|FILE`: what `kubectl get endpointslices,pods,services -o yaml` prints, in files.
//!
//! In: a file, or the files of a directory that are called `*.yaml`, `*.yml` or `*.json` and not
//! hidden; YAML or JSON by their content; a List, one object, or several documents. Other kinds are
//! ignored. Out: all their objects, anew on every change, by [`Cluster::replace`].
//!
//! **Writers should rename** a complete file into place (`kubectl … > .new && mv .new slices.yaml`), as
//! ConfigMap mounts do. For those that write in place: a file is read when its writer closes it, or
//! has paused for a second, and one that is not understood, or has no document at all, is *broken*: its
//! last good state holds, and it is listed in [`Problems`]. So a half-written file ends no drain. What
//! does take objects away is a complete file without them, or the removal of their file for longer than
//! a second (vim renames the old file before it writes the new one). A directory that vanishes as a
//! whole takes none: that is a lost view, not news of its pods.
//!
//! Of an object that is in two files the last one counts, by the order of the files' names.

mod document;
mod events;
mod files;
mod inotify;
mod parse;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

#[cfg(test)]
pub(in crate::cluster) use self::parse::parse;
pub(crate) use self::parse::{is_blank, plain, split};
use self::{events::Events, files::Files, inotify::Watch};
use super::Cluster;
use crate::moment::Moment;

/// Why the source cannot start. What happens to it later is a [`Problem`], retried and shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// inotify is refused, or its limits (`fs.inotify.max_user_instances`, `…_watches`) are reached.
    #[error("cannot watch {}", path.display())]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// Why it is not.
        source: notify::Error,
    },
    /// The path is relative, and there is no working directory.
    #[error("cannot find {}", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Something that a person should mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub file: PathBuf,
    /// Line and column, from 1, where it is about a place in the text.
    pub at: Option<(u64, u64)>,
    /// What is wrong.
    pub reason: String,
    /// How many objects of the file's last good state still hold.
    pub kept: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What is wrong with the files now; for the status page and the metrics.
#[derive(Clone, Debug)]
pub struct Problems(watch::Receiver<Vec<Problem>>);

impl Problems {
    /// By file name; empty when all is well.
    pub fn list(&self) -> Vec<Problem> {
        self.0.borrow().clone()
    }

    /// Waits until the list is another one. `false`: the source has ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// The source. The files have been read once, and are watched; [`Manifests::run`] follows them.
#[derive(Debug)]
pub struct Manifests {
    events: Arc<Events>,
    state: Arc<Mutex<State>>,
    problems: Problems,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    watch: Watch,
    files: Files,
    cluster: Cluster,
    problems: watch::Sender<Vec<Problem>>,
}

impl Manifests {
    /// Reads what is there into `cluster`. A path that does not exist is waited for. Blocks for as long
    /// as reading the files takes.
    pub fn open(path: &Path, cluster: Cluster) -> Result<Self, Error> {
        let path =
            std::path::absolute(path).map_err(|source| Error::Path { path: path.to_owned(), source })?;
        let events = Arc::new(Events::default());
        // Watched first, read second: what changes in between is read twice rather than never.
        let watch =
            Watch::new(&path, &events).map_err(|source| Error::Watch { path: path.clone(), source })?;
        let files = Files::new(path.clone(), cluster.options());
        let (problems, list) = watch::channel(Vec::new());
        let mut state = State { path, watch, files, cluster, problems };
        state.look(&events, false);
        Ok(Self { events, state: Arc::new(Mutex::new(state)), problems: Problems(list) })
    }

    /// What is wrong with the files.
    pub fn problems(&self) -> Problems {
        self.problems.clone()
    }

    /// Follows the files until it is dropped.
    pub async fn run(self) {
        loop {
            let lost = self.events.next().await;
            let (state, events) = (Arc::clone(&self.state), Arc::clone(&self.events));
            let looking = tokio::task::spawn_blocking(move || lock(&state).look(&events, lost));
            if let Err(error) = looking.await {
                tracing::error!(%error, "reading manifests was cut short; their last state holds");
            }
        }
    }
}

impl State {
    /// One look at everything. `lost`: events or watches were, so begin with new ones.
    fn look(&mut self, events: &Arc<Events>, lost: bool) {
        let unwatched = self.watch.renew(&self.path, events, lost).err().map(|error| Problem {
            file: self.path.clone(),
            at: None,
            reason: format!("cannot be watched: {error}"),
            kept: 0,
        });
        if let Some(problem) = &unwatched {
            tracing::warn!("{problem}");
            events.retry();
        }
        let read = self.files.read(Moment::now(), &|file| events.is_being_written(file));
        events.again(read.again);
        if read.changed {
            self.cluster.replace(self.files.records(), Moment::now());
        }
        let problems: Vec<_> = unwatched.into_iter().chain(self.files.problems()).collect();
        self.problems.send_if_modified(|list| {
            let other = *list != problems;
            *list = problems;
            other
        });
    }
}

/// What these mutexes guard is replaced whole, never left half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
