//! Edge events: the ring buffer, awaited.

use std::io;

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use lastcall_ebpf::abi::{Edge, names};
use tokio::io::unix::AsyncFd;

use super::{Error, map_error, take};

/// The kernel's "look now".
pub struct Edges {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Edges {
    /// Takes the ring out of the object. Needs a tokio runtime.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let ring: RingBuf<MapData> = take(ebpf, names::EDGES)?;
        // SAFETY: the ring owns its descriptor and gives the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.map_err(map_error("poll", names::EDGES))? })
    }

    /// Waits for events and hands each to `each`.
    pub async fn next(&mut self, mut each: impl FnMut(Edge)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        while let Some(item) = ring.next() {
            if let Some(edge) = decode(&item) {
                each(edge);
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

fn decode(b: &[u8]) -> Option<Edge> {
    Some(Edge {
        at: u64::from_ne_bytes(b.get(0..8)?.try_into().ok()?),
        pod: u32::from_ne_bytes(b.get(8..12)?.try_into().ok()?),
        kind: u32::from_ne_bytes(b.get(12..16)?.try_into().ok()?),
    })
}
