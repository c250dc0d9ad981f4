//! A small pod with a truth, and two witnesses of it that see what the real ones see.
//!
//! The truth: connections with requests, answers in pieces, acknowledgements, closes of every kind, a
//! client that vanishes, a tuple that is used again, a redirect to a proxy's port. The witnesses: a
//! connection table kept by the kernel programs' rules, and socket dumps with ages in jiffies.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lastcall_ebpf::abi::{self, Connection, FlowKey, flag, protocol};

use crate::{
    cluster::{AppProtocol, PortFacts, Transport},
    ledger::Stale,
    moment::Moment,
    sockets::{Dump, Socket, TcpInfo, TcpState},
};

const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 9);
pub(super) const HTTP: u16 = 8080;
pub(super) const SQL: u16 = 5432;
const PROXY: u16 = 15006;
const JIFFY: u64 = 4_000_000;

/// What is in flight: which connection, which of its requests.
pub(super) type InFlight = BTreeSet<(usize, u32)>;

#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub wire: u16,
    peer_port: u16,
    cookie: u64,
    pub open: bool,
    opened: Moment,
    /// A request has come (or its first bytes), its answer has not begun.
    pub unanswered: bool,
    /// Pieces of the answer that are still to come.
    pub to_send: u8,
    pub unacked: bool,
    pub client_fin: bool,
    pub server_fin: bool,
    pub vanished: bool,
    retransmits: u8,
    requests: u32,
    last_in: Moment,
    last_out: Moment,
    last_ack: Moment,
    bytes_in: u64,
    bytes_out: u64,
    entry: Option<Connection>,
    /// The request was seen by the program, so that the answer's length is known.
    followed: bool,
}

/// One snapshot on its way to the ledger, with the truth of its time.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Table { at: Moment, entries: Vec<(FlowKey, Connection)>, pod: abi::Pod },
    Dump(Dump),
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub now: Moment,
    pub conns: Vec<Conn>,
    /// Local port of sockets differs from the wire's.
    redirect: bool,
    attached: bool,
    capacity: usize,
    pod: abi::Pod,
    cookies: u64,
    /// Answers are sent in one piece: what the fallback cannot see is not asked of it.
    whole_answers: bool,
    /// Each answer but the first two tells its client to leave.
    pub tells: bool,
    /// The answers that the program saw name their protocol.
    pub recognised: bool,
    half_dump: Option<(Moment, Vec<Socket>, u64)>,
}

impl World {
    pub(super) fn new(now: Moment, redirect: bool, capacity: usize, whole_answers: bool) -> Self {
        Self {
            now,
            conns: Vec::new(),
            redirect,
            attached: false,
            capacity,
            pod: abi::Pod::default(),
            cookies: 100,
            whole_answers,
            tells: false,
            recognised: false,
            half_dump: None,
        }
    }

    pub(super) fn ports() -> BTreeSet<PortFacts> {
        let port = |port, protocol| PortFacts {
            port,
            transport: Transport::Tcp,
            protocol,
            cleartext: protocol != AppProtocol::Unknown,
            in_slice: true,
        };
        [port(HTTP, AppProtocol::Http), port(SQL, AppProtocol::Unknown)].into()
    }

