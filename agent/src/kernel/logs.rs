//! The programs' own debug lines, carried by aya-log into the agent's log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// Starts a task that forwards them. Without a ring (the lines are compiled out) there is nothing to do.
pub fn forward(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(e) => {
            tracing::debug!("the kernel programs' debug lines are not to be had: {e}");
            return;
        }
    };
    // SAFETY: the logger owns its ring, whose descriptor stays the same for as long as it lives.
    let Ok(mut logger) = (unsafe { AsyncFd::register(logger) }) else { return };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
