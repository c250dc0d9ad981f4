//! One contract out of those of a pod's containers: the strictest of each parameter.
//!
//! Known at the start from the pod's spec. A running drain is never changed by a hook that joins it.

use std::time::Duration;

use crate::contract::{Contract, LastCall, Until};

impl Contract {
    /// What satisfies both, parameter by parameter. `floor` is the pod's own by its kind of Service,
    /// which stands where a container asked for no `settle`.
    ///
    /// The longer `reserve` wins, though it ends the drain sooner: it is what an app says it needs
    /// for itself after the answer, and nobody else can make up for it.
    pub fn strictest(&self, other: &Self, floor: Duration) -> Self {
        let settle = match (self.settle, other.settle) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(floor).max(b.unwrap_or(floor))),
        };
        Self {
            until: if rank(self.until) >= rank(other.until) { self.until } else { other.until },
            settle,
            idle_after: self.idle_after.max(other.idle_after),
            doubt_after: self.doubt_after.max(other.doubt_after),
            udp_idle: self.udp_idle.max(other.udp_idle),
            patience: self.patience.max(other.patience),
            reserve: self.reserve.max(other.reserve),
            last_call: last_call(self.last_call, other.last_call),
        }
    }
}

/// Whatever waits for a connection under a lower rank waits for it under a higher one too.
fn rank(until: Until) -> u8 {
    match until {
        Until::Settled => 0,
        Until::Idle => 1,
        Until::Auto => 2,
        Until::Closed => 3,
    }
}

/// A container that wants its clients left alone may not know that they are told by another's wish.
fn last_call(a: LastCall, b: LastCall) -> LastCall {
    match (a, b) {
        (LastCall::Off, _) | (_, LastCall::Off) => LastCall::Off,
        (LastCall::Http, _) | (_, LastCall::Http) => LastCall::Http,
        (LastCall::Default, LastCall::Default) => LastCall::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_secs(5);

    fn until(until: Until) -> Contract {
        Contract { until, ..Contract::default() }
    }

    #[test]
    fn until_is_the_one_that_waits_for_more() {
        let order = [Until::Settled, Until::Idle, Until::Auto, Until::Closed];
        for (i, a) in order.into_iter().enumerate() {
            for (j, b) in order.into_iter().enumerate() {
                assert_eq!(until(a).strictest(&until(b), FLOOR).until, order[i.max(j)]);
            }
        }
    }

    #[test]
    fn a_settle_that_was_asked_for_never_undercuts_the_floor_of_a_container_that_did_not_ask() {
        let asked = |s| Contract { settle: Some(Duration::from_secs(s)), ..Contract::default() };
        let none = Contract::default();
        assert_eq!(none.strictest(&none, FLOOR).settle, None);
        assert_eq!(none.strictest(&asked(1), FLOOR).settle, Some(FLOOR));
        assert_eq!(asked(20).strictest(&none, FLOOR).settle, Some(Duration::from_secs(20)));
        assert_eq!(asked(1).strictest(&asked(3), FLOOR).settle, Some(Duration::from_secs(3)));
    }

    #[test]
    fn times_are_the_longest_and_off_wins() {
        let long = Duration::from_secs(77);
        let a =
            Contract { idle_after: long, udp_idle: long, last_call: LastCall::Http, ..Contract::default() };
        let b = Contract { doubt_after: long, patience: long, reserve: long, ..Contract::default() };
        let c = a.strictest(&b, FLOOR);
        assert_eq!(c, b.strictest(&a, FLOOR));
        assert_eq!([c.idle_after, c.udp_idle, c.doubt_after, c.patience, c.reserve], [long; 5]);
        assert_eq!(c.last_call, LastCall::Http);
        let off = Contract { last_call: LastCall::Off, ..Contract::default() };
        assert_eq!(c.strictest(&off, FLOOR).last_call, LastCall::Off);
    }
}
