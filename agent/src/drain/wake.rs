//! What wakes a drain: the kernel's edge events, kept apart by how urgent they are.

use std::sync::atomic::{AtomicU64, Ordering};

use lastcall_ebpf::abi::{Edge, edge};
use tokio::sync::Notify;

/// One drain's bell.
#[derive(Default)]
pub struct Wake {
    /// Nothing is open any more.
    pub empty: Notify,
    /// A connection was removed, or somebody claims that one has ended.
    pub removed: Notify,
    last: AtomicU64,
}

impl Wake {
    /// Rings for an event.
    pub fn ring(&self, event: &Edge) {
        self.last.fetch_max(event.at, Ordering::Relaxed);
        if event.kind == edge::NOTHING_OPEN { self.empty.notify_one() } else { self.removed.notify_one() }
    }

    /// When the kernel sent the last event, nanoseconds of `CLOCK_MONOTONIC`; 0 for never.
    pub fn last_event(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}
