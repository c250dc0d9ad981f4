//! **Deadline**: when the answer has to be given, whatever is left.
//!
//! In: the moment at which the deletion or the hook was first seen, and the graces that are known. Out: a
//! [`Moment`]. No wall clock is compared with another: the kubelet counts
//! deletionGracePeriodSeconds from the hook's start (`kuberuntime_container.go`), and so is it done here.

use std::time::Duration;

use crate::moment::Moment;

/// What is known of how long a pod's end may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// metadata.deletionGracePeriodSeconds, of a Terminating pod.
    pub deletion: Option<Duration>,
    /// By how much a later delete moved deletionTimestamp earlier: a difference of two values of the API
    /// server's clock.
    pub moved_earlier: Duration,
    /// spec.terminationGracePeriodSeconds; counts where the pod is not Terminating.
    pub termination: Option<Duration>,
    /// What the node's shutdown leaves to pods of this priority.
    pub shutdown: Option<Duration>,
    /// `--default-grace`, where there is no Pod object at all.
    pub unknown: Duration,
    /// `--max-drain`, which caps all.
    pub max_drain: Option<Duration>,
}

impl Grace {
    /// The whole time from the first sight to SIGKILL.
    pub fn total(&self) -> Duration {
        match self.deletion {
            Some(grace) => grace.saturating_sub(self.moved_earlier),
            None => {
                let known = [self.termination, self.shutdown];
                known.into_iter().flatten().min().unwrap_or(self.unknown)
            }
        }
    }
}

/// What of the grace is left to the app after the answer: at most a quarter, so that a short grace is not
/// all reserve.
pub fn reserve(asked: Duration, total: Duration) -> Duration {
    asked.min(total / 4)
}

/// When the answer has to be given.
pub fn deadline(first_seen: Moment, grace: &Grace, asked_reserve: Duration) -> Moment {
    let total = grace.total();
    let drain = total - reserve(asked_reserve, total);
    first_seen + grace.max_drain.map_or(drain, |max| drain.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment(1_000_000_000_000);
    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    fn after(grace: Grace, reserve: u64) -> Duration {
        deadline(START, &grace, s(reserve)).since(START)
    }

    #[test]
    fn deletion_grace_less_the_reserve() {
        assert_eq!(after(Grace { deletion: Some(s(30)), ..Grace::default() }, 5), s(25));
    }

    #[test]
    fn the_reserve_is_at_most_a_quarter_of_the_grace() {
        assert_eq!(after(Grace { deletion: Some(s(8)), ..Grace::default() }, 5), s(6));
        assert_eq!(after(Grace { deletion: Some(s(1)), ..Grace::default() }, 5), Duration::from_millis(750));
        assert_eq!(after(Grace { deletion: Some(s(0)), ..Grace::default() }, 5), s(0));
    }

    #[test]
    fn a_later_delete_with_a_shorter_grace_moves_it_earlier() {
        let grace = Grace { deletion: Some(s(120)), moved_earlier: s(112), ..Grace::default() };
        assert_eq!(after(grace, 5), s(6));
        let grace = Grace { moved_earlier: s(500), ..grace };
        assert_eq!(after(grace, 5), s(0));
    }

    #[test]
    fn without_a_deletion_the_shortest_of_what_is_known_counts() {
        let grace = Grace { termination: Some(s(60)), unknown: s(30), ..Grace::default() };
        assert_eq!(after(grace, 5), s(55));
        assert_eq!(after(Grace { shutdown: Some(s(20)), ..grace }, 5), s(15));
    }

    #[test]
    fn without_a_pod_the_default_grace_counts_and_max_drain_caps_all() {
        assert_eq!(after(Grace { unknown: s(30), ..Grace::default() }, 5), s(25));
        let grace = Grace { deletion: Some(s(3600)), max_drain: Some(s(600)), ..Grace::default() };
        assert_eq!(after(grace, 5), s(600));
    }
}
