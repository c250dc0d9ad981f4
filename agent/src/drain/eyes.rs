//! How one drain sees its pod: the kernel's table through TC, and sock_diag's dumps.
//!
//! In: the pod's namespace. Out: reads and dumps for the ledger. Attach first, dump second: a
//! connection that lives through the attach is in one of the two. What cannot be attached to, or
//! turns out blind, is polled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use lastcall_ebpf::abi::{self, Connection, FlowKey, TCP, UDP};

use super::{Drain, Fallback, Happened, Services, probes, second_look::SecondLook};
use crate::{
    cluster::PodFacts,
    contract::Audience,
    kernel::{Attach, Attachment, observer::PodNumber},
    moment::Moment,
    sockets::{Dump, Filter, Link, LinkEvents, Namespace, TcpState},
};

/// Polling interval of a pod that the kernel programs do not see.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// Interval of the dumps that heal what packets did not show.
pub(super) const RECONCILE: Duration = Duration::from_secs(1);

mod instruct;
mod unread;

/// One read of the kernel's table.
pub(super) struct Table {
    /// When it was read.
    pub(super) at: Moment,
    /// The pod's entries.
    pub(super) entries: Vec<(FlowKey, Connection)>,
    /// The pod's counters.
    pub(super) pod: abi::Pod,
}

/// The eyes of one drain.
pub(super) struct Eyes {
    services: Arc<Services>,
    namespace: Namespace,
    number: Option<PodNumber>,
    attachments: BTreeMap<u32, Attachment>,
    /// Links with the last call's programs.
    announcing: BTreeSet<u32>,
    /// Clients of some port are to be told to leave.
    announces: bool,
    /// Why they could not be attached to a link.
    not_announcing: Option<String>,
    /// Looks for large requests that have been read, where the kernel needs that.
    unread: Option<unread::Watch>,
    addresses: BTreeSet<IpAddr>,
    fallback: Option<Fallback>,
    /// At which ports clients are told to leave.
    audience: Audience,
    /// Bytes received on counted sockets at the last dump, and packets that had come in when it began: one
    /// that came while the sockets were listed must not be missed in the next comparison.
    witnessed: Option<(u64, u64)>,
    second_look: SecondLook,
}

impl Eyes {
    /// Opens them: tracks the pod's addresses and attaches to its links.
    pub(super) async fn open(
        services: Arc<Services>,
        drain: &Drain,
        namespace: Namespace,
        facts: Option<&PodFacts>,
        audience: Audience,
    ) -> Self {
        let mut eyes = Self {
            services,
            namespace,
            number: None,
            attachments: BTreeMap::new(),
            announcing: BTreeSet::new(),
            announces: false,
            not_announcing: None,
            unread: None,
            addresses: BTreeSet::new(),
            fallback: None,
            audience,
            witnessed: None,
            second_look: SecondLook::default(),
        };
        if eyes.namespace.is_node() {
            eyes.fall_back(drain, Fallback::HostNetwork);
        } else if eyes.services.attach.is_none() {
            eyes.fall_back(drain, Fallback::Forced);
        } else if eyes.services.observer.is_none() {
            eyes.fall_back(drain, Fallback::NoEbpf);
        } else {
            eyes.look_at_links(drain).await;
            eyes.set_ports(drain, facts.map(|f| &f.ports), &[]);
            eyes.add_health_paths(drain, eyes.services.health_paths.iter().map(String::as_str));
            eyes.add_health_paths(
                drain,
                facts.into_iter().flat_map(|f| f.health_paths.iter().map(String::as_str)),
            );
            eyes.announce(drain).await;
        }
        eyes
    }

    /// The programs see this pod, as far as is known.
    pub(super) fn by_kernel(&self) -> bool {
        self.fallback.is_none() && self.number.is_some()
    }

    /// Why it is polled.
    pub(super) fn fallback(&self) -> Option<Fallback> {
        self.fallback
    }

    /// The pod's number in the kernel's maps.
    pub(super) fn number(&self) -> Option<PodNumber> {
        self.number
    }

    fn fall_back(&mut self, drain: &Drain, why: Fallback) {
        if self.fallback.is_none() {
            self.fallback = Some(why);
            drain.happened(&Happened::FellBack(why));
        }
    }

