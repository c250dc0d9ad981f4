//! The watches that a plan needs, set and renewed.

use std::{path::Path, sync::Arc};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{events::Events, plan::Plan};

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
