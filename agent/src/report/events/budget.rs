//! How many Kubernetes Events may be written. Pure.
//!
//! A node that is drained ends a hundred pods within a minute, and a cluster has thousands of nodes. Who
//! reads Events learns nothing from the hundredth.

use std::{collections::HashMap, time::Duration};

use crate::moment::Moment;

/// So many at once, then one each `every`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) every: Duration,
}

/// All Events of this agent.
pub(super) const NODE: Rate = Rate { burst: 30, every: Duration::from_secs(5) };
/// Those about one object.
pub(super) const OBJECT: Rate = Rate { burst: 5, every: Duration::from_secs(60) };
/// Objects that are told apart; beyond them, nobody's budget is remembered.
const OBJECTS_MAX: usize = 1024;

#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Moment,
}

impl Bucket {
    fn full(rate: Rate, now: Moment) -> Self {
        Self { left: rate.burst, since: now }
    }

    fn refill(&mut self, rate: Rate, now: Moment) {
        let more = now.since(self.since).as_millis() / rate.every.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(rate.burst);
        self.since = self.since + rate.every * more;
    }
}

/// What may still be written.
#[derive(Debug)]
pub(super) struct Budget {
    node: Bucket,
    objects: HashMap<String, Bucket>,
}

impl Budget {
    pub(super) fn new(now: Moment) -> Self {
        Self { node: Bucket::full(NODE, now), objects: HashMap::new() }
    }

    /// Takes one for an object, by its UID.
    pub(super) fn take(&mut self, uid: &str, now: Moment) -> bool {
        self.node.refill(NODE, now);
        if self.node.left == 0 {
            return false;
        }
        if self.objects.len() >= OBJECTS_MAX {
            self.objects.retain(|_, bucket| {
                bucket.refill(OBJECT, now);
                bucket.left < OBJECT.burst
            });
        }
        if self.objects.len() >= OBJECTS_MAX {
            self.objects.clear();
        }
        let object = self.objects.entry(uid.to_owned()).or_insert_with(|| Bucket::full(OBJECT, now));
        object.refill(OBJECT, now);
        if object.left == 0 {
            return false;
        }
        object.left -= 1;
        self.node.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment(1_000_000_000_000);

    #[test]
    fn one_object_has_its_burst_and_no_more() {
        let mut budget = Budget::new(T0);
        assert_eq!((0..10).filter(|_| budget.take("a", T0)).count(), 5);
        assert!(budget.take("b", T0), "another has its own");
        assert!(!budget.take("a", T0 + Duration::from_secs(59)));
        assert!(budget.take("a", T0 + Duration::from_secs(60)));
        assert!(!budget.take("a", T0 + Duration::from_secs(60)));
    }

    #[test]
    fn the_node_bounds_them_all() {
        let mut budget = Budget::new(T0);
        assert_eq!((0..100).filter(|n| budget.take(&n.to_string(), T0)).count(), 30);
        assert_eq!(
            (0..100).filter(|n| budget.take(&format!("x{n}"), T0 + Duration::from_secs(11))).count(),
            2
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut budget = Budget::new(T0);
        for n in 0..5_000_u64 {
            budget.take(&n.to_string(), T0 + Duration::from_secs(10) * n as u32);
        }
        assert!(budget.objects.len() <= OBJECTS_MAX);
    }
}
