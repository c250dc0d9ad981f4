//! Netlink's wire format, and one dump over one socket.
//!
//! In: a request. Out: the bodies of the answers. Written out here, because sock_diag's filters and
//! newer attributes are in no crate, and because a reader of two attributes must not fail on a link
//! whose twenty others a kernel of next year has changed. The pure parts never panic, whatever
//! arrives.

use std::{io, time::Duration};

use netlink_sys::Socket;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// The upper bits of `nla_type` are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// What is dumped changed meanwhile; set by the kernel on the message that noticed.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// The kernel fills at most 32 KiB at a time, and only if it has seen us offer as much
/// (`netlink_dump`, net/netlink/af_netlink.c). One link with many virtual functions may be larger.
const BUFFER: usize = 64 * 1024;
/// The kernel answers in the call that asks. This only bounds the wait for one that does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a request failed.
#[derive(Debug)]
pub(super) enum WireError {
    /// The kernel's error, or the socket's.
    Io(io::Error),
    /// The answer cannot be read.
    Malformed(&'static str),
    /// A message did not fit. The buffer has grown; ask again.
    Truncated,
}

impl From<io::Error> for WireError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl WireError {
    /// Asking again, over a new socket, may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // ENOBUFS: an answer was dropped; EBUSY: the last dump has not ended.
            Self::Io(e) => matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EBUSY)),
            Self::Malformed(_) => false,
            Self::Truncated => true,
        }
    }
}

/// A netlink socket, which stays in the namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Wire {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_SOCK_DIAG`) in the thread's namespace.
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(protocol as isize)?;
        socket.bind_auto()?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks for a dump and gives each answer's type and body to `each`. Reads to the end even where
    /// `each` fails, so that the next request finds a clean socket.
    ///
    /// Returns whether the kernel said that the dump was interrupted by a change.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl FnMut(u16, &[u8]) -> Result<(), &'static str>,
    ) -> Result<bool, WireError> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.receive(true, each)
    }

    /// Asks for one object, which the kernel answers with one message or an error.
    pub(super) fn get(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl FnMut(u16, &[u8]) -> Result<(), &'static str>,
    ) -> Result<(), WireError> {
        self.send(kind, 0, body)?;
        self.receive(false, each).map(drop)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(kind, NLM_F_REQUEST | flags, self.sequence, body), 0).map(drop)
    }

    fn receive(
        &mut self,
        many: bool,
        mut each: impl FnMut(u16, &[u8]) -> Result<(), &'static str>,
    ) -> Result<bool, WireError> {
        let mut interrupted = false;
        let mut failed = None;
        loop {
            let length = match self.socket.recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok((length, sender)) if sender.port_number() == 0 => length,
                // Not from the kernel: a pod that has CAP_NET_ADMIN may send to sockets in its namespace.
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if length > self.buffer.len() {
                self.buffer.resize(length.next_power_of_two(), 0);
                failed = Some(WireError::Truncated);
                if many {
                    continue;
                }
                return Err(WireError::Truncated);
            }
            for message in messages(&self.buffer[..length]) {
                let message = message.map_err(WireError::Malformed)?;
                if message.sequence != self.sequence {
                    continue; // the tail of an earlier request that was given up
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        // Both carry an errno: a dump may fail half-way and say so at its end.
                        // Only NLMSG_DONE may come without one.
                        let code = match i32_at(message.body, 0) {
                            None if message.kind == NLMSG_ERROR => {
                                return Err(WireError::Malformed("an error without a number"));
                            }
                            code => code.unwrap_or(0),
                        };
                        return match failed {
                            _ if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg()).into()),
                            Some(e) => Err(e),
                            None => Ok(interrupted),
                        };
                    }
                    kind => {
                        if let Err(problem) = each(kind, message.body) {
                            failed.get_or_insert(WireError::Malformed(problem));
                        }
                        if !many {
                            return failed.map_or(Ok(interrupted), Err);
                        }
                    }
                }
            }
        }
    }
}

/// A request: header and body.
fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes()); // nlmsg_pid: the kernel knows
    bytes.extend(body);
    bytes
}

/// Appends an attribute, padded to four bytes.
pub(super) fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram; ends after the first that is malformed.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Result<Message<'_>, &'static str>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = (|| {
            let length = u32_at(rest, 0)? as usize;
            let message = Message {
                kind: u16_at(rest, 4)?,
                flags: u16_at(rest, 6)?,
                sequence: u32_at(rest, 8)?,
                body: rest.get(HEADER..length)?,
            };
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(message)
        })();
        if message.is_none() {
            rest = &[];
        }
        Some(message.ok_or("a message's length does not fit its datagram"))
    })
}

