//! What is still live, and how we know. Pure: snapshots and [`Moment`]s in, values out.
//!
//! In: reads of the kernel's connection table, dumps of the pod's sockets, the ports that count, who is
//! ignored; in any order of arrival, each with its time. Out: a [`View`] for the policy, [`Line`]s for
//! people, and the table's entries that the sockets prove [`Stale`].
//!
//! The order in which to feed it, so that nothing that lives through the attach is missed: attach, then
//! dump, then read the table. A connection is then in the table, because a packet of it was seen, or in
//! the dump, because none was.
//!
//! ```text
//! table ─► snapshots ─┐                          ┌─ seen      (an entry's bits)
//! dump  ─► snapshots ─┼─► join ─► rows ─► judge ─┤                          ─► view, lines
//!          memory  ───┘                          └─ inferred  (a socket's ages)
//! ```

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use ipnet::IpNet;
use lastcall_ebpf::abi::{self, Connection, FlowKey};

use crate::{
    cluster::PortFacts,
    contract::{Audience, Contract},
    moment::Moment,
    sockets::Dump,
};

mod calls;
mod departures;
mod ends;
mod excluded;
mod inferred;
mod join;
mod judge;
mod judgement;
mod line;
mod memory;
mod ports;
mod seen;
mod snapshots;
#[cfg(test)]
mod tests;
mod view;

pub use calls::Call;
pub use judgement::{Known, Reason, State};
pub use line::Line;
pub use view::{Completeness, View};

use departures::{Departures, Gone};
use excluded::Excluded;
use judge::Frame;
use memory::Memory;
use ports::Ports;
use snapshots::{Sockets, Table};

/// Ages of sockets are jiffies, 4 to 10 ms: two within a tick are a tie.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Retransmissions of the oldest segment after which a client is **vanished**: about 13 s with the
/// smallest timeout (200 ms, doubled each time).
pub(crate) const VANISHED_AFTER: u8 = 6;
/// And for at least so long: a route that fails over is not a client that has gone.
pub(crate) const VANISHED_FOR: Duration = Duration::from_secs(10);

/// What is known of one draining pod's connections.
#[derive(Clone, Debug)]
pub struct Ledger {
    attached: Moment,
    ports: Ports,
    excluded: Excluded,
    table: Option<Table>,
    sockets: Option<Sockets>,
    memory: Memory,
    joined: join::Joined,
    last_left: Option<Moment>,
    departures: Departures,
}

/// An entry of the kernel's table whose connection has gone without a packet.
///
/// To be deleted there only if it still says the same: the tuple may have a new owner since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The entry's key.
    pub key: FlowKey,
    /// Its cookie when it was read; 0 for none.
    pub cookie: u64,
    /// Its last packet when it was read.
    pub last_packet: u64,
}

impl Ledger {
    /// Of a pod whose links have been watched since `attached`.
    pub fn new(attached: Moment) -> Self {
        Self {
            attached,
            ports: Ports::default(),
            excluded: Excluded::default(),
            table: None,
            sockets: None,
            memory: Memory::default(),
            joined: join::Joined::default(),
            last_left: None,
            departures: Departures::default(),
        }
    }

    /// A link was attached anew, or another one came: packets may have passed unseen until `at`. What the
    /// table says from before then is no longer believed, and a dump later than `at` is needed.
    pub fn attached_again(&mut self, at: Moment) {
        self.attached = self.attached.max(at);
        self.memory.forget_stillness();
    }

    /// No program watches the pod any more: dumps alone tell, until the next [`Self::table`].
    pub fn unobserved(&mut self) {
        self.table = None;
        self.rejoin(None);
    }

    /// The ports that count, from the sources; may change at any time. Without one for TCP, those that
    /// the pod listens on count.
    pub fn ports(&mut self, ports: &BTreeSet<PortFacts>) {
        self.ports.declare(ports);
        self.rejoin(None);
    }

    /// The pod has the node's network: of its sockets, those of declared ports alone are the pod's.
    pub fn shared(&mut self) {
        self.ports.share();
        self.rejoin(None);
    }

    /// At which ports clients are told to leave; nobody's where the kernel cannot.
    pub fn tell(&mut self, audience: Audience) {
        self.ports.tell(audience);
    }

    /// `ignore-sources`: their connections do not keep the pod unsettled, and are waited for only while
    /// they are being served.
    pub fn ignore(&mut self, sources: &[IpNet]) {
        self.excluded.ignore(sources);
        self.rejoin(None);
    }

