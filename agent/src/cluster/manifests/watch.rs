//! inotify's events in, "look again" out.
//!
//! Events are not queued: they set marks, and a look begins with whatever marks there are. A thousand
//! events during one look are one more look.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::sync::Notify;

use super::{lock, plan::Plan};
use crate::moment::Moment;

/// A writer that has not closed its file for so long since its last write is taken at its word; so is
/// one that has removed the file and made no new one.
pub(super) const WRITER_PAUSE: Duration = Duration::from_secs(1);

/// After a watch was refused.
const RETRY: Duration = Duration::from_secs(1);

/// The marks that events leave.
#[derive(Debug, Default)]
pub(super) struct Events {
    marks: Mutex<Marks>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Marks {
    /// Something has changed.
    look: bool,
    /// Events or watches are lost: begin with new ones.
    lost: bool,
    /// Files that are open for writing, and when they were last written.
    writing: BTreeMap<PathBuf, Moment>,
    /// Look again then, whatever happens.
    again: Option<Moment>,
    /// Begin with new watches then.
    retry: Option<Moment>,
}

impl Events {
    /// Waits for a reason to look again; whether events or watches were lost.
    pub(super) async fn next(&self) -> bool {
        loop {
            let due = {
                let mut marks = lock(&self.marks);
                marks.expire(Moment::now());
                if marks.look || marks.lost {
                    marks.look = false;
                    return std::mem::take(&mut marks.lost);
                }
                marks.due()
            };
            match due {
                None => self.some.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.some.notified() => {}
                        () = tokio::time::sleep_until(due.instant()) => {}
                    }
                }
            }
        }
    }

    /// A file that is not to be read yet.
    pub(super) fn is_being_written(&self, path: &Path) -> bool {
        lock(&self.marks).writing.contains_key(path)
    }

    /// Look again then, whatever happens.
    pub(super) fn again(&self, then: Option<Moment>) {
        lock(&self.marks).again = then;
        self.some.notify_one();
    }

    /// Begin with new watches in a while.
    pub(super) fn retry(&self) {
        lock(&self.marks).retry = Some(Moment::now() + RETRY);
        self.some.notify_one();
    }

    fn note(&self, event: notify::Result<Event>, plan: &Plan) {
        {
            let mut marks = lock(&self.marks);
            match event {
                Ok(event) if !event.need_rescan() => marks.note(&event, plan, Moment::now()),
                // An overflow, or an error: what it was about is not known.
                _ => marks.lost = true,
            }
        }
        self.some.notify_one();
    }
}

impl Marks {
    fn note(&mut self, event: &Event, plan: &Plan, now: Moment) {
        for path in event.paths.iter().filter(|path| plan.concerns(path)) {
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.writing.remove(path);
                    self.look = true;
                }
                // Our own reading, among others.
                EventKind::Access(_) => {}
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.writing.insert(path.clone(), now);
                }
                EventKind::Create(CreateKind::File) if is_new_and_empty_handed(path) => {
                    self.writing.insert(path.clone(), now);
                }
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)) => self.look = true,
                _ => {
                    self.writing.remove(path);
                    self.look = true;
                    // A watched directory, moved or removed, takes its watch along.
                    self.lost |= plan.directories.contains_key(path);
                }
            }
        }
    }

    /// Writers that have paused for long enough, and a retry that is due.
    fn expire(&mut self, now: Moment) {
        let before = self.writing.len();
        self.writing.retain(|_, written| now.since(*written) < WRITER_PAUSE);
        self.look |= self.writing.len() < before;
        self.look |= self.again.take_if(|again| *again <= now).is_some();
        self.lost |= self.retry.take_if(|retry| *retry <= now).is_some();
    }

    fn due(&self) -> Option<Moment> {
        self.writing.values().map(|written| *written + WRITER_PAUSE).chain(self.again).chain(self.retry).min()
    }
}

/// A file that its creator will write and close; not a link to one that is complete.
fn is_new_and_empty_handed(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

/// The watches, for a plan.
#[derive(Debug)]
pub(super) struct Watch {
    plan: Arc<Plan>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches whatever of the path is there.
    pub(super) fn new(path: &Path, events: &Arc<Events>) -> notify::Result<Self> {
        let mut plan = Plan::new(path);
        // What changes while the watches are being set is not seen by them: until it holds still. If
        // it never does, the next event, which is then sure to come, begins anew.
        for _ in 0..8 {
            let watch = Self::set(plan, events)?;
            plan = Plan::new(path);
            if plan == *watch.plan {
                return Ok(watch);
            }
        }
        let watch = Self::set(plan, events)?;
        events.retry();
        Ok(watch)
    }

    /// New watches where the path leads elsewhere than it did, or `lost` says that they are needed.
    pub(super) fn renew(&mut self, path: &Path, events: &Arc<Events>, lost: bool) -> notify::Result<()> {
        if lost || Plan::new(path) != *self.plan {
            *self = Self::new(path, events)?;
        }
        Ok(())
    }

    fn set(plan: Plan, events: &Arc<Events>) -> notify::Result<Self> {
        let plan = Arc::new(plan);
        let (told, by) = (Arc::clone(events), Arc::clone(&plan));
        let mut watcher = notify::recommended_watcher(move |event| told.note(event, &by))?;
        for directory in plan.directories.keys() {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It may go at any time; the plan is then another.
                Err(error) if is(&error, std::io::ErrorKind::NotFound) => {}
                // One may pass through a directory without the right to see its entries.
                Err(error) if is(&error, std::io::ErrorKind::PermissionDenied) => {
                    tracing::debug!(directory = %directory.display(), %error, "not watched");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { plan, _watcher: watcher })
    }
}

fn is(error: &notify::Error, kind: std::io::ErrorKind) -> bool {
    match &error.kind {
        notify::ErrorKind::Io(source) => source.kind() == kind,
        notify::ErrorKind::PathNotFound => kind == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
