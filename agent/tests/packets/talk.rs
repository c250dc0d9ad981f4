//! A conversation of a peer with the pod, and what the table knows of it after each packet.

use std::net::SocketAddr;

use lastcall_agent::kernel::observer::Direction;
use lastcall_ebpf::abi::{Connection, flag, protocol};

use crate::{
    bench::{Bench, POD, POD6},
    wire::{ACK, FIN, RST, SYN, Segment},
};

/// One packet. Sequence numbers go on by themselves; payload carries the acknowledgement of all before.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Syn,
    SynAck,
    /// Without payload, from the peer.
    AckIn,
    AckOut,
    In(&'a [u8]),
    Out(&'a [u8]),
    /// The same bytes once more: what was sent last by that side.
    AgainIn,
    AgainOut,
    /// Bytes that leave a gap of so many before them, and those that fill it.
    Ahead(usize, &'a [u8]),
    Behind(&'a [u8]),
    /// One old byte, as a keep-alive probe has.
    ProbeIn,
    FinIn,
    FinOut,
    RstIn,
    RstOut,
}

pub(crate) use Step::*;

impl std::fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, bytes) = match self {
            In(b) => ("In", *b),
            Out(b) => ("Out", *b),
            Ahead(_, b) => ("Ahead", *b),
            Behind(b) => ("Behind", *b),
            _ => ("a segment without new payload", b"".as_slice()),
        };
        write!(f, "{name} \"{:.60}\"", bytes.escape_ascii().to_string())
    }
}

/// Where both sides are in the circle of sequence numbers; the pod's wrap soon.
pub(crate) struct Talk<'a> {
    bench: &'a mut Bench,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) peers: u32,
    pub(crate) pods: u32,
    /// What the pod has acknowledged.
    acked: u32,
    last_in: Vec<u8>,
    last_out: Vec<u8>,
}

impl<'a> Talk<'a> {
    /// With a port of the pod, by IPv4.
    pub(crate) fn with(bench: &'a mut Bench, port: u16) -> Self {
        let local = SocketAddr::new(POD.parse().expect("an address"), port);
        Self::between(bench, local, "192.0.2.7:40000".parse().expect("an address"))
    }

    /// The same by IPv6.
    pub(crate) fn with6(bench: &'a mut Bench, port: u16) -> Self {
        let local = SocketAddr::new(POD6.parse().expect("an address"), port);
        Self::between(bench, local, "[2001:db8::7]:40000".parse().expect("an address"))
    }

    pub(crate) fn between(bench: &'a mut Bench, local: SocketAddr, peer: SocketAddr) -> Self {
        let (last_in, last_out) = (Vec::new(), Vec::new());
        Self { bench, local, peer, peers: 1000, pods: u32::MAX - 20, acked: 1000, last_in, last_out }
    }

    /// With its handshake done.
    pub(crate) fn open(bench: &'a mut Bench, port: u16) -> Self {
        let mut talk = Self::with(bench, port);
        talk.shake();
        talk
    }

    pub(crate) fn shake(&mut self) {
        for step in [Syn, SynAck, AckIn] {
            self.take(step);
        }
    }

    pub(crate) fn bench(&mut self) -> &mut Bench {
        self.bench
    }

    /// One segment with these numbers, as it is.
    pub(crate) fn segment(&self, direction: Direction, flags: u8, sequence: u32, ack: u32, payload: &[u8]) {
        let (from, to) = match direction {
            Direction::In => (self.peer, self.local),
            Direction::Out => (self.local, self.peer),
        };
        let segment = Segment { from, to, sequence, acknowledgement: ack, flags, payload };
        self.bench.show(direction, &segment.frame());
    }

    fn comes(&self, flags: u8, sequence: u32, payload: &[u8]) {
        self.segment(Direction::In, flags, sequence, self.pods, payload);
    }

    fn leaves(&self, flags: u8, sequence: u32, payload: &[u8]) {
        self.segment(Direction::Out, flags, sequence, self.acked, payload);
    }

