//! The pure parts, on the host.

mod announce;
mod flow;
mod http;
mod http2;
mod resync;
mod spoken;
mod tcp;
