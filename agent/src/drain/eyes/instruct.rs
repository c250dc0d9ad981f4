//! What one drain tells the kernel of its pod: the ports that count, health checks' paths, whose clients are to
//! leave.
//!
//! In: the pod's facts, or what it listens on. Out: entries of the kernel's maps, and the last call's programs
//! on the pod's links.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lastcall_ebpf::abi::{Port, PortKey, TCP, UDP, protocol};

use super::{
    super::{Drain, Fallback},
    Eyes,
    unread::Watch,
};
use crate::{
    cluster::{AppProtocol, PortFacts, Transport},
    contract::Audience,
    kernel::{Attach, observer::PodNumber},
};

impl Eyes {
    /// Tells the kernel which paths only health checks ask for. A hook may be earlier than the pod's facts.
    pub(in crate::drain) fn add_health_paths<'a>(
        &self,
        drain: &Drain,
        paths: impl IntoIterator<Item = &'a str>,
    ) {
        let (Some(observer), Some(number)) = (&self.services.observer, self.number) else { return };
        if let Err(e) = observer.add_health_paths(number, paths) {
            tracing::warn!(error = %crate::causes(&e), "health checks of {drain} count as traffic");
        }
    }

    /// At which ports clients are told to leave, from the next [`Self::set_ports`] on.
    pub(in crate::drain) fn tell(&mut self, audience: Audience) {
        self.audience = audience;
    }

    /// Tells the kernel which ports count, and at which clients are told to leave: those that the cluster
    /// names, or those listened on.
    pub(in crate::drain) fn set_ports(
        &mut self,
        drain: &Drain,
        facts: Option<&BTreeSet<PortFacts>>,
        listening: &[(u16, u8)],
    ) {
        let (Some(observer), Some(number)) = (self.services.observer.clone(), self.number) else { return };
        let named: Vec<(PortKey, Port)> =
            facts.into_iter().flatten().map(|p| as_map_entry(number, p, self.audience)).collect();
        let wanted: Vec<_> = if named.is_empty() {
            let unnamed = |&(port, protocol): &(u16, u8)| {
                let key = PortKey { pod: number.0, port, protocol, pad: 0 };
                let announce = u8::from(protocol == TCP && self.audience.includes(false));
                (key, Port { protocol: protocol::UNKNOWN, settles: 1, announce, pad: 0 })
            };
            listening.iter().map(unnamed).collect()
        } else {
            // Without a slice nothing says which of its ports clients come to: all may.
            let any = named.iter().any(|(_, p)| p.settles != 0);
            named
                .into_iter()
                .map(|(k, p)| (k, Port { settles: if any { p.settles } else { 1 }, ..p }))
                .collect()
        };
        self.announces |= wanted.iter().any(|(_, p)| p.announce != 0);
        if let Err(e) = observer.set_ports(number, wanted) {
            tracing::warn!(error = %crate::causes(&e), "{drain}: its ports find no place in the kernel's map");
            self.fall_back(drain, Fallback::AttachFailed);
        }
    }

    /// Attaches the last call's programs where they are wanted and not there yet.
    pub(in crate::drain) async fn announce(&mut self, drain: &Drain) {
        if !self.announces || self.services.announcer.is_none() {
            return;
        }
        let Some(observer) = self.services.observer.clone() else { return };
        let missing: Vec<(u32, Attach)> = self
            .attachments
            .iter()
            .filter(|(index, _)| !self.announcing.contains(index))
            .map(|(i, a)| (*i, a.how()))
            .collect();
        if missing.is_empty() {
            return;
        }
        let names: BTreeMap<u32, String> = match self.namespace.links_async().await {
            Ok(links) => links.into_iter().map(|l| (l.index, l.name)).collect(),
            Err(_) => return,
        };
        for (index, how) in missing {
            let Some(name) = names.get(&index).cloned() else { continue };
            // Not again, whatever comes of it.
            self.announcing.insert(index);
            let _place = self.services.paces.enter().await;
            let observer = Arc::clone(&observer);
            match self.namespace.within(move || observer.attach_last_call(&name, how)).await {
                Ok(Ok(more)) => {
                    if let Some(attachment) = self.attachments.get_mut(&index) {
                        attachment.and(more);
                    }
                    self.watch_unread();
                }
                Ok(Err(e)) => {
                    tracing::warn!(error = %crate::causes(&e), "{drain}: no client is told to leave");
                    self.not_announcing = Some(crate::causes(&e));
                }
                Err(e) => {
                    tracing::debug!(error = %crate::causes(&e), "{drain}: gone before its clients were told")
                }
            }
        }
    }

    fn watch_unread(&mut self) {
        if let (None, Some(announcer), Some(number)) = (&self.unread, &self.services.announcer, self.number)
            && !announcer.tells_unread()
        {
            self.unread = Some(Watch::start(Arc::clone(announcer), number, self.namespace.clone()));
        }
    }

    /// Why no client can be told to leave, whoever asks for it.
    pub(in crate::drain) fn cannot_tell(&self) -> Option<&str> {
        let refused = || self.not_announcing.as_deref().or(self.services.no_announcer.as_deref());
        self.fallback.map(Fallback::why).or_else(refused)
    }
}

fn as_map_entry(number: PodNumber, p: &PortFacts, audience: Audience) -> (PortKey, Port) {
    let transport = match p.transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    };
    let protocol = match p.protocol {
        AppProtocol::Http => protocol::HTTP,
        AppProtocol::Http2 => protocol::HTTP2,
        AppProtocol::Unknown => protocol::UNKNOWN,
    };
    let key = PortKey { pod: number.0, port: p.port, protocol: transport, pad: 0 };
    let announce = u8::from(transport == TCP && audience.includes(p.cleartext));
    (key, Port { protocol, settles: u8::from(p.in_slice), announce, pad: 0 })
}
