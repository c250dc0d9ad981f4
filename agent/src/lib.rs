//! lastcall's node agent. The modules in the order in which the data flows:
//!
//! | | module | in | out |
//! |---|---|---|---|
//! | 1 | [`kernel`] | packets, by eBPF | connection table, edge events |
//! | 1b | [`sockets`] | network namespaces, sock_diag | the second witness |
//! | 2 | [`cluster`] | EndpointSlices, Pods, Services | who is Terminating, and what is known of it |
//! | 3 | [`ledger`] | table and dumps | what is still live, and how we know (pure) |
//! | 4 | [`drain`] | the ledger's view | the decision (pure), and the task that runs one drain |
//! | 4b | [`last_call`] | requests to a draining pod, in the kernel | clients told to leave |
//! | 5 | [`hook`] | the kubelet's call | the answer, when the pod has drained |
//! | 6 | [`report`] | all of it | metrics, status page |
//! | | [`check`] | manifests, or a cluster's objects | what would break a rolling update (a command of its own) |
//!
//! A module uses those above it, never those below; [`run`] alone wires them.

mod causes;
pub mod contract;
pub mod moment;

pub use causes::causes;

pub mod kernel;
pub mod sockets;

pub mod cluster;

pub mod ledger;

pub mod drain;

pub mod last_call;

pub mod hook;

pub mod report;

pub mod check;

pub mod cli;
pub mod config;
pub mod run;