    /// How long it takes until each client has had its turn to be told: of a short grace, a small part.
    fn told_within(&self, drain: &Drain) -> Duration {
        let facts = drain.identity().facts;
        let deletion = facts.as_ref().and_then(|f| f.terminating.as_ref()?.grace);
        let grace = deletion.or(facts.as_ref().and_then(|f| f.termination_grace));
        self.services.told_within.min(grace.unwrap_or(self.services.bounds.default_grace) / 8)
    }

    /// Attaches to links that are new, and tracks addresses that are new. Called at the start and
    /// whenever a link or address of the namespace changes.
    pub(super) async fn look_at_links(&mut self, drain: &Drain) {
        let Some(observer) = self.services.observer.clone() else { return };
        let links = match self.namespace.links_async().await {
            Ok(links) => links,
            Err(e) => {
                tracing::warn!(error = %crate::causes(&e), "{drain}: its links cannot be listed");
                return self.fall_back(drain, Fallback::AttachFailed);
            }
        };
        let addresses: BTreeSet<IpAddr> =
            links.iter().flat_map(|l| l.addresses.iter().copied()).filter(|a| counts(*a)).collect();
        match self.number {
            None => match observer.track(&addresses, self.told_within(drain)) {
                Ok(number) => {
                    self.services.wakes().insert(number, Arc::clone(&drain.wake));
                    self.number = Some(number);
                }
                Err(e) => {
                    tracing::warn!(error = %crate::causes(&e), "{drain}: its packets cannot be told apart");
                    return self.fall_back(drain, Fallback::AttachFailed);
                }
            },
            Some(number) => {
                let new: BTreeSet<IpAddr> = addresses.difference(&self.addresses).copied().collect();
                if let Err(e) = observer.add_addresses(number, &new) {
                    tracing::warn!(error = %crate::causes(&e), "{drain}: an address of its cannot be told apart");
                    self.fall_back(drain, Fallback::AttachFailed);
                }
            }
        }
        self.addresses.extend(addresses);
        let present: BTreeSet<u32> = links.iter().map(|l| l.index).collect();
        let gone: Vec<u32> = self.attachments.keys().filter(|i| !present.contains(i)).copied().collect();
        for index in gone {
            self.announcing.remove(&index);
            if let Some(attachment) = self.attachments.remove(&index) {
                attachment.abandon();
            }
        }
        for link in links.into_iter().filter(|l| !l.loopback) {
            if !self.attachments.contains_key(&link.index)
                && let Err(e) = self.attach(&link).await
            {
                tracing::warn!(error = %crate::causes(&*e), "{drain}: {} cannot be attached to", link.name);
                self.fall_back(drain, Fallback::AttachFailed);
            }
        }
    }