/// The attributes of a message: type and value; ends after the first that is malformed.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), &'static str>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attribute = (|| {
            let length = u16_at(rest, 0)? as usize;
            let attribute = (u16_at(rest, 2)? & ATTRIBUTE_TYPE, rest.get(ATTRIBUTE_HEADER..length)?);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(attribute)
        })();
        if attribute.is_none() {
            rest = &[];
        }
        Some(attribute.ok_or("an attribute's length does not fit its message"))
    })
}

/// `N` bytes at an offset, if there are as many.
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// In the host's order, as netlink has it everywhere but in addresses and ports.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

/// In the host's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

/// In the host's order.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes_at(bytes, at).map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_reads_back() {
        let bytes = request(20, 0x301, 7, b"abcd");
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read, [Ok(Message { kind: 20, flags: 0x301, sequence: 7, body: b"abcd" })]);
    }

    #[test]
    fn messages_follow_each_other_padded() {
        let mut bytes = request(1, 0, 1, b"odd");
        bytes.push(0);
        bytes.extend(request(2, 0, 1, b""));
        let kinds: Vec<_> = messages(&bytes).map(|m| m.map(|m| m.kind)).collect();
        assert_eq!(kinds, [Ok(1), Ok(2)]);
    }

    #[test]
    fn a_length_beyond_the_datagram_is_an_error_and_the_end() {
        let mut bytes = request(1, 0, 1, b"body");
        bytes[0] = 200;
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 1);
        assert!(read[0].is_err());
    }

    #[test]
    fn a_length_below_the_header_is_an_error_and_the_end() {
        let mut bytes = request(1, 0, 1, b"body");
        bytes[0] = 4;
        assert!(messages(&bytes).next().is_some_and(|m| m.is_err()));
        assert!(attributes(&[2, 0, 1, 0]).next().is_some_and(|a| a.is_err()));
    }

    #[test]
    fn attributes_lose_their_flags_and_their_padding() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3 | 0x8000, b"eth0\0");
        push_attribute(&mut bytes, 4, b"");
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [Ok((3, &b"eth0\0"[..])), Ok((4, &b""[..]))]);
    }

    const RTM_NEWLINK: u16 = 16;
    const RTM_GETLINK: u16 = 18;
    const RTM_GETADDR: u16 = 22;

    /// The types of the answers to a dump.
    fn kinds(wire: &mut Wire, kind: u16) -> Result<Vec<u16>, WireError> {
        let mut kinds = Vec::new();
        wire.dump(kind, &[0; 16], |kind, _| {
            kinds.push(kind);
            Ok(())
        })
        .map(|_| kinds)
    }

    /// Links of the machine come and go; those of a namespace of one's own do not. Without the right to one it
    /// has to be the machine's.
    fn among_links_that_stay(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
                test();
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    #[test]
    fn a_message_that_does_not_fit_makes_the_buffer_grow() {
        among_links_that_stay(|| {
            let mut wire = Wire::open(libc::NETLINK_ROUTE).unwrap();
            let links = kinds(&mut wire, RTM_GETLINK).unwrap();
            wire.buffer = vec![0; 64];
            let truncated = kinds(&mut wire, RTM_GETLINK);
            assert!(matches!(truncated, Err(WireError::Truncated)), "{truncated:?}");
            assert_eq!(kinds(&mut wire, RTM_GETLINK).unwrap(), links);
        });
    }

    #[test]
    fn the_answer_to_an_earlier_request_is_passed_over() {
        let mut wire = Wire::open(libc::NETLINK_ROUTE).unwrap();
        let mut loopback = [0; 16];
        loopback[4] = 1;
        wire.send(RTM_GETLINK, 0, &loopback).unwrap(); // and never read
        let read = kinds(&mut wire, RTM_GETADDR).unwrap();
        assert!(!read.contains(&RTM_NEWLINK), "{read:?}");
    }

    #[test]
    fn an_error_of_the_kernel_keeps_its_number() {
        let mut wire = Wire::open(libc::NETLINK_ROUTE).unwrap();
        let nowhere =
            wire.get(RTM_GETLINK, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0], |_, _| {
                Ok(())
            });
        let Err(WireError::Io(e)) = nowhere else { panic!("{nowhere:?}") };
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn what_does_not_come_from_the_kernel_is_passed_over() {
        crate::sockets::tests_fixture::needs_root!();
        among_links_that_stay(|| {
            let mut wire = Wire::open(libc::NETLINK_ROUTE).unwrap();
            let links = kinds(&mut wire, RTM_GETLINK).unwrap();
            let mut address = netlink_sys::SocketAddr::new(0, 0);
            wire.socket.get_address(&mut address).unwrap();
            let forger = Socket::new(libc::NETLINK_ROUTE as isize).unwrap();
            let end = request(NLMSG_DONE, 0, wire.sequence + 1, &0_u32.to_ne_bytes());
            forger.send_to(&end, &address, 0).unwrap();
            assert_eq!(kinds(&mut wire, RTM_GETLINK).unwrap(), links);
        });
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes: Vec<u8>) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
