//! Whether the agent has started ([`Readiness`]) and whether it still moves ([`Heartbeat`]).
//!
//! In: each part of the agent says once that it is up, and the main loop beats. Out: what `/readyz`
//! and `/healthz` say. The kubelet restarts an agent that is not healthy, never one that is only not
//! ready: a node whose source is broken is not helped by a restart.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::moment::Moment;

/// Each by its name, and how it was done once it was.
type Latches = Vec<(&'static str, Option<String>)>;

/// Something that must hold, for as long as the agent runs; `Err` says why it does not now.
type Condition = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What must have happened once before the agent is ready. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness {
    latches: Arc<Mutex<Latches>>,
    conditions: Arc<Mutex<Vec<(&'static str, Condition)>>>,
}

/// One of the things that must happen. Dropped without a word, it stays undone.
#[must_use = "the agent is never ready while a latch is not done"]
pub struct Latch {
    readiness: Readiness,
    index: usize,
}

impl Readiness {
    /// None registered: not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more thing to wait for, as `/readyz` will name it.
    pub fn latch(&self, name: &'static str) -> Latch {
        let mut latches = self.lock();
        latches.push((name, None));
        Latch { readiness: self.clone(), index: latches.len() - 1 }
    }

    /// Something that must hold from now on; asked whenever somebody asks for readiness.
    pub fn condition(
        &self,
        name: &'static str,
        holds: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.conditions().push((name, Arc::new(holds)));
    }

    /// All is done, and holds.
    pub fn ready(&self) -> bool {
        let latches = self.lock();
        !latches.is_empty()
            && latches.iter().all(|(_, how)| how.is_some())
            && self.conditions().iter().all(|(_, holds)| holds().is_ok())
    }

    /// A line for each: what it is, and how it was done or that it is waited for.
    pub fn report(&self) -> String {
        let mut out = String::new();
        for (name, how) in self.lock().iter() {
            // Writing to a String cannot fail.
            let _ = match how {
                Some(how) if how.is_empty() => writeln!(out, "done     {name}"),
                Some(how) => writeln!(out, "done     {name}: {how}"),
                None => writeln!(out, "waiting  {name}"),
            };
        }
        for (name, holds) in self.conditions().iter() {
            let _ = match holds() {
                Ok(()) => writeln!(out, "holds    {name}"),
                Err(why) => writeln!(out, "failing  {name}: {why}"),
            };
        }
        out
    }

    fn conditions(&self) -> MutexGuard<'_, Vec<(&'static str, Condition)>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Latches> {
        self.latches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latch {
    /// It happened; `how` is for people ("tcx", "polling: no eBPF"), and may be empty.
    pub fn done(self, how: impl Into<String>) {
        if let Some(latch) = self.readiness.lock().get_mut(self.index) {
            latch.1 = Some(how.into());
        }
    }
}

/// The main loop's pulse. Clones share it.
#[derive(Clone)]
pub struct Heartbeat {
    last: Arc<AtomicU64>,
    limit: Duration,
}

impl Heartbeat {
    /// Beating from now on; older than `limit` means dead.
    pub fn new(limit: Duration) -> Self {
        Self { last: Arc::new(AtomicU64::new(Moment::now().0)), limit }
    }

    /// The main loop came round.
    pub fn beat(&self) {
        self.last.store(Moment::now().0, Ordering::Relaxed);
    }

    /// Alive at `now`, or why not.
    pub fn check(&self, now: Moment) -> Result<String, String> {
        let age = now.since(Moment(self.last.load(Ordering::Relaxed)));
        let text = format!("the main loop came round {:.1} s ago", age.as_secs_f64());
        if age <= self.limit {
            Ok(text)
        } else {
            Err(format!("{text}, more than {:.0} s", self.limit.as_secs_f64()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_latch_is_done() {
        let readiness = Readiness::new();
        assert!(!readiness.ready(), "nothing registered yet");
        let source = readiness.latch("source read");
        let programs = readiness.latch("kernel programs");
        source.done("");
        assert!(!readiness.ready());
        assert_eq!(readiness.report(), "done     source read\nwaiting  kernel programs\n");
        programs.done("tcx");
        assert!(readiness.ready());
        assert_eq!(readiness.report(), "done     source read\ndone     kernel programs: tcx\n");
    }

    #[test]
    fn a_condition_may_fail_and_hold_again() {
        let readiness = Readiness::new();
        readiness.latch("source read").done("");
        let holds = Arc::new(AtomicU64::new(1));
        let asked = Arc::clone(&holds);
        readiness.condition("API server", move || match asked.load(Ordering::Relaxed) {
            0 => Err("connection refused".into()),
            _ => Ok(()),
        });
        assert!(readiness.ready());
        holds.store(0, Ordering::Relaxed);
        assert!(!readiness.ready());
        assert!(readiness.report().ends_with("failing  API server: connection refused\n"));
        holds.store(1, Ordering::Relaxed);
        assert!(readiness.ready());
    }

    #[test]
    fn a_latch_that_is_dropped_stays_undone() {
        let readiness = Readiness::new();
        drop(readiness.latch("hook listener"));
        assert!(!readiness.ready());
    }

    #[test]
    fn a_heart_that_stops() {
        let heart = Heartbeat::new(Duration::from_secs(10));
        let now = Moment::now();
        assert!(heart.check(now).is_ok());
        let later = now + Duration::from_secs(12);
        let why = heart.check(later).unwrap_err();
        assert!(why.contains("ago, more than 10 s"), "{why}");
    }
}