    pub(super) fn attach(&mut self) {
        self.attached = true;
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    // The truth.

    /// Its client was told to leave.
    pub(super) fn is_told(&self, i: usize) -> bool {
        self.conns[i].entry.is_some_and(|e| e.told_at != 0)
    }

    pub(super) fn in_flight(&self) -> InFlight {
        let each = self.conns.iter().enumerate();
        each.filter(|(_, c)| c.in_flight()).map(|(i, c)| (i, c.requests)).collect()
    }

    pub(super) fn open(&self) -> InFlight {
        let each = self.conns.iter().enumerate();
        each.filter(|(_, c)| c.open && !c.over()).map(|(i, _)| (i, 0)).collect()
    }

    /// No table could have refused one, and no read can miss one.
    pub(super) fn refused(&self) -> bool {
        self.pod.refused > 0
    }

    // What happens.

    /// A client opens a connection, or opens one again from a port that it has used before.
    pub(super) fn opens(&mut self, wire: u16, reuse: Option<usize>) {
        let old = reuse.and_then(|i| self.conns.get_mut(i)).filter(|c| !c.open && c.wire == wire);
        let old_entry = old.map(|c| (c.peer_port, c.entry.take()));
        let peer_port = old_entry.map_or(40_000 + self.conns.len() as u16, |(port, _)| port);
        self.cookies += 1;
        let mut conn = Conn {
            wire,
            peer_port,
            cookie: self.cookies,
            open: true,
            opened: self.now,
            unanswered: false,
            to_send: 0,
            unacked: false,
            client_fin: false,
            server_fin: false,
            vanished: false,
            retransmits: 0,
            requests: 0,
            last_in: self.now,
            last_out: self.now,
            last_ack: self.now,
            bytes_in: 0,
            bytes_out: 0,
            entry: None,
            followed: false,
        };
        if self.attached {
            if self.has_room() {
                conn.entry = Some(self.entry(wire, flag::NEW));
            } else {
                self.pod.refused += 1;
            }
        }
        self.conns.push(conn);
        self.packet();
    }

    fn has_room(&self) -> bool {
        self.conns.iter().filter(|c| c.entry.is_some()).count() < self.capacity
    }

    fn packet(&mut self) {
        if self.attached {
            self.pod.packets_in += 1;
        }
    }

    fn entry(&self, wire: u16, flags: u32) -> Connection {
        Connection {
            first_seen: self.now.0,
            last_packet: self.now.0,
            flags,
            protocol: if wire == HTTP { protocol::HTTP } else { protocol::UNKNOWN },
            ..Connection::default()
        }
    }

    /// A packet leaves the pod: the entry learns its cookie, or is made.
    fn leaves(&mut self, i: usize) -> Option<&mut Connection> {
        self.packet();
        let fresh = self.entry(self.conns[i].wire, 0);
        let room = self.has_room();
        let (now, redirect, attached) = (self.now, self.redirect, self.attached);
        if attached && self.conns[i].entry.is_none() && !room {
            self.pod.refused += 1;
        }
        let conn = &mut self.conns[i];
        if !attached || (conn.entry.is_none() && !room) {
            return None;
        }
        let entry = conn.entry.get_or_insert(fresh);
        entry.cookie = conn.cookie;
        entry.socket_port = if redirect { PROXY } else { conn.wire };
        entry.last_packet = now.0;
        Some(entry)
    }

    /// Request bytes come. `acked`: the pod acknowledges them at once, by itself.
    pub(super) fn asks(&mut self, i: usize, acked: bool) {
        let Some(c) = self.conns.get(i) else { return };
        if !c.open || c.client_fin || c.server_fin || c.vanished || c.to_send > 0 || c.unanswered {
            return;
        }
        let fresh = self.entry(c.wire, 0);
        self.packet();
        let room = self.has_room();
        let (now, redirect, attached) = (self.now, self.redirect, self.attached);
        let c = &mut self.conns[i];
        // The request carries the acknowledgement of the response before it.
        (c.unanswered, c.unacked, c.retransmits) = (true, false, 0);
        c.requests += 1;
        c.bytes_in += 100;
        (c.last_in, c.last_ack) = (now, now);
        // A lookup by the wire's tuple fails where the pod redirects.
        if attached && c.entry.is_none() && !redirect {
            if room {
                c.entry = Some(fresh);
            } else {
                self.pod.refused += 1;
            }
        }
        let c = &mut self.conns[i];
        c.followed = c.entry.is_some();
        if let Some(e) = &mut c.entry {
            e.flags |= flag::IN | flag::WAITING | flag::ACKED;
            (e.last_in, e.last_packet) = (now.0, now.0);
            e.out_acked = e.out_end;
            e.bytes_in += 100;
            self.pod.last_payload = now.0;
            if e.flags & flag::NEW != 0 && e.flags & flag::COUNTED == 0 {
                e.flags |= flag::COUNTED;
                self.pod.new_connections += 1;
                self.pod.last_new = now.0;
            }
        }
        if acked {
            self.leaves(i);
        }
    }

    /// The app answers: the first of so many pieces.
    pub(super) fn answers(&mut self, i: usize, pieces: u8) {
        let Some(c) = self.conns.get(i) else { return };
        if !c.open || !c.unanswered || c.server_fin || c.vanished {
            return;
        }
        // What dumps alone cannot see is not asked of them: a response that pauses with all of it
        // acknowledged so far.
        let unseen = self.attached && c.entry.is_none() && !self.has_room();
        let pieces = if self.whole_answers || unseen { 1 } else { pieces.max(1) };
        let followed = c.followed;
        // The kernel is certain where an answer begins once it has seen a whole exchange, and the first was
        // under way when it began to look.
        let whole = followed && c.entry.is_some_and(|e| e.exchanges > 1);
        // A port that is known for something else speaks that.
        let recognised = self.recognised && c.wire == HTTP;
        let told_at = if self.tells && whole { self.now.0 } else { 0 };
        self.conns[i].unanswered = false;
        self.conns[i].to_send = pieces;
        if let Some(e) = self.leaves(i) {
            e.exchanges += 1;
            e.flags &= !flag::WAITING;
            if e.told_at == 0 {
                e.told_at = told_at;
            }
            if followed {
                e.flags |= flag::RESPONSE_LENGTH | flag::BOUNDARY;
                if recognised {
                    e.protocol = protocol::HTTP1;
                }
                e.response_end = e.out_end.wrapping_add(100 * u32::from(pieces));
            }
        }
        self.sends(i);
    }

    /// The next piece of the answer leaves.
    pub(super) fn sends(&mut self, i: usize) {
        let Some(c) = self.conns.get(i) else { return };
        if !c.open || c.to_send == 0 || c.server_fin || c.vanished {
            return;
        }
        let now = self.now;
        let c = &mut self.conns[i];
        c.to_send -= 1;
        (c.unacked, c.last_out) = (true, now);
        c.bytes_out += 100;
        if let Some(e) = self.leaves(i) {
            e.flags |= flag::OUT;
            e.last_out = now.0;
            e.out_end = e.out_end.wrapping_add(100);
            e.bytes_out += 100;
            self.pod.last_payload = now.0;
        }
    }

    /// The client acknowledges everything.
    pub(super) fn acks(&mut self, i: usize) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open && c.unacked && !c.vanished) else { return };
        (c.unacked, c.retransmits, c.last_ack) = (false, 0, self.now);
        if let Some(e) = &mut c.entry {
            e.flags |= flag::ACKED;
            e.out_acked = e.out_end;
            e.last_packet = self.now.0;
        }
        self.packet();
    }

    pub(super) fn client_closes(&mut self, i: usize) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open && !c.client_fin && !c.vanished) else {
            return;
        };
        // A FIN acknowledges what came before it.
        (c.client_fin, c.unacked, c.last_ack) = (true, false, self.now);
        if let Some(e) = &mut c.entry {
            e.flags |= flag::FIN_IN | flag::ACKED;
            e.out_acked = e.out_end;
            e.last_packet = self.now.0;
        }
        // The pod acknowledges it: a connection that had no entry gets one now, which knows of no FIN.
        if let Some(e) = self.leaves(i)
            && e.flags & flag::FIN_IN != 0
        {
            e.flags |= flag::FIN_IN_ACKED;
        }
        self.ends(i);
    }

    pub(super) fn server_closes(&mut self, i: usize) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open && !c.server_fin && !c.vanished) else {
            return;
        };
        c.server_fin = true;
        if let Some(e) = self.leaves(i) {
            e.flags |= flag::FIN_OUT;
        }
        self.ends(i);
    }

    /// Both sides have closed and everything has arrived: the kernel removes socket and entry.
    fn ends(&mut self, i: usize) {
        let c = &mut self.conns[i];
        if c.client_fin && c.server_fin {
            c.gone();
            // An entry that has not seen both FINs stays until a dump shows that its socket has gone.
            c.entry = c.entry.filter(|e| e.flags & flag::FIN_IN_ACKED == 0);
        }
    }

    /// The pod resets: socket and entry go.
    pub(super) fn resets(&mut self, i: usize) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open) else { return };
        c.gone();
        c.entry = None;
        self.packet();
    }

    /// A reset comes in, genuine or forged: the entry only takes note.
    pub(super) fn is_reset(&mut self, i: usize, forged: bool) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open && !c.vanished) else { return };
        if let Some(e) = &mut c.entry {
            e.flags |= flag::RESET_IN;
            e.last_packet = self.now.0;
        }
        if !forged {
            c.gone();
        }
        self.packet();
    }

    /// The socket goes by a timer of the kernel, without a packet. Its entry stays.
    pub(super) fn goes_silently(&mut self, i: usize) {
        if let Some(c) = self.conns.get_mut(i).filter(|c| c.open) {
            c.gone();
        }
    }

    pub(super) fn vanishes(&mut self, i: usize) {
        if let Some(c) = self.conns.get_mut(i).filter(|c| c.open) {
            c.vanished = true;
        }
    }

    pub(super) fn retransmits(&mut self, i: usize) {
        let Some(c) = self.conns.get_mut(i).filter(|c| c.open && c.unacked && c.vanished) else { return };
        c.retransmits += 1;
        self.leaves(i);
    }

    // What the witnesses say.

    pub(super) fn reads(&self) -> Report {
        let of = |c: &Conn| c.entry.map(|e| (c.key(), e));
        let mut pod = self.pod;
        pod.open = self.conns.iter().filter(|c| c.entry.is_some()).count() as u64;
        Report::Table { at: self.now, entries: self.conns.iter().filter_map(of).collect(), pod }
    }

    /// A dump begins. Sockets whose bit of `early` is set are sampled now, the others at its end.
    pub(super) fn dump_begins(&mut self, early: u64) {
        let sockets = self.sampled(|i| early >> (i % 64) & 1 == 1);
        self.half_dump = Some((self.now, sockets, early));
    }

    /// `lost`: the dump was interrupted and does not show the sockets of these bits.
    pub(super) fn dump_ends(&mut self, lost: Option<u64>) -> Option<(Moment, Report)> {
        let (started, mut sockets, early) = self.half_dump.take()?;
        sockets.extend(self.sampled(|i| early >> (i % 64) & 1 == 0));
        if let Some(lost) = lost {
            sockets.retain(|s| lost >> (s.cookie % 64) & 1 == 0);
        }
        sockets.extend([HTTP, SQL, PROXY].map(listener));
        Some((
            started,
            Report::Dump(Dump { started, finished: self.now, interrupted: lost.is_some(), sockets }),
        ))
    }

    pub(super) fn dump(&mut self) -> Report {
        self.dump_begins(0);
        self.dump_ends(None).map(|(_, report)| report).expect("it has just begun")
    }

    fn sampled(&self, chosen: impl Fn(usize) -> bool) -> Vec<Socket> {
        let each = self.conns.iter().enumerate().filter(|(i, c)| c.open && chosen(*i));
        let mut sockets: Vec<Socket> = each.map(|(_, c)| c.socket(self.now, self.redirect)).collect();
        // The proxy's own connection to the app, for each that it holds open.
        if self.redirect {
            let held = self.conns.iter().enumerate().filter(|(i, c)| c.open && chosen(*i));
            sockets.extend(held.flat_map(|(_, c)| inside(c)));
        }
        sockets
    }

    /// The agent deletes what the ledger has proved stale.
    pub(super) fn deletes(&mut self, stale: &[Stale]) {
        for c in &mut self.conns {
            let key = c.key();
            let same = |e: &Connection| {
                stale.iter().any(|s| s.key == key && s.cookie == e.cookie && s.last_packet == e.last_packet)
            };
            if c.entry.is_some_and(|e| same(&e)) {
                c.entry = None;
            }
        }
    }
}

