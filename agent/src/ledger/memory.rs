//! What outlives a snapshot: how sockets changed from dump to dump, which connections were removed,
//! which turn in a closed loop.
//!
//! In: each new snapshot. Out: facts that no single snapshot shows. Everything here is bounded by the
//! latest snapshots: what neither of them holds is forgotten.

use std::collections::HashMap;

use lastcall_ebpf::abi::{Connection, FlowKey, Pod, flag, protocol};

use super::{
    TICK,
    calls::{HEARD_AFTER, Turned},
    ends::Ends,
    snapshots::{Sockets, Table},
};
use crate::{moment::Moment, sockets::TcpInfo};

/// What earlier dumps said of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    received: u64,
    acked: u64,
    /// It was there in the first dump: not a new connection, whenever it asks.
    old: bool,
    /// Its first request has been counted as a new connection's.
    asked: bool,
    /// Latest time at which the bytes of the last movement can have moved.
    pub moved: Option<Moment>,
    /// Its latest inbound bytes came between two dumps: that they came is seen, not guessed.
    pub witnessed: bool,
}

/// How often a connection has turned since the drain began.
#[derive(Clone, Copy, Debug)]
struct Turns {
    /// `exchanges` when it was first read.
    base: u32,
    /// HTTP/2: `exchanges` at a read at which no stream was open after at least one exchange.
    rest: Option<u32>,
    /// `exchanges` and the highest stream when its client, told to leave, had surely heard.
    heard: Option<(u32, u32)>,
    /// It has begun something new since.
    went_on: bool,
}

/// A TLS handshake is two turns and HTTP/2's SETTINGS one: no request among them.
const TURNS_OF_A_HANDSHAKE: u32 = 3;

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    past: HashMap<u64, Past>,
    dumps: u64,
    turns: HashMap<(FlowKey, u64), Turns>,
    /// Removed from the table by the kernel: an older dump does not bring them back. By cookie; a tuple
    /// may already belong to somebody else.
    gone: HashMap<u64, Moment>,
    /// The same for entries that never learned their cookie.
    gone_ends: HashMap<Ends, Moment>,
    /// No dump since then has shown moved bytes or a new socket.
    pub still_since: Option<Moment>,
    /// Last new connection with a request, judged by dumps alone.
    pub new_by_dumps: Option<Moment>,
    /// The same, judged by the kernel.
    pub new_by_table: Option<Moment>,
    /// First read of the table and its count of health checks: their rate.
    pub health_base: Option<(Moment, u64)>,
    /// Begin of the read before the latest.
    pub read_before: Option<Moment>,
    /// When a read last found that packets had passed since the read before.
    pub stirred: Moment,
    /// When a read last found that edge events were lost.
    pub edges_lost: Moment,
    /// Connections that went on after their clients had been told to leave, in all.
    pub stayed: u64,
}

impl Memory {
    pub(super) fn past(&self, cookie: u64) -> Past {
        self.past.get(&cookie).copied().unwrap_or_default()
    }

    /// Compares with the dump before. `new` says whether a socket's port counts for settle.
    pub(super) fn dumped(&mut self, sockets: &Sockets, counts: impl Fn(u64) -> bool) {
        let first = self.dumps == 0;
        self.dumps += 1;
        let mut still = !first && sockets.complete;
        let mut past = HashMap::with_capacity(sockets.live.len());
        for (cookie, socket) in &sockets.live {
            let info = socket.info.unwrap_or_default();
            let known = self.past.get(cookie).copied();
            let mut now = known.unwrap_or(Past { old: first, ..Past::default() });
            let came_in = info.bytes_received > now.received;
            let moved = came_in || info.bytes_acked > now.acked;
            if !first && moved {
                now.moved = Some(sockets.finished.min(latest_activity(sockets.finished, &info)));
                now.witnessed |= came_in;
            }
            if counts(*cookie) {
                still &= known.is_some() && !moved;
                if !now.old && !now.asked && info.bytes_received > 0 {
                    now.asked = true;
                    self.new_by_dumps = self.new_by_dumps.max(Some(sockets.finished));
                }
            }
            (now.received, now.acked) = (info.bytes_received, info.bytes_acked);
            past.insert(*cookie, now);
        }
        self.past = past;
        // Nothing to compare with is no stillness, but the next may begin here.
        if !still || self.still_since.is_none() {
            self.still_since = Some(sockets.finished);
        }
        // A dump that began after a removal is a newer witness than the removal.
        self.gone.retain(|_, at| *at > sockets.started);
        self.gone_ends.retain(|_, at| *at > sockets.started);
    }

