//! The preStop hook: who calls, what it asks for, and the answer once its pod has drained.
//!
//! In: the kubelet's connection, which a cgroup connect program sent to `240.x.y.z` (24 bits that name
//! the pod), where it waits while nobody is home. Out: a [`desk::Call`] for the drain, and the caller's
//! answer when the drain is over.
//!
//! [`listen`] takes connections in, [`identity`] (pure) reads them, [`server`]
//! speaks HTTP, [`desk`] is what the rest of the agent does for it. While a hook is held its
//! connection is state, not a process: [`held`] saves it and makes it again after a `kill -9`.

pub mod answer;
pub mod desk;
mod exchange;
pub mod fault;
pub mod held;
pub mod identity;
mod line;
pub mod listen;
pub mod server;
