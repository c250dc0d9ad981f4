//! A second look for the sockets that a dump does not show.
//!
//! A long dump comes in batches, and a socket can be passed over between two of them when another one of
//! its hash bucket closes meanwhile (`net/ipv4/inet_diag.c`): not being in a dump is no proof.

use std::{collections::BTreeMap, net::SocketAddr};

use lastcall_ebpf::abi::{Connection, FlowKey, TCP};

use crate::{
    kernel::observer::ip,
    moment::Moment,
    sockets::{Dump, Namespace, TcpState},
};

/// A dump of fewer sockets than this came in one piece (32 KiB hold about 70).
const ONE_BATCH: usize = 50;

type Ends = (SocketAddr, SocketAddr);

/// Which sockets are known to have been there.
#[derive(Default)]
pub(super) struct SecondLook {
    /// Those of the last dump, by cookie.
    dumped: BTreeMap<u64, Ends>,
    /// Those that the table named when it was read last.
    tabled: Vec<(u64, Ends)>,
}

impl SecondLook {
    /// The table, as it was read last.
    pub(super) fn read(&mut self, entries: &[(FlowKey, Connection)]) {
        self.tabled = entries.iter().filter_map(as_socket).collect();
    }

    /// Asks for each socket by itself that the dump before or the table has and this dump has not.
    pub(super) async fn complete(&mut self, dump: &mut Dump, namespace: &Namespace) {
        let live = dump.sockets.iter().filter(|s| s.state != TcpState::Listen);
        let present = live.map(|s| (s.cookie, (s.local, s.peer))).collect();
        let mut before = std::mem::replace(&mut self.dumped, present);
        before.extend(self.tabled.iter().copied());
        if dump.sockets.len() < ONE_BATCH {
            return;
        }
        let missing: Vec<_> = before.into_iter().filter(|(c, _)| !self.dumped.contains_key(c)).collect();
        let namespace = namespace.clone();
        let found = tokio::task::spawn_blocking(move || {
            let look =
                |(cookie, (local, peer)): (u64, Ends)| namespace.look_up(local, peer, cookie).ok().flatten();
            missing.into_iter().filter_map(look).filter(|s| s.state != TcpState::TimeWait).collect::<Vec<_>>()
        });
        for socket in found.await.unwrap_or_default() {
            self.dumped.insert(socket.cookie, (socket.local, socket.peer));
            dump.sockets.push(socket);
        }
        dump.finished = Moment::now();
    }
}

/// Cookie and ends of the socket behind an entry, where a packet has shown them.
fn as_socket((key, c): &(FlowKey, Connection)) -> Option<(u64, Ends)> {
    let local = SocketAddr::new(ip(&key.local), c.socket_port);
    let peer = SocketAddr::new(ip(&key.peer), key.peer_port);
    (c.cookie != 0 && key.protocol == TCP).then_some((c.cookie, (local, peer)))
}
