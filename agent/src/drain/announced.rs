//! What became of the last call, in steps: for counters that only go up.
//!
//! In: the pod's counters at each read of the table, which the kernel keeps as long as the pod is watched.
//! Out: what has been added since the last look. Pure.

use std::time::Duration;

use lastcall_ebpf::abi::{self, told};

/// So many more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Clients that were told to leave, by [`told`].
    pub told: [u64; told::LEN],
    /// Connections of theirs that have ended, by [`told`].
    pub left: [u64; told::LEN],
    /// How long those took to, added up, by [`told`].
    pub left_after: [Duration; told::LEN],
    /// Connections that have gone on instead.
    pub stayed: u64,
}

/// What has been told of so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally(Announced);

impl Tally {
    /// What is new; `None`: nothing.
    pub(super) fn step(&mut self, pod: &abi::Pod, stayed: u64) -> Option<Announced> {
        let now = Announced {
            told: pod.told,
            left: pod.left,
            left_after: pod.left_ns.map(Duration::from_nanos),
            stayed,
        };
        let before = std::mem::replace(&mut self.0, now);
        let each = |now: [u64; told::LEN], before: [u64; told::LEN]| {
            std::array::from_fn(|i| now[i].saturating_sub(before[i]))
        };
        let new = Announced {
            told: each(now.told, before.told),
            left: each(now.left, before.left),
            left_after: std::array::from_fn(|i| now.left_after[i].saturating_sub(before.left_after[i])),
            stayed: now.stayed.saturating_sub(before.stayed),
        };
        (new != Announced::default()).then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told_and_only_once() {
        let mut tally = Tally::default();
        let mut pod = abi::Pod { told: [3, 1], ..abi::Pod::default() };
        assert_eq!(tally.step(&pod, 0), Some(Announced { told: [3, 1], ..Announced::default() }));
        assert_eq!(tally.step(&pod, 0), None);
        (pod.told, pod.left, pod.left_ns) = ([4, 1], [2, 0], [5_000_000, 0]);
        let left_after = [Duration::from_millis(5), Duration::ZERO];
        let new = Announced { told: [1, 0], left: [2, 0], left_after, stayed: 2 };
        assert_eq!(tally.step(&pod, 2), Some(new));
        assert_eq!(tally.step(&pod, 2), None);
    }
}
