//! A namespace's links and addresses, and news of their changes.
//!
//! In: rtnetlink's answers. Out: [`Link`]s.

use std::{io, net::IpAddr};

use libc::c_int;
use netlink_sys::Socket;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Link, Namespace,
    error::{Error, Result},
    wire::{Wire, WireError, attributes, bytes_at, u32_at},
};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_MESSAGE: usize = 8;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const GROUPS: [u32; 3] = [1, 5, 9]; // RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR

impl Namespace {
    /// Its links with their addresses. Blocks: the kernel may wait for others who change links.
    ///
    /// Subscribe to [`Namespace::link_events`] first, and no change between the two goes unnoticed.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Malformed`], and what opening the socket inside may give.
    pub fn links(&self) -> Result<Vec<Link>> {
        let (mut links, _) = self.ask_route("list links", |wire| {
            let mut links = Vec::new();
            let interrupted = wire.dump(RTM_GETLINK, &[0; LINK_MESSAGE], |kind, body| {
                if kind == RTM_NEWLINK {
                    links.push(link(body)?);
                }
                Ok(())
            })?;
            Ok((links, interrupted))
        })?;
        let (addresses, _) = self.ask_route("list addresses", addresses)?;
        for (index, address) in addresses {
            if let Some(link) = links.iter_mut().find(|link| link.index == index) {
                link.addresses.push(address);
            }
        }
        Ok(links)
    }

    /// [`Namespace::links`] for callers that must not block.
    ///
    /// # Errors
    /// As there, and [`Error::Runtime`].
    pub async fn links_async(&self) -> Result<Vec<Link>> {
        let namespace = self.clone();
        tokio::task::spawn_blocking(move || namespace.links()).await?
    }

