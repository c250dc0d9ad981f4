//! Wire types: what the kernel programs write and the agent reads, and the other way round.
//!
//! Every type is `repr(C)`, padded by hand and of an asserted size, so that both sides, built by
//! different compilers for different targets, agree. Integers are in host byte order unless a name
//! says otherwise. Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).

mod connection;
mod hook;
mod last_call;
pub mod names;
mod pod;

pub use connection::*;
pub use hook::*;
pub use last_call::*;
pub use pod::*;

/// Changes with every change of a type here. Pinned maps live in a folder of this name, so
/// an agent never reads another version's bytes.
pub const ABI_VERSION: u32 = 8;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;

/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, in network byte order.
pub type Address = [u8; 16];

/// The wire's name for a connection or flow, as seen on a link of the pod.
///
/// Where the pod redirects, the socket has another local port; [`Connection::cookie`] tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The pod's number, as in [`names::LOCALS`].
    pub pod: u32,
    /// The pod's port on the wire.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// The pod's address.
    pub local: Address,
    /// The peer's address.
    pub peer: Address,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = {
    assert!(size_of::<FlowKey>() == 44);
};

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ty),+) => { $(
            // SAFETY: `repr(C)`, integers and arrays of integers only, no implicit padding (sizes
            // asserted beside the types): every bit pattern is valid.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        super::FlowKey,
        super::Connection,
        super::Pod,
        super::Command,
        super::PortKey,
        super::Port,
        super::Handshake,
        super::StreamKey,
        super::ProbeKey,
        super::Edge,
        super::HealthPath,
        super::HookConfig,
        super::HookWait,
        super::Dial,
        super::LastCallConfig,
        super::Unread,
        super::Announcing
    );
}
