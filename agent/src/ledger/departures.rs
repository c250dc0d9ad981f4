//! Clients that were told to leave, left, and can be expected back.
//!
//! In: entries that two reads of the table no longer have in common, and what the kernel has counted between them.
//! Out: how many would have come back by now if they still could, and when the next one would have.
//!
//! A client that hears that it should leave does so at once. Most are therefore told and gone between two reads:
//! their entries never said that they were told, only the kernel's count does ([`abi::Pod::left`]).

use std::time::Duration;

use lastcall_ebpf::abi::{self, Connection, flag, protocol, told};

use crate::moment::Moment;

/// A client that asks so seldom is not missed, and the wait for it would be longer than any floor.
const SLOWEST: Duration = Duration::from_secs(10);
/// More clients that left and stay away prove nothing more.
const MOST: usize = 4096;

/// Who left, and what the kernel had counted by then.
#[derive(Clone, Debug, Default)]
pub(super) struct Departures {
    away: Vec<Departure>,
    told_left: u64,
    came: u64,
}

/// A client that was told and left, if it can be expected back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Departure {
    /// Not earlier.
    after: Moment,
    /// By then it would have asked again.
    back_by: Moment,
}

/// An entry that is gone.
pub(super) struct Gone {
    /// As it was last read.
    pub(super) entry: Connection,
    /// Whether its client's return would be counted.
    pub(super) counts: bool,
}

impl Departures {
    /// `gone`: all that a read at `before` had and that of `now` has not; `pod` is of the latter.
    pub(super) fn read(&mut self, gone: &[Gone], pod: &abi::Pod, before: Moment, now: Moment) {
        let told_left = pod.left[told::HTTP1].saturating_sub(self.told_left);
        let came = (pod.new_connections + pod.health_connections).saturating_sub(self.came);
        *self = Self {
            told_left: self.told_left + told_left,
            came: self.came + came,
            away: std::mem::take(&mut self.away),
        };
        let http1 = gone.iter().filter(|g| g.entry.protocol != protocol::HTTP2);
        let (told, others): (Vec<&Gone>, Vec<&Gone>) = http1.partition(|g| g.entry.told_at != 0);
        let departures = |gone: &[&Gone]| -> Vec<Departure> {
            let counted = gone.iter().filter(|g| g.counts);
            counted.filter_map(|g| Departure::of(&g.entry, before, now)).collect()
        };
        self.away.extend(departures(&told));
        // Of those who left, so many were told since they were last read; who came meanwhile may have been told
        // and left as well. Which they are is not known: the worst are those that prove nothing, then those that
        // prove it latest.
        let unread = told_left.saturating_sub(told.len() as u64 + came) as usize;
        let mut perhaps = departures(&others);
        perhaps.sort_by_key(|d| std::cmp::Reverse(d.back_by));
        let useless = others.len() - perhaps.len();
        self.away.extend(perhaps.into_iter().take(unread.saturating_sub(useless)));
    }

    /// Whoever left before somebody came proves nothing any more, and enough is enough.
    pub(super) fn forget(&mut self, last_new: Moment) {
        self.away.retain(|d| d.after > last_new);
        self.away.truncate(MOST);
    }

    /// How many left after `last_new` and would have come back by now; when the next one would have.
    pub(super) fn missed(&self, last_new: Moment, now: Moment) -> (usize, Option<Moment>) {
        let away = self.away.iter().filter(|d| d.after > last_new);
        let (missed, later): (Vec<&Departure>, Vec<&Departure>) = away.partition(|d| d.back_by <= now);
        (missed.len(), later.into_iter().map(|d| d.back_by).min())
    }
}

impl Departure {
    /// `c` as it was last read, at `before`; gone by `now`. `None`: nothing says that it would come back.
    ///
    /// Only a client that has asked again and again is known to ask again soon. How often is the time
    /// between its answers; twice that is when it is missed. HTTP/2 has no such rhythm.
    fn of(c: &Connection, before: Moment, now: Moment) -> Option<Self> {
        let pauses = c.exchanges.checked_sub(1).filter(|n| *n > 0)?;
        if c.protocol != protocol::HTTP1 || c.flags & flag::HEALTH_ONLY != 0 {
            return None;
        }
        let pace = Moment(c.last_out).since(Moment(c.first_seen)) / pauses;
        (pace <= SLOWEST).then_some(Self { after: before, back_by: now + pace * 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Moment {
        Moment(n * 1_000_000_000)
    }

    /// An answer each `pace` seconds.
    fn entry(pace: u64, told_at: u64) -> Connection {
        Connection {
            told_at,
            exchanges: 3,
            first_seen: s(10).0,
            last_out: s(10 + 2 * pace).0,
            protocol: protocol::HTTP1,
            ..Connection::default()
        }
    }

    #[test]
    fn who_is_missed_and_when() {
        let c = entry(2, 1);
        let away = Some(Departure { after: s(15), back_by: s(20) });
        assert_eq!(Departure::of(&c, s(15), s(16)), away, "an answer each two seconds");
        let none = |c: Connection| assert_eq!(Departure::of(&c, s(15), s(16)), None, "{c:?}");
        none(Connection { exchanges: 1, ..c });
        none(Connection { exchanges: 0, ..c });
        none(Connection { protocol: protocol::HTTP2, ..c });
        none(Connection { flags: flag::HEALTH_ONLY, ..c });
        none(Connection { last_out: s(31).0, ..c });
    }

    /// (missed at second 20 of those who left between 15 and 16, at second 100)
    fn missed(gone: &[(Connection, bool)], told_left: u64, came: u64) -> (usize, usize) {
        let gone: Vec<Gone> =
            gone.iter().map(|(entry, counts)| Gone { entry: *entry, counts: *counts }).collect();
        let pod = abi::Pod { left: [told_left, 0], new_connections: came, ..abi::Pod::default() };
        let mut departures = Departures::default();
        departures.read(&gone, &pod, s(15), s(16));
        // A read in which nobody has gone counts nobody twice.
        departures.read(&[], &pod, s(17), s(18));
        (departures.missed(s(0), s(20)).0, departures.missed(s(0), s(100)).0)
    }

    #[test]
    fn who_was_told_and_gone_between_two_reads_is_counted() {
        let (quick, slow) = ((entry(1, 0), true), (entry(5, 0), true));
        assert_eq!(missed(&[quick, slow], 0, 0), (0, 0), "nobody was told");
        assert_eq!(missed(&[quick, slow], 2, 0), (1, 2), "both were");
        assert_eq!(missed(&[quick, slow], 1, 0), (0, 1), "one was, perhaps the slow one");
        assert_eq!(missed(&[quick, slow], 2, 1), (0, 1), "one of two may be who came meanwhile");
        assert_eq!(missed(&[quick, slow], 9, 0), (1, 2), "never more than left");
        assert_eq!(missed(&[(entry(1, 7), true), quick], 1, 0), (1, 1), "the other one was");
        let health = (Connection { flags: flag::HEALTH_ONLY, ..entry(1, 0) }, true);
        assert_eq!(missed(&[quick, health], 1, 0), (0, 0), "perhaps the health check was");
        assert_eq!(
            missed(&[quick, (entry(1, 0), false)], 1, 0),
            (0, 0),
            "perhaps one whose return does not count"
        );
        let h2 = (Connection { protocol: protocol::HTTP2, ..entry(1, 0) }, true);
        assert_eq!(missed(&[quick, h2], 1, 0), (1, 1), "HTTP/2 is counted apart");
    }
}
