//! Points of `CLOCK_MONOTONIC`: the kernel programs', tokio's and the policy's one clock.
//!
//! Wall clocks are never compared: an API server's may be minutes away from the node's, and either
//! may be stepped at any time.

use std::{fmt, ops, time::Duration};

/// Nanoseconds of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` counts them. Never zero in real use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The clock's reading.
    pub fn now() -> Self {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is a valid timespec for the call to fill.
        let ok = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
        assert_eq!(ok, 0, "CLOCK_MONOTONIC exists on every Linux");
        Self(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    /// From seconds since the clock's start; for tests.
    pub fn from_secs_f64(s: f64) -> Self {
        Self((s * 1e9) as u64)
    }

    /// How long ago `earlier` was; zero where it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same point for tokio's timers (both count `CLOCK_MONOTONIC`).
    pub fn instant(self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.since(Self::now())
    }
}

impl ops::Add<Duration> for Moment {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl ops::Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0 as f64 / 1e9)
    }
}