    async fn attach(&mut self, link: &Link) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(observer) = self.services.observer.clone() else { return Ok(()) };
        let place = self.services.paces.enter().await;
        let how = self.services.attach.choose(place.crowded());
        let name = link.name.clone();
        let first = self
            .namespace
            .within({
                let (observer, name) = (Arc::clone(&observer), name.clone());
                move || observer.attach(&name, how)
            })
            .await?;
        let attachment = match first {
            Err(e) if how == Attach::Tcx && self.services.attach.may_fall_back() => {
                tracing::debug!(error = %crate::causes(&e), "no TCX here, trying clsact");
                let attached =
                    self.namespace.within(move || observer.attach(&name, Attach::Clsact)).await??;
                self.services.attach.no_tcx();
                attached
            }
            other => other?,
        };
        self.attachments.insert(link.index, attachment);
        Ok(())
    }

    /// Arms the pod's edge event, then reads its table: what ends after the read sends an event.
    pub(super) fn read(&mut self, drain: &Drain) -> Option<Table> {
        let (Some(observer), Some(number)) = (self.services.observer.clone(), self.number) else {
            return None;
        };
        let read = observer.arm(number).and_then(|()| {
            let at = Moment::now();
            let entries = observer.connections(number)?;
            Ok(Table { at, entries, pod: observer.pod(number)? })
        });
        match read {
            Ok(table) => {
                self.second_look.read(&table.entries);
                if table.pod.refused > 0 {
                    self.fall_back(drain, Fallback::TableFull);
                }
                Some(table)
            }
            Err(e) => {
                tracing::warn!(error = %crate::causes(&e), "{drain}: the kernel's table cannot be read");
                self.fall_back(drain, Fallback::AttachFailed);
                None
            }
        }
    }

    /// Dumps the namespace's sockets.
    pub(super) async fn dump(&mut self, drain: &Drain) -> Option<Dump> {
        let before = self.packets_in();
        match self.namespace.dump_async(Filter::drain()).await {
            Ok(mut dump) => {
                self.second_look.complete(&mut dump, &self.namespace).await;
                self.compare(drain, &dump, before);
                Some(dump)
            }
            Err(e) => {
                tracing::warn!(error = %crate::causes(&e), "{drain}: its sockets cannot be dumped");
                None
            }
        }
    }

    /// TCP and UDP ports that somebody listens on in the namespace.
    pub(super) async fn listening(&self, dump: &Dump) -> Vec<(u16, u8)> {
        let tcp = dump.sockets.iter().filter(|s| s.state == TcpState::Listen).map(|s| (s.local.port(), TCP));
        let mut ports: BTreeSet<(u16, u8)> = tcp.collect();
        let namespace = self.namespace.clone();
        if let Ok(Ok(udp)) = tokio::task::spawn_blocking(move || namespace.listening_udp_ports()).await {
            ports.extend(udp.into_iter().map(|p| (p, UDP)));
        }
        ports.into_iter().collect()
    }

    /// Bytes that come in while no packet is seen to: something before our program ends the packets' way.
    /// Blind to what goes out we only wait longer. `before`: packets seen when this dump began.
    fn compare(&mut self, drain: &Drain, dump: &Dump, before: Option<u64>) {
        if !self.by_kernel() {
            return;
        }
        let (Some(packets), Some(before)) = (self.packets_in(), before) else { return };
        let outside = |s: &&crate::sockets::Socket| {
            !s.peer.ip().is_loopback() && !self.addresses.contains(&s.peer.ip())
        };
        let infos = dump.sockets.iter().filter(outside).filter_map(|s| s.info.as_ref());
        let received = infos.map(|i| i.bytes_received).sum();
        if let Some((received_before, packets_before)) = self.witnessed
            && received > received_before
            && packets == packets_before
        {
            self.fall_back(drain, Fallback::Blind);
        }
        self.witnessed = Some((received, before));
    }

    /// Packets to the pod that the programs have seen.
    fn packets_in(&self) -> Option<u64> {
        Some(self.services.observer.as_ref()?.pod(self.number?).ok()?.packets_in)
    }

    /// Takes entries out of the kernel's table that a dump has proved gone.
    pub(super) fn remove_stale(&self, table: &Table, stale: &[FlowKey]) -> u64 {
        let (Some(observer), Some(_)) = (&self.services.observer, self.number) else { return 0 };
        let entry = |key: &FlowKey| table.entries.iter().find(|(k, _)| k == key);
        stale.iter().filter_map(entry).filter(|(k, c)| observer.remove_stale(*k, c).unwrap_or(false)).count()
            as u64
    }

    /// The sockets that are the pod's ends of the kubelet's connections, by their own tuples. `wires`: the
    /// TCP ports that the kubelet may have dialled.
    pub(super) fn probes(&self, dump: &Dump, wires: &[u16]) -> Vec<abi::ProbeKey> {
        let Some(observer) = &self.services.observer else { return Vec::new() };
        probes::among(dump, &self.addresses, wires, |key| observer.probe(key))
    }

    /// Closes them. A namespace that lives on gets its links back as they were; a dying one takes
    /// the programs with it.
    pub(super) async fn close(self) {
        let attachments: Vec<Attachment> = self.attachments.into_values().collect();
        if self.namespace.is_gone() {
            for attachment in attachments {
                attachment.abandon();
            }
        } else if !attachments.is_empty() {
            let _place = self.services.paces.enter().await;
            let detach = move || attachments.into_iter().for_each(Attachment::detach);
            if let Err(e) = self.namespace.within(detach).await {
                tracing::debug!(error = %crate::causes(&e), "a namespace went while its links were detached");
            }
        }
        if let (Some(observer), Some(number)) = (&self.services.observer, self.number) {
            self.services.wakes.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            if let Some(announcer) = &self.services.announcer {
                announcer.forget(number);
            }
            observer.forget(number);
        }
    }
}

/// Addresses that outside connections come to.
fn counts(a: IpAddr) -> bool {
    let link_local = matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !a.is_loopback() && !link_local
}

/// The next change of a link; never, where they cannot be watched.
pub(super) async fn link_change(links: &mut Option<LinkEvents>) {
    if let Some(events) = links {
        match events.next().await {
            Ok(()) => return,
            Err(e) => {
                tracing::warn!(error = %crate::causes(&e), "changes of a pod's links go unnoticed from now on");
                *links = None;
            }
        }
    }
    std::future::pending().await
}
