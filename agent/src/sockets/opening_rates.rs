//! How often connections to a pod are opened: λ, before its drain.
//!
//! In: each namespace's `TcpPassiveOpens`, read when the namespace appears and every half minute.
//! Out: openings over a window of up to a minute. Nothing is attached anywhere; a node of 110 pods
//! costs some 10 ms each half minute.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Namespace, Namespaces, error::Result};
use crate::moment::Moment;

/// How often all namespaces are read.
const EVERY: Duration = Duration::from_secs(30);
/// Shorter windows tell nothing.
const SHORTEST: Duration = Duration::from_secs(2);
/// Longer ones tell of another time.
const LONGEST: Duration = Duration::from_secs(75);

/// Knows how often connections to each namespace's pod are opened. Cheap to clone; stops reading when
/// the last clone is dropped.
#[derive(Clone, Debug)]
pub struct OpeningRates {
    histories: Histories,
    _stop: Arc<DropGuard>,
}

/// By inode. The path tells a namespace from a later one with the same inode.
type Histories = Arc<Mutex<HashMap<(PathBuf, u64), History>>>;

/// Connections opened over a time. Both numbers, because none in three seconds says less than none
/// in a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpeningRate {
    /// Connections, the kubelet's probes included.
    pub openings: u64,
    /// The time.
    pub over: Duration,
}

impl OpeningRate {
    /// λ in 1/s.
    pub fn per_second(&self) -> f64 {
        self.openings as f64 / self.over.as_secs_f64()
    }
}

impl OpeningRates {
    /// Starts reading. Needs a tokio runtime.
    pub fn start(namespaces: &Namespaces) -> Self {
        let histories = Histories::default();
        let stop = CancellationToken::new();
        let reading = read_on(namespaces.clone(), Arc::clone(&histories));
        tokio::spawn(stop.clone().run_until_cancelled_owned(reading));
        Self { histories, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The rate from the oldest reading that is not too old until now. None where the namespace has
    /// not been known for two seconds yet; the node's own never is.
    ///
    /// # Errors
    /// As [`Namespace::passive_opens`].
    pub async fn rate(&self, namespace: &Namespace) -> Result<Option<OpeningRate>> {
        let opens = namespace.passive_opens().await?;
        let now = Sample { at: Moment::now(), opens };
        let Some(path) = namespace.path() else { return Ok(None) };
        let histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(histories.get(&(path.into(), namespace.inode())).and_then(|history| history.rate(now)))
    }
}

/// For tests, which neither wait for half a minute nor guess when a reading was made.
#[cfg(test)]
impl OpeningRates {
    pub(super) async fn read(&self, path: &std::path::Path) {
        self.until(|histories| histories.keys().any(|(known, _)| known == path)).await;
    }

    pub(super) async fn forgotten(&self, path: &std::path::Path) {
        self.until(|histories| histories.keys().all(|(known, _)| known != path)).await;
    }

    pub(super) fn make_older(&self, by: Duration) {
        for history in self.histories.lock().unwrap().values_mut() {
            history.newer.at = history.newer.at - by;
        }
    }

    async fn until(&self, done: impl Fn(&HashMap<(PathBuf, u64), History>) -> bool) {
        while !done(&self.histories.lock().unwrap()) {
            tokio::task::yield_now().await;
        }
    }
}

/// A reading.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Moment,
    opens: u64,
}

/// The last two readings of a namespace.
#[derive(Clone, Copy, Debug)]
struct History {
    older: Option<Sample>,
    newer: Sample,
}

impl History {
    fn push(&mut self, sample: Sample) {
        self.older = Some(std::mem::replace(&mut self.newer, sample));
    }

    /// A counter that went backwards is another namespace's.
    fn rate(&self, now: Sample) -> Option<OpeningRate> {
        self.older.into_iter().chain([self.newer]).find_map(|then| {
            let over = now.at.since(then.at);
            let openings = now.opens.checked_sub(then.opens)?;
            (SHORTEST..=LONGEST).contains(&over).then_some(OpeningRate { openings, over })
        })
    }
}

async fn read_on(namespaces: Namespaces, histories: Histories) {
    let mut listing = namespaces.listing();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            _ = tick.tick() => true,
            changed = listing.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
        };
        let present = Arc::clone(&listing.borrow_and_update());
        let due: Vec<_> = {
            let mut histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
            histories.retain(|(path, inode), _| present.get(path) == Some(inode));
            let keys = present.iter().map(|(path, inode)| (path.clone(), *inode));
            keys.filter(|key| all || !histories.contains_key(key)).collect()
        };
        for key in due {
            // One that fails has mostly just gone; if not, the next round comes in half a minute.
            let Ok(opens) = namespaces.passive_opens(key.0.clone(), key.1).await else { continue };
            let sample = Sample { at: Moment::now(), opens };
            histories
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key)
                .and_modify(|history| history.push(sample))
                .or_insert(History { older: None, newer: sample });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, opens: u64) -> Sample {
        Sample { at: Moment::from_secs_f64(100.0 + seconds), opens }
    }

    #[test]
    fn the_first_reading_serves_after_two_seconds() {
        let history = History { older: None, newer: sample(0.0, 5) };
        assert_eq!(history.rate(sample(1.9, 50)), None);
        let rate = history.rate(sample(3.0, 50)).unwrap();
        assert_eq!((rate.openings, rate.over), (45, Duration::from_secs(3)));
        assert!((rate.per_second() - 15.0).abs() < 1e-9);
    }

    #[test]
    fn the_older_reading_is_preferred_until_it_is_too_old() {
        let mut history = History { older: None, newer: sample(0.0, 0) };
        history.push(sample(30.0, 10));
        assert_eq!(history.rate(sample(31.0, 12)).map(|r| r.openings), Some(12), "a minute's window");
        assert_eq!(history.rate(sample(80.0, 12)).map(|r| r.openings), Some(2), "the newer one");
        history.push(sample(60.0, 11));
        assert_eq!(history.rate(sample(61.0, 12)).map(|r| r.openings), Some(2), "the first is forgotten");
        assert_eq!(history.rate(sample(500.0, 12)), None, "nobody has read for long");
    }

    #[test]
    fn a_counter_that_went_back_gives_no_rate() {
        let history = History { older: None, newer: sample(0.0, 100) };
        assert_eq!(history.rate(sample(10.0, 3)), None);
    }
}
