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
mod files;
mod parse;
mod plan;
mod watch;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::{
    files::Files,
    watch::{Events, Watch},
};
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
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<Vec<Problem>>>);

impl Problems {
    /// By file name; empty when all is well.
    pub fn list(&self) -> Vec<Problem> {
        lock(&self.0).clone()
    }
}

/// The source. The files have been read once, and are watched; [`Manifests::run`] follows them.
#[derive(Debug)]
pub struct Manifests {
    state: Arc<Mutex<State>>,
    events: Arc<Events>,
    problems: Problems,
    cluster: Cluster,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    watch: Watch,
    files: Files,
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
        let state = Arc::new(Mutex::new(State { path, watch, files }));
        let manifests = Self { state, events, problems: Problems::default(), cluster };
        reload(&manifests.state, &manifests.events, &manifests.problems, &manifests.cluster, false);
        Ok(manifests)
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
            let (problems, cluster) = (self.problems.clone(), self.cluster.clone());
            let reading =
                tokio::task::spawn_blocking(move || reload(&state, &events, &problems, &cluster, lost));
            if let Err(error) = reading.await {
                tracing::error!(%error, "reading manifests was cut short; their last state holds");
            }
        }
    }
}

/// One look at everything. `lost`: events or watches were, so begin with new ones.
fn reload(state: &Mutex<State>, events: &Arc<Events>, problems: &Problems, cluster: &Cluster, lost: bool) {
    let mut state = lock(state);
    let state = &mut *state;
    let unwatched = state.watch.renew(&state.path, events, lost).err().map(|error| Problem {
        file: state.path.clone(),
        at: None,
        reason: format!("cannot be watched: {error}"),
        kept: 0,
    });
    if let Some(problem) = &unwatched {
        tracing::warn!("{problem}");
        events.retry();
    }
    let read = state.files.read(Moment::now(), &|file| events.is_being_written(file));
    events.again(read.again);
    if read.changed {
        cluster.replace(state.files.records(), Moment::now());
    }
    *lock(&problems.0) = unwatched.into_iter().chain(state.files.problems()).collect();
}

/// What these mutexes guard is replaced whole, never left half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
