//! The next agent of a node, while the last one is still there.
//!
//! An update with `maxSurge` starts it first, and ends the last one when it is ready. Both are in the
//! node's network namespace, so until then it is the last one that answers the probes of both. All that
//! the next one does meanwhile is wait for that one's address; then it goes on at once.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::report::serve::{self, BindError};

/// How often to try. Nothing tells a process of another namespace of processes that a port is free.
const TRIES: Duration = Duration::from_millis(50);

/// Listens where metrics and health are; while somebody else does, waits. Nothing when told to end
/// meanwhile.
pub(super) async fn bind(address: SocketAddr, patience: Duration) -> Result<Option<TcpListener>, BindError> {
    let first = serve::bind(address).await;
    let taken = matches!(&first, Err(e) if e.source.kind() == ErrorKind::AddrInUse);
    if !taken || patience.is_zero() {
        return first.map(Some);
    }
    // As a container's first process this one is ended by no signal that it does not ask for.
    let ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = ends else { return first.map(Some) };
    tracing::info!(%address, "another agent is still here: waiting for its end");
    let until = Instant::now() + patience;
    loop {
        tokio::select! {
            () = tokio::time::sleep(TRIES) => {}
            _ = terminate.recv() => return Ok(None),
            _ = interrupt.recv() => return Ok(None),
        }
        match serve::bind(address).await {
            Err(e) if e.source.kind() == ErrorKind::AddrInUse && Instant::now() < until => {}
            bound => return bound.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_on_when_the_last_one_has_ended() {
        let last = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = last.local_addr().unwrap();
        assert!(bind(address, Duration::ZERO).await.is_err(), "without patience it ends at once");
        let next = tokio::spawn(bind(address, Duration::from_secs(30)));
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(last);
        assert!(next.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn its_patience_ends() {
        let last = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tried = bind(last.local_addr().unwrap(), Duration::from_millis(120)).await;
        assert_eq!(tried.unwrap_err().source.kind(), ErrorKind::AddrInUse);
    }
}