    /// Compares with the read before.
    pub(super) fn read(&mut self, before: Option<&Table>, table: &Table) {
        let counters = |p: &Pod| (p.packets_in, p.packets_out, p.last_payload);
        if before.is_none_or(|b| counters(&b.pod) != counters(&table.pod)) {
            self.stirred = table.at;
        }
        if table.pod.edges_lost > before.map_or(0, |b| b.pod.edges_lost) {
            self.edges_lost = table.at;
        }
        self.read_before = before.map(|b| b.at);
        // The kernel leaves out health checks and ignored sources by itself.
        let last_new = Some(Moment(table.pod.last_new)).filter(|at| *at > Moment(0));
        self.new_by_table = self.new_by_table.max(last_new);
        self.health_base.get_or_insert((table.at, table.pod.health_connections));
        self.bury(before, table);
        let mut turns = HashMap::with_capacity(table.entries.len());
        for (key, c) in table.entries.values() {
            let id = (*key, c.first_seen);
            let mut t = self.turns.get(&id).copied().unwrap_or(Turns {
                base: if c.flags & flag::NEW == 0 { c.exchanges } else { 0 },
                rest: None,
                heard: None,
                went_on: false,
            });
            if c.flags & flag::H2_FOLLOWED != 0 && c.streams == 0 && c.exchanges > t.base {
                t.rest = t.rest.or(Some(c.exchanges));
            }
            if c.told_at != 0 && table.at >= Moment(c.told_at) + HEARD_AFTER {
                let (exchanges, highest) = *t.heard.get_or_insert((c.exchanges, c.h2_in.highest));
                let goes_on = match c.protocol {
                    // What its open streams say is no new one.
                    protocol::HTTP2 => c.h2_in.highest > highest,
                    _ => c.exchanges > exchanges,
                };
                self.stayed += u64::from(goes_on && !t.went_on);
                t.went_on |= goes_on;
            }
            turns.insert(id, t);
        }
        self.turns = turns;
    }

    /// What the read before held and this one does not, the kernel removed in between.
    fn bury(&mut self, before: Option<&Table>, table: &Table) {
        for (id, (_, old)) in before.iter().flat_map(|b| &b.entries) {
            if table.entries.get(id).is_some_and(|(_, c)| is_same(old, c)) {
                continue;
            }
            if old.cookie != 0 {
                self.gone.insert(old.cookie, table.at);
            } else {
                self.gone_ends.insert(id.1, table.at);
            }
        }
        for (_, c) in table.entries.values() {
            self.gone.remove(&c.cookie);
        }
    }

    /// The kernel has removed it since the dump that shows it.
    pub(super) fn is_gone(&self, cookie: u64, ends: Ends, dump_started: Moment) -> bool {
        self.gone.get(&cookie).is_some_and(|at| *at > dump_started)
            || self.gone_ends.get(&ends).is_some_and(|at| *at > dump_started)
    }

    /// What it has done since the drain began, for the last call.
    pub(super) fn turned(&self, key: &FlowKey, c: &Connection) -> Turned {
        let turns = self.turns.get(&(*key, c.first_seen));
        turns.map_or_else(Turned::default, |t| Turned {
            done: c.exchanges.saturating_sub(t.base),
            went_on: t.went_on,
        })
    }

    /// It has finished an exchange since the drain began, and started another.
    pub(super) fn loops(&self, key: &FlowKey, c: &Connection) -> bool {
        let Some(turns) = self.turns.get(&(*key, c.first_seen)) else { return false };
        if c.flags & flag::PIPELINED != 0 {
            return false; // Several requests at once: nobody knows which of them were answered.
        }
        let waiting = c.flags & flag::WAITING != 0;
        let done = c.exchanges.saturating_sub(turns.base);
        let seen_from_the_start = c.flags & flag::NEW != 0;
        match c.protocol {
            // A stream's messages are turns too: only a moment without streams proves one finished.
            protocol::HTTP2 => turns.rest.is_some_and(|r| c.exchanges > r || c.streams > 0),
            // Encrypted, as far as anybody can tell.
            p if p != protocol::HTTP1 && c.flags & flag::BOUNDARY == 0 && seen_from_the_start => {
                let done = done.saturating_sub(TURNS_OF_A_HANDSHAKE);
                done >= 2 || (done == 1 && waiting)
            }
            _ => done >= 2 || (done == 1 && waiting),
        }
    }

    /// The link was attached anew: what dumps showed before is no comparison for what they show next.
    pub(super) fn forget_stillness(&mut self) {
        self.still_since = None;
    }
}

/// An entry of two reads is one connection's: a tuple may have gone to another in between.
fn is_same(old: &Connection, new: &Connection) -> bool {
    if old.cookie != 0 && new.cookie != 0 {
        old.cookie == new.cookie
    } else {
        old.first_seen == new.first_seen
    }
}

/// Latest time at which anything but a keep-alive can have passed, by the socket's own ages.
fn latest_activity(finished: Moment, info: &TcpInfo) -> Moment {
    let age = info.last_data_sent.min(info.last_data_received).min(info.last_ack_received);
    finished - age + TICK
}
