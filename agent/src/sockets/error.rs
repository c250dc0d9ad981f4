//! What can go wrong between the agent and a network namespace.

use std::{io, net::IpAddr, path::PathBuf};

/// An operation on namespaces or their sockets that failed.
///
/// Fatal at start: [`Error::Start`], [`Error::Watch`]. All others concern one namespace and are
/// surfaced to its drain; a namespace that has just gone fails with [`Error::Open`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread could not be started, or does not find the namespace it starts in. Fatal.
    #[error("start the thread that enters network namespaces")]
    Start(#[source] io::Error),
    /// Neither the directory nor the mount table can be watched. Fatal.
    #[error("watch for network namespaces: {what}")]
    Watch {
        /// What was to be watched.
        what: String,
        /// Why it cannot be.
        source: io::Error,
    },
    /// The thread is gone or a job of it panicked outside any namespace: a bug of the agent.
    #[error("the thread that enters network namespaces did not answer")]
    NoAnswer,
    /// A blocking call was made by a closure that runs on the namespaces thread itself, which would
    /// wait for itself for ever: a bug of the caller.
    #[error("blocking call into network namespace {namespace} from the namespaces thread itself")]
    Reentered {
        /// The namespace that was to be entered.
        namespace: String,
    },
    /// The namespace's file cannot be opened. Mostly: it has gone.
    #[error("open network namespace {}", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Several namespaces have the address: the remains of a pod, or a pod that may change its links and
    /// claims another's. To pick one would let it end the other's drain.
    #[error("address {address} is in several network namespaces: {paths:?}")]
    Ambiguous {
        /// The address.
        address: IpAddr,
        /// Those that have it.
        paths: Vec<PathBuf>,
    },
    /// `setns` refused.
    #[error("enter network namespace {namespace}")]
    Enter {
        /// The namespace.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// What ran inside panicked. The thread is back in its own namespace.
    #[error("panic inside network namespace {namespace}: {message}")]
    Panicked {
        /// The namespace.
        namespace: String,
        /// What the panic said.
        message: String,
    },
    /// A netlink request failed.
    #[error("{operation} in network namespace {namespace}")]
    Netlink {
        /// What was asked for.
        operation: &'static str,
        /// The namespace.
        namespace: String,
        /// The kernel's error, or the socket's.
        source: io::Error,
    },
    /// The kernel's answer could not be read: never taken for a complete view.
    #[error("{operation} in network namespace {namespace}: malformed answer: {problem}")]
    Malformed {
        /// What was asked for.
        operation: &'static str,
        /// The namespace.
        namespace: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `/proc/thread-self/net/snmp` cannot be read or lacks the counter.
    #[error("read the TCP counters of network namespace {namespace}")]
    Counters {
        /// The namespace.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// The runtime is shutting down, a blocking task was not run.
    #[error("the runtime is shutting down")]
    Runtime(#[from] tokio::task::JoinError),
}

/// Of this module's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
