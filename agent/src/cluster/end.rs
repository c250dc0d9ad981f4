//! A pod's end, as one look after the other shows it.

use std::time::Duration;

use super::Terminating;
use crate::moment::Moment;

/// What a source says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletion {
    /// metadata.deletionTimestamp; `None` where only a slice says `terminating`.
    pub(super) timestamp: Option<i64>,
    /// The grace; `None` where no Pod object says it.
    pub(super) grace: Option<Duration>,
    /// A believed slice does not show it as ready.
    pub(super) withdrawn: bool,
}

/// What is known after this look, of the same pod.
///
/// The grace only shrinks: by a smaller deletionGracePeriodSeconds, or by as much as the
/// deletionTimestamp has moved earlier. Both count from the first request, so the smaller is right.
pub(super) fn advance(
    before: Option<&Terminating>,
    seen: Option<Deletion>,
    now: Moment,
) -> Option<Terminating> {
    let seen = seen?;
    let Some(before) = before else {
        return Some(Terminating {
            first_seen: now,
            grace: seen.grace,
            deletion_timestamp: seen.timestamp,
            withdrawn: seen.withdrawn.then_some(now),
        });
    };
    let moved_earlier = match (before.deletion_timestamp, seen.timestamp) {
        (Some(old), Some(new)) => Duration::from_secs(u64::try_from(old.saturating_sub(new)).unwrap_or(0)),
        _ => Duration::ZERO,
    };
    let grace = match (before.grace, seen.grace) {
        (Some(old), Some(new)) => Some(old.saturating_sub(moved_earlier).min(new)),
        (Some(old), None) => Some(old.saturating_sub(moved_earlier)),
        (None, new) => new,
    };
    Some(Terminating {
        first_seen: before.first_seen,
        grace,
        deletion_timestamp: match (before.deletion_timestamp, seen.timestamp) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        },
        withdrawn: before.withdrawn.or(seen.withdrawn.then_some(now)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment(1_000);
    const T1: Moment = Moment(2_000);

    fn seen(timestamp: Option<i64>, grace: Option<u64>) -> Deletion {
        Deletion { timestamp, grace: grace.map(Duration::from_secs), withdrawn: false }
    }

    #[test]
    fn grace_only_shrinks() {
        // (before, then, grace after both)
        let rows = [
            (seen(Some(100), Some(30)), seen(Some(100), Some(30)), Some(30)),
            // `kubectl delete --grace-period=5`, as the API server writes it: both fields agree.
            (seen(Some(130), Some(30)), seen(Some(105), Some(5)), Some(5)),
            // Only the timestamp moved (deletionGracePeriodSeconds missing, the spec's is read).
            (seen(Some(130), Some(30)), seen(Some(120), Some(30)), Some(20)),
            // Only the grace shrank.
            (seen(Some(130), Some(30)), seen(Some(130), Some(7)), Some(7)),
            // Never longer.
            (seen(Some(130), Some(30)), seen(Some(190), Some(90)), Some(30)),
            // Moved further than there is.
            (seen(Some(130), Some(30)), seen(Some(1), Some(30)), Some(0)),
            // A slice first, the Pod object later.
            (seen(None, None), seen(Some(130), Some(30)), Some(30)),
            (seen(Some(130), Some(30)), seen(None, None), Some(30)),
            (seen(None, None), seen(None, None), None),
        ];
        for (first, then, want) in rows {
            let before = advance(None, Some(first), T0).expect("it is Terminating");
            let after = advance(Some(&before), Some(then), T1).expect("it is Terminating");
            assert_eq!(after.grace, want.map(Duration::from_secs), "{first:?}, {then:?}");
            assert_eq!(after.first_seen, T0, "{first:?}, {then:?}");
        }
    }

    #[test]
    fn withdrawn_is_the_first_time() {
        let ready = seen(Some(1), None);
        let gone = Deletion { withdrawn: true, ..ready };
        let a = advance(None, Some(ready), T0).expect("it is Terminating");
        let b = advance(Some(&a), Some(gone), T1).expect("it is Terminating");
        let c = advance(Some(&b), Some(ready), Moment(3_000)).expect("it is Terminating");
        assert_eq!([a.withdrawn, b.withdrawn, c.withdrawn], [None, Some(T1), Some(T1)]);
        assert_eq!(advance(Some(&c), None, T1), None);
    }
}
