//! The hook programs, on the kubelet's calls: how they behave, and what they leave behind.

use super::Address;

/// How the hook programs behave. Written by the agent, read at every call; all zero: inert.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookConfig {
    /// Cookie of the node's network namespace: other namespaces' calls pass untouched.
    pub netns_cookie: u64,
    /// The kubelet's cgroup (v2) id, or 0 for any.
    pub cgroup: u64,
    /// The kubelet's process name, NUL-padded, or empty for any.
    pub comm: [u8; 16],
    /// The hook's port. 0: inert.
    pub port: u16,
    /// 1: `240.0.0.0/4` does not get through on this node's `lo`; a call that finds the agent home goes to
    /// `127.x.y.z`.
    pub to_loopback: u16,
    /// `SO_MARK` of the agent's listener: a listener without it is a squatter, not the agent.
    pub mark: u32,
    /// How long the hook of an unknown pod sleeps while nobody is home, milliseconds.
    pub unknown_wait_ms: u32,
    /// The same of a hostNetwork pod, whose address is the node's.
    pub direct_wait_ms: u32,
}

/// What is known of a pod's hook while nobody is home.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookWait {
    /// How long the hook sleeps, milliseconds.
    pub wait_ms: u32,
    /// 1: the pod itself listens on the hook's port; its hook is not ours.
    pub pass_through: u32,
}

/// Which pod a dial to `240.x.y.z` or `127.x.y.z` was meant for; the key is `xyz`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// The address that the kubelet dialled.
    pub pod: Address,
}

/// A connection of the kubelet, as TC will see it come in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// The pod's address.
    pub local: Address,
    /// The kubelet's address.
    pub peer: Address,
    /// The pod's port.
    pub local_port: u16,
    /// The kubelet's port.
    pub peer_port: u16,
}

/// Indices of [`super::names::HOOK_COUNTS`], an array of `u64`.
pub mod hook_count {
    /// Calls sent to the agent.
    pub const HOME: u32 = 0;
    /// Calls that found nobody home and sleep.
    pub const NOBODY_HOME: u32 = 1;
    /// Calls passed through because the pod listens on the port itself.
    pub const PASSED_THROUGH: u32 = 2;
    /// Calls of somebody who is not the kubelet, left alone.
    pub const NOT_THE_KUBELET: u32 = 3;
    /// Calls whose 24 bits were all taken by other pods.
    pub const NO_NAME: u32 = 4;
    /// Length of the array.
    pub const LEN: u32 = 8;
}

const _: () = {
    assert!(size_of::<HookConfig>() == 48);
    assert!(size_of::<HookWait>() == 8);
    assert!(size_of::<Dial>() == 16);
    assert!(size_of::<ProbeKey>() == 36);
};
