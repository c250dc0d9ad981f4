//! One clock for all processes of a node.

use nix::time::{ClockId, clock_gettime};

/// Seconds of `CLOCK_MONOTONIC`: comparable between processes, and blind to steps of the wall clock.
pub fn now() -> f64 {
    match clock_gettime(ClockId::CLOCK_MONOTONIC) {
        Ok(t) => t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9,
        Err(error) => panic!("CLOCK_MONOTONIC: {error}"),
    }
}
