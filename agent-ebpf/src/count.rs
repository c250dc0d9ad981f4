//! Counters in map values.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds to a counter that other processors add to as well.
///
/// # Safety
///
/// `counter` points into a map value that was looked up in this run.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, n: u64) {
    // SAFETY: the caller's promise; map values are aligned to eight bytes.
    let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n) };
}
