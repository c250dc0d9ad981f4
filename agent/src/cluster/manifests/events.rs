//! inotify's events in, "look again" out.
//!
//! Events are not queued: they set marks, and a look begins with whatever marks there are. A thousand
//! events during one look are one more look.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use notify::{
    Event, EventKind,
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

    pub(super) fn note(&self, event: notify::Result<Event>, plan: &Plan) {
        let news = match event {
            Ok(event) if !event.need_rescan() => lock(&self.marks).note(&event, plan, Moment::now()),
            // An overflow, or an error: what it was about is not known.
            _ => {
                lock(&self.marks).lost = true;
                true
            }
        };
        if news {
            self.some.notify_one();
        }
    }
}

impl Marks {
    /// Whether it left a mark: most events are others' files, or our own reading.
    fn note(&mut self, event: &Event, plan: &Plan, now: Moment) -> bool {
        let mut news = false;
        for path in event.paths.iter().filter(|path| plan.concerns(path)) {
            news |= match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.writing.remove(path);
                    self.look = true;
                    true
                }
                EventKind::Access(_) => false,
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.writing.insert(path.clone(), now);
                    true
                }
                EventKind::Create(CreateKind::File) if is_new_and_empty_handed(path) => {
                    self.writing.insert(path.clone(), now);
                    true
                }
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)) => {
                    self.look = true;
                    true
                }
                _ => {
                    self.writing.remove(path);
                    self.look = true;
                    // A watched directory, moved or removed, takes its watch along.
                    self.lost |= plan.directories.contains_key(path);
                    true
                }
            };
        }
        news
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use notify::event::{DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    #[tokio::test]
    async fn lost_events_begin_anew() {
        let (events, plan) = (Events::default(), Plan::default());
        events.note(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), &plan);
        assert!(events.next().await);
        events.note(Err(notify::Error::generic("gone wrong")), &plan);
        assert!(events.next().await);
        events.retry();
        assert!(events.next().await);
    }

    #[test]
    fn what_events_mean() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let plan = Plan::new(&root);
        let at = |name: &str| root.join(name);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        let removed = EventKind::Remove(RemoveKind::Folder);
        // (event, its path, then: look, lost, being written)
        for (kind, path, want) in [
            (opened, at("a.yaml"), (false, false, false)),
            (written, at("a.yaml"), (false, false, true)),
            (written, at(".a.yaml.swp"), (false, false, false)),
            (closed, at("a.yaml"), (true, false, false)),
            (closed, at("notes.txt"), (false, false, false)),
            (moved, at("a.yaml"), (true, false, false)),
            (moved, root.clone(), (true, true, false)),
            (removed, root.clone(), (true, true, false)),
        ] {
            let mut marks = Marks::default();
            let news = marks.note(&Event::new(kind).add_path(path.clone()), &plan, Moment(1));
            assert_eq!(news, want != (false, false, false), "{kind:?} {path:?}");
            assert_eq!((marks.look, marks.lost, !marks.writing.is_empty()), want, "{kind:?} {path:?}");
        }
    }
}