impl Conn {
    fn in_flight(&self) -> bool {
        if !self.open || self.over() || (self.vanished && self.retransmits >= 6) {
            return false;
        }
        let owed = (self.unanswered || self.to_send > 0) && !self.server_fin;
        self.wire == SQL || owed || self.unacked
    }

    /// Nothing can be lost with it: the app has closed it and everything has arrived.
    fn over(&self) -> bool {
        self.server_fin && !self.unacked
    }

    fn gone(&mut self) {
        (self.open, self.unanswered, self.unacked, self.to_send) = (false, false, false, 0);
    }

    fn key(&self) -> FlowKey {
        FlowKey {
            pod: 1,
            local_port: self.wire,
            peer_port: self.peer_port,
            local: POD.to_ipv6_mapped().octets(),
            peer: CLIENT.to_ipv6_mapped().octets(),
            protocol: abi::TCP,
            pad: [0; 3],
        }
    }

    fn socket(&self, now: Moment, redirect: bool) -> Socket {
        let age = |then: Moment| Duration::from_nanos((now.0 / JIFFY - then.0 / JIFFY) * JIFFY);
        let state = match (self.server_fin, self.client_fin) {
            (false, false) => TcpState::Established,
            (false, true) => TcpState::CloseWait,
            (true, _) if self.unacked => TcpState::FinWait1,
            (true, _) => TcpState::FinWait2,
        };
        let fin = u32::from(state == TcpState::FinWait1);
        let unacked_bytes = if self.unacked { 100 } else { 0 };
        Socket {
            cookie: self.cookie,
            state,
            local: SocketAddr::new(IpAddr::V4(POD), if redirect { PROXY } else { self.wire }),
            peer: SocketAddr::new(IpAddr::V4(CLIENT), self.peer_port),
            inode: if self.server_fin { 0 } else { 7 },
            receive_queue: 0,
            send_queue: unacked_bytes + fin,
            retransmits: self.retransmits,
            cgroup: 0,
            mark: 0,
            info: Some(TcpInfo {
                last_data_sent: age(self.last_out.max(self.opened)),
                last_data_received: age(self.last_in.max(self.opened)),
                last_ack_received: age(self.last_ack),
                bytes_received: self.bytes_in,
                bytes_acked: self.bytes_out - u64::from(unacked_bytes),
                unacked: u32::from(self.unacked) + fin,
                not_sent: 0,
                retransmits: self.retransmits,
            }),
        }
    }
}

fn listener(port: u16) -> Socket {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    plain(any, SocketAddr::new(any.ip(), 0), TcpState::Listen, u64::from(port))
}

fn inside(c: &Conn) -> [Socket; 2] {
    let app = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), c.wire);
    let proxy = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), c.peer_port);
    let cookie = 1_000_000 + 2 * c.cookie;
    [plain(app, proxy, TcpState::Established, cookie), plain(proxy, app, TcpState::Established, cookie + 1)]
}

fn plain(local: SocketAddr, peer: SocketAddr, state: TcpState, cookie: u64) -> Socket {
    Socket {
        cookie,
        state,
        local,
        peer,
        inode: 1,
        receive_queue: 0,
        send_queue: 0,
        retransmits: 0,
        cgroup: 0,
        mark: 0,
        info: None,
    }
}