    /// The kubelet's own connections that live or have lately lived. Sockets of these tuples do not
    /// count; entries of the table do, for the kernel makes none for a probe.
    pub fn probes(&mut self, probes: impl IntoIterator<Item = abi::ProbeKey>) {
        self.excluded.probes(probes);
        self.rejoin(None);
    }

    /// A full read of this pod's entries and counters, begun at `at`. One that began before the latest is
    /// ignored.
    pub fn table(&mut self, at: Moment, entries: &[(FlowKey, Connection)], pod: &abi::Pod) {
        if self.table.as_ref().is_some_and(|t| t.at > at) {
            return;
        }
        let table = Table::new(at, entries, pod);
        self.memory.read(self.table.as_ref(), &table);
        self.table = Some(table);
        self.rejoin(Some(at));
    }

    /// A dump of the pod's sockets. One that began before the latest is ignored; one that was interrupted
    /// proves what it shows and nothing by what it does not. Returns the entries of the table that it
    /// proves stale.
    pub fn dump(&mut self, dump: &Dump) -> Vec<Stale> {
        if self.sockets.as_ref().is_some_and(|s| s.started >= dump.started) {
            return Vec::new();
        }
        let mut sockets = Sockets::new(dump);
        if let Some(before) = self.sockets.as_ref().filter(|_| !sockets.complete) {
            let gone = |cookie, ends| self.memory.is_gone(cookie, ends, before.started);
            sockets.keep(before, gone);
        }
        let at = sockets.finished;
        sockets.listening.iter().for_each(|p| self.ports.listens(*p));
        let (ports, excluded) = (&self.ports, &self.excluded);
        self.memory.dumped(&sockets, |cookie| {
            sockets.live.get(&cookie).is_some_and(|s| {
                let ends = ends::Ends::of_socket(s.local, s.peer);
                ports.of_socket(ends.local.1).is_some_and(|standing| {
                    !excluded.ignores(ends.peer.0) && !excluded.is_probe(ends, standing.redirected)
                })
            })
        });
        self.sockets = Some(sockets);
        self.rejoin(Some(at));
        self.joined.stale.clone()
    }

    /// Connections that went on after their clients had been told to leave, in all.
    pub fn stayed(&self) -> u64 {
        self.memory.stayed
    }

    /// The counts, and everything else that the policy asks about.
    pub fn view(&self, now: Moment, contract: &Contract) -> View {
        view::view(self, &self.frame(now, contract))
    }

    /// Every connection that counts, for `lastcall status` and `lastcall connections`, by peer.
    pub fn lines(&self, now: Moment, contract: &Contract) -> Vec<Line> {
        line::lines(self, &self.frame(now, contract))
    }

    /// UDP flows that have been silent for `udp-idle`: entries that no packet will remove.
    pub fn expired(&self, now: Moment, contract: &Contract) -> Vec<Stale> {
        let frame = self.frame(now, contract);
        let flows = self.joined.rows.iter().filter(|r| r.udp && frame.judge(r).over);
        let stale =
            |(key, c): (FlowKey, Connection)| Stale { key, cookie: c.cookie, last_packet: c.last_packet };
        flows.filter_map(|r| r.entry.map(stale)).collect()
    }

    fn frame<'a>(&'a self, now: Moment, contract: &'a Contract) -> Frame<'a> {
        Frame {
            now,
            contract,
            attached: self.attached,
            dump: self.sockets.as_ref(),
            memory: &self.memory,
            ports: &self.ports,
        }
    }

    /// Puts the latest snapshots together. `evidence`: the time of the snapshot that is new.
    fn rejoin(&mut self, evidence: Option<Moment>) {
        let joined = join::join(
            self.table.as_ref(),
            self.sockets.as_ref(),
            &mut self.ports,
            &self.excluded,
            &self.memory,
        );
        let before = std::mem::replace(&mut self.joined, joined);
        let Some(at) = evidence else { return };
        let names: HashSet<_> = self.joined.rows.iter().flat_map(join::Row::names).collect();
        let rows = before.rows.iter().filter(|r| !r.udp && !r.names().any(|n| names.contains(&n)));
        let mut gone = Vec::new();
        for left in rows {
            let counts = !left.unimportant && !left.candidate;
            if counts {
                self.last_left = self.last_left.max(Some(at));
            }
            let counts = counts && self.ports.settles(left.ends.local.1);
            gone.extend(left.entry.map(|(_, entry)| Gone { entry, counts }));
        }
        let pod = self.table.as_ref().map(|t| t.pod).unwrap_or_default();
        self.departures.read(&gone, &pod, self.memory.read_before.unwrap_or_default(), at);
        self.departures.forget(self.memory.new_by_table.unwrap_or_default());
    }
}
