//! Packet tables: what the kernel programs make of packets, by BPF_PROG_TEST_RUN. Needs root.
//!
//! Each table is a conversation: a packet, and what is known after it. No packet is on any link, and there is
//! no socket behind any, so connections are made by their handshakes, as most are.

mod bench;
mod talk;
mod wire;

mod frames;
mod handshakes;
mod http1;
mod http2;
mod last_call;
mod load;
