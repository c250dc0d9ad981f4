//! A network namespace to try things in, gone when the trying ends.
//!
//! Of a thread of its own, so that the process never changes namespace, and nothing that is tried can
//! reach an interface of the node or of a pod.

use std::{fs::File, io, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// The loopback device is the first of each namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Runs `probe` in a fresh network namespace.
pub(super) fn fresh<T: Send>(probe: impl FnOnce() -> T + Send) -> io::Result<T> {
    elsewhere(|| unshare(CloneFlags::CLONE_NEWNET), probe)
}

/// Runs `probe` in the network namespace that `file` is of.
pub(super) fn within<T: Send>(file: &File, probe: impl FnOnce() -> T + Send) -> io::Result<T> {
    elsewhere(|| setns(file, CloneFlags::CLONE_NEWNET), probe)
}

fn elsewhere<T: Send>(
    go: impl FnOnce() -> nix::Result<()> + Send,
    probe: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let run = || {
        go()?;
        Ok(probe())
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, run)?.join() {
        Ok(done) => done,
        Err(_) => Err(io::Error::other("the probe panicked")),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn here() -> u64 {
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    #[test]
    fn there_and_not_here() {
        if !crate::report::doctor::tests::root() {
            return;
        }
        let before = here();
        let there = fresh(here).unwrap();
        assert_ne!(there, before);
        assert_eq!(here(), before);
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(fresh(|| panic!("boom")).is_err());
    }
}
