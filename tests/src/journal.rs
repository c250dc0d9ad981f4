//! An append-only list of what happened, to wait on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Entries are kept for good: a waiter that comes late still finds what it waits for.
#[derive(Debug)]
pub struct Journal<T> {
    entries: Mutex<Vec<T>>,
    grown: Condvar,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self { entries: Mutex::new(Vec::new()), grown: Condvar::new() }
    }
}

impl<T> Journal<T> {
    /// Appends and wakes the waiters.
    pub fn push(&self, entry: T) {
        self.lock().push(entry);
        self.grown.notify_all();
    }

    /// The first entry for which `find` has an answer, waiting up to `timeout` for one to come.
    pub fn wait<R>(&self, timeout: Duration, find: impl Fn(&T) -> Option<R>) -> Option<R> {
        let until = Instant::now() + timeout;
        let mut entries = self.lock();
        let mut seen = 0;
        loop {
            if let Some(found) = entries[seen..].iter().find_map(&find) {
                return Some(found);
            }
            seen = entries.len();
            let left = until.checked_duration_since(Instant::now())?;
            entries = self.grown.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last `n` entries, oldest first.
    pub fn tail(&self, n: usize) -> Vec<T>
    where
        T: Clone,
    {
        let entries = self.lock();
        entries[entries.len().saturating_sub(n)..].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
