//! Does this kernel say how much is to be read from a socket that is in a socket map?
//!
//! In: nothing. Out: whether FIONREAD tells the truth, by a try with a connection of this process's own. Since
//! "bpf, sockmap: Fix FIONREAD for sockmap" (early 2026, and in stable series from then on) it gives the length of
//! the map's own queue, which is empty where no program redirects, whatever waits in the socket's. No version says
//! it: 6.12.107 and 6.18 lie, 5.10.262, 6.1.176 and 7.2.13 do not.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use lastcall_ebpf::announce::{UNREAD_LOOKS, UNREAD_PLACES};

use super::sys;

/// A look at all of a pod's large requests is so many runs.
pub(super) const LOOKS: u32 = UNREAD_PLACES / UNREAD_LOOKS;
/// What is sent, to be asked for.
const BYTES: &[u8] = b"how many bytes are these?";
/// Nothing on a loopback takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks.
pub fn is_told() -> io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut peer = TcpStream::connect(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    peer.write_all(BYTES)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Comes back when they have arrived, which is at once.
    socket.peek(&mut [0])?;
    let _map = sys::socket_in_a_map(socket.as_fd())?;
    Ok(sys::unread(socket.as_fd())? == BYTES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the probe believes of a socket that is in no map.
    #[test]
    fn an_ordinary_socket_tells() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        peer.write_all(BYTES).expect("sent");
        socket.peek(&mut [0]).expect("arrived");
        assert_eq!(sys::unread(socket.as_fd()).expect("an answer"), BYTES.len());
    }
}
