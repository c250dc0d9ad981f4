//! What drains tell the rest of the agent, for its log, metrics and status.

use std::{sync::Arc, time::Duration};

use super::{Announced, Drain, Verdict};

/// Why a pod is judged by polling its sockets, without the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fallback {
    /// The programs could not be loaded.
    NoEbpf,
    /// A link of the pod could not be attached to, or an address of it is another pod's too.
    AttachFailed,
    /// A connection found no place in the table.
    TableFull,
    /// Bytes move on its sockets that no program has seen: something before ours ends the packets' way.
    Blind,
    /// The pod shares the node's network namespace.
    HostNetwork,
    /// `--attach none`.
    Forced,
}

impl Fallback {
    /// For people.
    pub fn why(self) -> &'static str {
        match self {
            Self::NoEbpf => "no kernel programs on this node",
            Self::AttachFailed => "a link of the pod could not be attached to",
            Self::TableFull => "the connection table is full",
            Self::Blind => "packets pass the programs unseen",
            Self::HostNetwork => "the pod shares the node's network",
            Self::Forced => "--attach none",
        }
    }
}

/// One thing that happened to a drain.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A pod drains.
    Began,
    /// Routing settled, this long after the start; λ where it was known.
    Settled(Duration, Option<f64>),
    /// Routing takes longer to settle (the first) than there is from the start to the deadline (the second);
    /// said once, when it is known.
    Unfit(Duration, Duration),
    /// The decision.
    Ended(Arc<Verdict>),
    /// A dump found entries whose sockets were gone.
    Corrected(u64),
    /// Clients were told to leave, left, or stayed.
    Announced(Announced),
    /// The pod is polled from now on.
    FellBack(Fallback),
    /// The pod is gone. Connections that came after the decision, and those it cut.
    Gone {
        /// New connections after the decision.
        late: u64,
        /// Connections ended with a request or a response unfinished.
        cut: u64,
    },
}

/// Told of everything that happens.
pub type Listener = Arc<dyn Fn(&Drain, &Happened) + Send + Sync>;