    pub(crate) fn take(&mut self, step: Step<'_>) {
        let length = |b: &[u8]| b.len() as u32;
        match step {
            Syn => {
                self.segment(Direction::In, SYN, self.peers, 0, b"");
                self.peers = self.peers.wrapping_add(1);
            }
            SynAck => {
                self.acked = self.peers;
                self.leaves(SYN | ACK, self.pods, b"");
                self.pods = self.pods.wrapping_add(1);
            }
            AckIn => self.comes(ACK, self.peers, b""),
            AckOut => {
                self.acked = self.peers;
                self.leaves(ACK, self.pods, b"");
            }
            In(bytes) => {
                self.comes(ACK, self.peers, bytes);
                self.peers = self.peers.wrapping_add(length(bytes));
                self.last_in = bytes.to_vec();
            }
            Out(bytes) => {
                self.acked = self.peers;
                self.leaves(ACK, self.pods, bytes);
                self.pods = self.pods.wrapping_add(length(bytes));
                self.last_out = bytes.to_vec();
            }
            AgainIn => self.comes(ACK, self.peers.wrapping_sub(length(&self.last_in)), &self.last_in),
            AgainOut => self.leaves(ACK, self.pods.wrapping_sub(length(&self.last_out)), &self.last_out),
            Ahead(gap, bytes) => {
                self.peers = self.peers.wrapping_add(gap as u32);
                self.comes(ACK, self.peers, bytes);
                self.last_in = bytes.to_vec();
                self.peers = self.peers.wrapping_add(length(bytes));
            }
            Behind(bytes) => {
                let ahead = length(&self.last_in) + length(bytes);
                self.comes(ACK, self.peers.wrapping_sub(ahead), bytes);
            }
            ProbeIn => self.comes(ACK, self.peers.wrapping_sub(1), b"x"),
            FinIn => {
                self.comes(FIN | ACK, self.peers, b"");
                self.peers = self.peers.wrapping_add(1);
            }
            FinOut => {
                self.acked = self.peers;
                self.leaves(FIN | ACK, self.pods, b"");
                self.pods = self.pods.wrapping_add(1);
            }
            RstIn => self.comes(RST, self.peers, b""),
            RstOut => self.leaves(RST | ACK, self.pods, b""),
        }
    }

    pub(crate) fn entry(&self) -> Option<Connection> {
        self.bench.entry(self.local, self.peer).map(|(_, c)| c)
    }

    /// What is known, in words.
    pub(crate) fn known(&self) -> String {
        self.entry().map_or_else(|| "-".to_owned(), |c| words(&c))
    }

    /// Takes each step and compares what is known then.
    pub(crate) fn table(&mut self, rows: &[(Step<'_>, &str)]) {
        for (i, (step, expected)) in rows.iter().enumerate() {
            self.take(*step);
            assert_eq!(self.known(), *expected, "after row {i}, {step:?}");
        }
    }
}

/// The flags that decide, in words.
fn words(c: &Connection) -> String {
    let mut words = vec![
        match c.protocol {
            protocol::UNKNOWN => "?",
            protocol::HTTP1 => "http1",
            protocol::HTTP2 => "http2",
            _ => "http",
        }
        .to_owned(),
    ];
    let names = [
        (flag::WAITING, "waiting"),
        (flag::PIPELINED, "pipelined"),
        (flag::RESPONSE_HEAD, "head"),
        (flag::RESPONSE_LENGTH, "length"),
        (flag::RESPONSE_CHUNKED, "chunked"),
        (flag::RESPONSE_UNTIL_CLOSE, "until-close"),
        (flag::UPGRADED, "upgraded"),
        (flag::MIDWAY, "midway"),
        (flag::HEALTH_ONLY, "health"),
        (flag::RESET_IN, "reset"),
        (flag::FIN_IN, "fin-in"),
        (flag::FIN_OUT, "fin-out"),
    ];
    words.extend(names.iter().filter(|(bit, _)| c.flags & bit != 0).map(|(_, name)| (*name).to_owned()));
    if c.flags & flag::H2_FOLLOWED != 0 {
        words.push(format!("streams={}", c.streams));
    }
    if c.exchanges > 0 {
        words.push(format!("done={}", c.exchanges));
    }
    words.join(" ")
}