    /// Subscribes to changes of links and addresses.
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Netlink`].
    pub async fn link_events(&self) -> Result<LinkEvents> {
        let open = || {
            let mut socket = Socket::new(libc::NETLINK_ROUTE as isize)?;
            socket.bind_auto()?;
            GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = self.within(open).await?;
        let failed =
            |source| Error::Netlink { operation: "watch links", namespace: self.name().into(), source };
        let register = |socket| {
            // SAFETY: the socket is owned by the `AsyncFd`, which never gives it away, and gives the
            // same descriptor as long as it lives.
            unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
        };
        let socket = socket.and_then(register).map_err(failed)?;
        Ok(LinkEvents { socket, namespace: self.name().into(), buffer: vec![0; 16 * 1024] })
    }
}

/// Changes of a namespace's links and addresses. Keeps the namespace alive, as [`Namespace`] does.
#[derive(Debug)]
pub struct LinkEvents {
    socket: AsyncFd<Socket>,
    namespace: String,
    buffer: Vec<u8>,
}

impl LinkEvents {
    /// Ends after the next change; changes that come together end it once. What has changed is for
    /// [`Namespace::links`] to tell: events may have been lost, which counts as a change. Cancelling
    /// loses nothing.
    ///
    /// # Errors
    /// [`Error::Netlink`]: the watch is broken.
    pub async fn next(&mut self) -> Result<()> {
        self.wait().await.map_err(|source| Error::Netlink {
            operation: "watch links",
            namespace: self.namespace.clone(),
            source,
        })
    }

    async fn wait(&mut self) -> io::Result<()> {
        let mut changed = false;
        loop {
            let mut ready = self.socket.readable().await?;
            loop {
                match ready.try_io(|socket| socket.get_ref().recv(&mut &mut self.buffer[..], 0)) {
                    Ok(Ok(_)) => changed = true,
                    Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                    Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(e)) => return Err(e),
                    Err(_would_block) => break,
                }
            }
            if changed {
                return Ok(());
            }
        }
    }
}

/// The addresses by which the thread's namespace can be known: none that every namespace has.
pub(super) fn addresses_here() -> io::Result<Vec<IpAddr>> {
    let everywhere = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    let mut wire = Wire::open(libc::NETLINK_ROUTE as c_int)?;
    match addresses(&mut wire) {
        Ok((found, _)) => Ok(found.into_iter().map(|(_, a)| a).filter(|a| !everywhere(a)).collect()),
        Err(WireError::Io(e)) => Err(e),
        Err(WireError::Malformed(problem)) => Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
        Err(WireError::Truncated) => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
    }
}

/// All addresses with the index of their link, and whether they changed meanwhile.
fn addresses(wire: &mut Wire) -> Result<(Vec<(u32, IpAddr)>, bool), WireError> {
    let mut found = Vec::new();
    let interrupted = wire.dump(RTM_GETADDR, &[0; ADDRESS_MESSAGE], |kind, body| {
        if kind == RTM_NEWADDR {
            found.extend(address(body)?);
        }
        Ok(())
    })?;
    Ok((found, interrupted))
}

/// Reads `struct ifinfomsg` and the name.
fn link(body: &[u8]) -> Result<Link, &'static str> {
    let short = "a link is too short";
    let index = u32_at(body, 4).ok_or(short)?;
    let flags = u32_at(body, 8).ok_or(short)?;
    let mut name = None;
    for attribute in attributes(body.get(LINK_MESSAGE..).ok_or(short)?) {
        if let (IFLA_IFNAME, value) = attribute? {
            let text = value.split(|b| *b == 0).next().unwrap_or_default();
            name = Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    let name = name.ok_or("a link has no name")?;
    Ok(Link { index, name, loopback: flags & libc::IFF_LOOPBACK as u32 != 0, addresses: Vec::new() })
}

/// Reads `struct ifaddrmsg` and the address. `IFA_LOCAL` is this end of a point-to-point link, where
/// `IFA_ADDRESS` is the other; elsewhere they agree, or only the latter is there (IPv6).
fn address(body: &[u8]) -> Result<Option<(u32, IpAddr)>, &'static str> {
    let short = "an address is too short";
    let family = c_int::from(*body.first().ok_or(short)?);
    let index = u32_at(body, 4).ok_or(short)?;
    let (mut local, mut other) = (None, None);
    for attribute in attributes(body.get(ADDRESS_MESSAGE..).ok_or(short)?) {
        match attribute? {
            (IFA_LOCAL, value) => local = ip(family, value),
            (IFA_ADDRESS, value) => other = ip(family, value),
            _ => {}
        }
    }
    Ok(local.or(other).map(|address| (index, address)))
}

fn ip(family: c_int, value: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => bytes_at::<4>(value, 0).map(IpAddr::from),
        libc::AF_INET6 => bytes_at::<16>(value, 0).map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::wire::push_attribute, *};

    fn address_message(family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 24, 0, 0, 7, 0, 0, 0];
        attributes.iter().for_each(|(kind, value)| push_attribute(&mut body, *kind, value));
        body
    }

    #[test]
    fn the_local_end_of_a_point_to_point_link_counts() {
        let body = address_message(2, &[(IFA_ADDRESS, &[10, 0, 0, 2]), (IFA_LOCAL, &[10, 0, 0, 1])]);
        assert_eq!(address(&body), Ok(Some((7, IpAddr::from([10, 0, 0, 1])))));
    }

    #[test]
    fn an_ipv6_address_has_no_local_attribute() {
        let ip = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        let IpAddr::V6(v6) = ip else { unreachable!() };
        let body = address_message(10, &[(IFA_ADDRESS, &v6.octets())]);
        assert_eq!(address(&body), Ok(Some((7, ip))));
    }

    #[test]
    fn a_link_ends_its_name_at_the_zero_byte() {
        let mut body = vec![0; LINK_MESSAGE];
        body[4] = 9;
        body[8] = libc::IFF_LOOPBACK as u8;
        push_attribute(&mut body, IFLA_IFNAME, b"lo\0");
        let expected = Link { index: 9, name: "lo".into(), loopback: true, addresses: vec![] };
        assert_eq!(link(&body), Ok(expected));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = (link(&bytes), address(&bytes));
        }
    }
}
