//! The bytes of the packet that a program runs on.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated as helpers,
};
use lastcall_ebpf::flow::Bytes;

/// `BPF_HDR_START_NET`: offsets count from the network header, whatever the link's header is.
const FROM_NETWORK_HEADER: u32 = 1;
/// An Ethernet header, bytes.
pub(crate) const ETHERNET: u32 = 14;

/// The packet of this run.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Skb {
    /// How long the link's header is.
    ///
    /// Nothing says it, so the addresses are looked for where Ethernet, no link header at all (tunnels)
    /// or a VLAN tag would put them.
    #[inline(always)]
    pub(crate) fn link_header(self) -> Option<u32> {
        let addresses = u64::from_ne_bytes(self.load::<8>(12)?);
        for length in [ETHERNET, 0, ETHERNET + 4] {
            let there = self.payload::<8>(length + 12)?;
            if u64::from_ne_bytes(there) == addresses {
                return Some(length);
            }
        }
        None
    }

    /// Copies `len` bytes (1 to the length of `to`) from the frame's start on.
    ///
    /// Headers are always in the packet's linear part, payload often is not, and the helper that counts
    /// from the network header reads no further than the linear part (`net/core/filter.c`).
    #[inline(always)]
    pub(crate) fn copy_payload(self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: as in `copy`.
        unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), at, to.cast(), len) == 0 }
    }

    /// `N` bytes from the frame's start on.
    #[inline(always)]
    pub(crate) fn payload<const N: usize>(self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        self.copy_payload(at, bytes.as_mut_ptr(), N as u32).then_some(bytes)
    }

    /// The socket that sends this packet, or null.
    #[inline(always)]
    pub(crate) fn socket(self) -> *mut bpf_sock {
        // SAFETY: reading a context field; the verifier types it as a socket or null.
        unsafe { (*self.0).__bindgen_anon_2.sk }
    }

    /// Copies `len` bytes (1 to the length of `to`) of the headers, `false` where the packet is shorter.
    #[inline(always)]
    fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the callers pass a buffer of at least `len` bytes; the verifier checks it again.
        unsafe {
            helpers::bpf_skb_load_bytes_relative(self.0.cast(), offset, to.cast(), len, FROM_NETWORK_HEADER)
                == 0
        }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        self.copy(offset, bytes.as_mut_ptr(), N as u32).then_some(bytes)
    }

    #[inline(always)]
    fn total(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.0).len }.saturating_sub(self.link_header().unwrap_or(ETHERNET))
    }
}
