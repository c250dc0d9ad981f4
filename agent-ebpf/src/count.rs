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

/// As [`add`], to a counter of 32 bits.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn add_short(counter: *mut u32, n: u32) {
    // SAFETY: the caller's promise; fields of map values are aligned.
    let _ = unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, n) };
}

/// Adds to a field of a map value that was looked up in this run.
macro_rules! count {
    ($pod:expr, $field:ident $([$index:expr])?, $n:expr) => {
        // SAFETY: a field of a map value that was just looked up.
        unsafe { $crate::count::add(&raw mut (*$pod).$field $([$index])?, $n) }
    };
}
pub(crate) use count;
