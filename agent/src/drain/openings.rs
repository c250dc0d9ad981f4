//! New connections of a pod that no program watches: those that come and go between two polls show in no
//! dump, but the namespace counts them.
//!
//! In: readings of `PassiveOpens`, and how many of them the kubelet's probes explain. Out: when the last
//! one came that they do not. Pure.

use crate::moment::Moment;

/// What the namespace has accepted since the drain began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Openings {
    began: Option<(Moment, u64)>,
    unexplained: u64,
    last: Option<Moment>,
}

impl Openings {
    /// A reading: `opens` of the namespace since it was made.
    pub(super) fn read(&mut self, at: Moment, opens: u64, probes_per_second: f64) {
        let (began, before) = *self.began.get_or_insert((at, opens));
        // Rounded down: a probe that comes early is taken for a client, and only prolongs the wait.
        let probes = (probes_per_second.max(0.0) * at.since(began).as_secs_f64()) as u64;
        let unexplained = opens.saturating_sub(before).saturating_sub(probes);
        if unexplained > self.unexplained {
            self.unexplained = unexplained;
            self.last = Some(at);
        }
    }

    /// When the last connection came that is no probe.
    pub(super) fn last(&self) -> Option<Moment> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(probes_per_second: f64, readings: &[(f64, u64)]) -> Option<f64> {
        let mut openings = Openings::default();
        for (at, opens) in readings {
            openings.read(Moment::from_secs_f64(100.0 + at), 1000 + opens, probes_per_second);
        }
        openings.last().map(|at| at.since(Moment::from_secs_f64(100.0)).as_secs_f64())
    }

    #[test]
    fn each_opening_counts_and_silence_does_not() {
        assert_eq!(last(0.0, &[(0.0, 0), (1.0, 0), (2.0, 0)]), None);
        assert_eq!(last(0.0, &[(0.0, 0), (1.0, 1), (2.0, 2), (3.0, 2)]), Some(2.0));
    }

    #[test]
    fn what_was_accepted_before_the_drain_is_not_new() {
        assert_eq!(last(0.0, &[(0.0, 500), (1.0, 500)]), None);
    }

    #[test]
    fn probes_are_explained_but_for_one_that_comes_early() {
        assert_eq!(last(1.0, &[(0.0, 0), (1.0, 1), (2.0, 2), (3.0, 3)]), None);
        assert_eq!(last(0.1, &[(0.0, 0), (3.0, 1), (13.0, 2)]), Some(3.0));
    }
}
