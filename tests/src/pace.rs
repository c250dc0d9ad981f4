//! Time that a machine with too much to do keeps from a node: its processes could go on and had no processor,
//! or the whole machine stood still.
//!
//! It is nobody's fault on the node. A test's upper bounds are that much wider, and on a machine that has time
//! they are what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often somebody looks whether he is woken in time.
const PULSE: Duration = Duration::from_millis(10);
/// Later than this is no mere wake-up any more.
const LATE: Duration = Duration::from_millis(10);

/// Microseconds that this process was woken too late, all in all.
static MISSED: AtomicU64 = AtomicU64::new(0);

/// A moment, and what has been lost from then on.
#[derive(Clone, Debug)]
pub struct Since {
    pressure: PathBuf,
    waited: Duration,
    missed: Duration,
}

impl Since {
    /// From now on, for the processes of a cgroup.
    pub fn now(cgroup: &Path) -> Self {
        static PULSES: Once = Once::new();
        PULSES.call_once(|| drop(thread::spawn(feel_the_pulse)));
        let pressure = cgroup.join("cpu.pressure");
        Self { waited: waited(&pressure), missed: missed(), pressure }
    }

    /// The same from now on.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { waited: waited(&self.pressure), missed: missed(), pressure: self.pressure.clone() }
    }

    /// How long some of them waited for a processor, and how long nobody ran at all.
    pub fn lost(&self) -> Duration {
        waited(&self.pressure).saturating_sub(self.waited) + missed().saturating_sub(self.missed)
    }
}

/// Of `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`, in microseconds, the total
/// (`Documentation/accounting/psi.rst`). Kernels without it say nothing.
fn waited(pressure: &Path) -> Duration {
    let text = fs::read_to_string(pressure).unwrap_or_default();
    let some = text.lines().find_map(|line| line.strip_prefix("some ")).unwrap_or_default();
    let total = some.split(' ').find_map(|word| word.strip_prefix("total="));
    Duration::from_micros(total.and_then(|total| total.parse().ok()).unwrap_or(0))
}

fn missed() -> Duration {
    Duration::from_micros(MISSED.load(Ordering::Relaxed))
}

fn feel_the_pulse() {
    loop {
        let due = Instant::now() + PULSE;
        thread::sleep(PULSE);
        let late = due.elapsed();
        if late > LATE {
            MISSED.fetch_add(late.as_micros() as u64, Ordering::Relaxed);
        }
    }
}
