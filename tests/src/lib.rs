//! A node to test on: real namespaces, real packets, a small kubelet, and the agent as a plain binary.
//!
//! A [`Node`] is a network namespace and a mount namespace of its own, with a bridge, pods behind it,
//! clients outside it and an nftables proxy that lags a second behind the endpoints, as kube-proxy does.
//! Nothing on the machine's own network is touched, nodes do not see each other, and all of a node dies
//! with the process that made it, however that process ends.
//!
//! The modules, in the order in which they build on each other:
//!
//! | | |
//! |---|---|
//! | [`clock`], [`pace`], [`journal`], [`process`], [`http`] | time, and what a busy machine keeps of it, events to wait for, child processes, HTTP/1.1 |
//! | [`netns`], [`cgroup`], [`host`], [`tc`], [`sockmap`] | the kernel's side of a node |
//! | [`api`], [`manifest`], [`proxy`], [`cluster`], [`service`] | the API's side: Pods, EndpointSlices, Services, and who obeys them |
//! | [`program`], [`pod`], [`client`], [`conn`], [`load`], [`repeated`], [`mesh`] | who talks to whom |
//! | [`kubelet`], [`agent`], [`watching`] | who stops the pods, and who holds the hook |
//! | [`node`], [`scenario`] | all of it behind one handle, and a frame for tests |

pub mod agent;
pub mod api;
pub mod cgroup;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod conn;
pub mod held;
pub mod host;
pub mod http;
pub mod journal;
pub mod kubelet;
pub mod leftovers;
pub mod load;
pub mod manifest;
pub mod mesh;
pub mod netns;
pub mod node;
pub mod pace;
pub mod pod;
pub mod process;
pub mod program;
pub mod proxy;
pub mod repeated;
pub mod scenario;
pub mod service;
pub mod sockmap;
pub mod stage;
pub mod tc;
pub mod watching;

pub use agent::Agent;
pub use api::ApiServer;
pub use client::Client;
pub use conn::{Conn, Server};
pub use held::Held;
pub use kubelet::{Kubelet, Stop};
pub use leftovers::leftovers;
pub use load::Load;
pub use manifest::Hook;
pub use node::{Family, Node};
pub use pod::Pod;
pub use repeated::Repeated;
pub use stage::{PORT, Stage};
