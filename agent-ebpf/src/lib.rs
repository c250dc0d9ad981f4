//! The contract between the kernel programs and the agent, and their pure parts.
//!
//! `no_std`, without any dependency, so that the same code runs in the kernel and in tests on the host.
#![no_std]

pub mod abi;
pub mod announce;
pub mod chunks;
pub mod flow;
pub mod frames;
pub mod head;
pub mod http;
pub mod http2;
pub mod resync;
pub mod start;
pub mod tcp;
pub mod websocket;

#[cfg(test)]
extern crate std;
#[cfg(test)]
mod tests;
