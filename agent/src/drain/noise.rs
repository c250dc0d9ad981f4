//! Openings that are no client's: health checks that only connect, scrapes, ignored sources, a proxy that
//! connects to its own pod. They are part of λ, which counts all that the namespace accepted, and their
//! silence would prove nothing: they do not fall silent.
//!
//! In: the namespace's `PassiveOpens` and the kernel's count of clients' new connections, both since the
//! drain began. Out: how many a second are nobody's. Pure.

use std::time::Duration;

use crate::moment::Moment;

/// Shorter times tell nothing.
const SHORTEST: Duration = Duration::from_millis(500);

/// What has been accepted since the drain began, and what of it came from clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noise {
    began: Option<(Moment, u64, u64)>,
    over: Duration,
    nobodys: u64,
}

impl Noise {
    /// A reading: `opens` of the namespace since it was made, `clients` since the links were attached to.
    pub(super) fn read(&mut self, at: Moment, opens: u64, clients: u64) {
        let (began, opens_before, clients_before) = *self.began.get_or_insert((at, opens, clients));
        self.over = at.since(began);
        let new_clients = clients.saturating_sub(clients_before);
        self.nobodys = opens.saturating_sub(opens_before).saturating_sub(new_clients);
    }

    /// Two standard deviations more than was seen, because it was seen for so short: too much of it only
    /// lengthens the wait.
    pub(super) fn per_second(&self) -> f64 {
        if self.over < SHORTEST || self.nobodys == 0 {
            return 0.0;
        }
        let n = self.nobodys as f64;
        2.0f64.mul_add(n.sqrt(), n) / self.over.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: f64, opens: u64, clients: u64) -> f64 {
        let mut noise = Noise::default();
        noise.read(Moment::from_secs_f64(100.0), 1000, 7);
        noise.read(Moment::from_secs_f64(100.0 + seconds), 1000 + opens, 7 + clients);
        noise.per_second()
    }

    #[test]
    fn what_no_client_opened_is_noise_and_more_of_it_than_was_seen() {
        assert_eq!(after(2.0, 0, 0), 0.0);
        assert_eq!(after(2.0, 9, 5), 4.0, "four, and twice two, over two seconds");
        assert_eq!(after(2.0, 16, 0), 12.0);
    }

    #[test]
    fn clients_alone_are_no_noise_and_a_moment_tells_nothing() {
        assert_eq!(after(2.0, 50, 50), 0.0);
        assert_eq!(after(2.0, 50, 51), 0.0, "one had been opened before its request was counted");
        assert_eq!(after(0.4, 9, 0), 0.0);
        assert_eq!(Noise::default().per_second(), 0.0);
    }
}
