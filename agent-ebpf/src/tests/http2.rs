//! HTTP/2 frames and streams.

use std::{collections::BTreeSet, vec, vec::Vec};

use proptest::prelude::*;

use crate::{
    abi::{Connection, H2Ahead, flag, follow, protocol},
    frames::{FRAMES, Frame, Ground, HEADER, TIMES, Walk, step},
    http::Piece,
    http2::*,
    tcp::after,
};

const END: u8 = 1;
const PREFACE_BYTES: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut b = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    b.extend([kind, flags]);
    b.extend(stream.to_be_bytes());
    b.extend(payload);
    b
}

/// Walks over bytes, and keeps streams as the kernel program does.
struct Host {
    walk: Walk,
    bytes: Vec<u8>,
    streams: BTreeSet<(u8, u32)>,
    epoch: u8,
    room: usize,
}

struct Here<'a> {
    bytes: &'a [u8],
    streams: &'a mut BTreeSet<(u8, u32)>,
    epoch: u8,
    room: usize,
}

impl Ground for Here<'_> {
    fn load(&mut self, walk: &mut Walk, have: u32, at: u32, len: u32) -> bool {
        assert!((1..=HEADER).contains(&len) && have + len <= HEADER);
        let bytes = &self.bytes[at as usize..(at + len) as usize];
        walk.head[have as usize..(have + len) as usize].copy_from_slice(bytes);
        true
    }

    fn open(&mut self, stream: u32) -> Option<bool> {
        assert!(stream & 1 == 1);
        if self.streams.contains(&(self.epoch, stream)) {
            return Some(false);
        }
        (self.streams.len() < self.room).then(|| self.streams.insert((self.epoch, stream)))
    }

    fn close(&mut self, stream: u32) -> bool {
        self.streams.remove(&(self.epoch, stream))
    }
}

impl Walker for Host {
    fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    fn go(&mut self) {
        let Self { walk, bytes, streams, epoch, room } = self;
        let mut here = Here { bytes, streams, epoch: *epoch, room: *room };
        for _ in 0..FRAMES * TIMES {
            if !step(walk, &mut here) {
                break;
            }
        }
    }

    fn add(&mut self, streams: &mut u32, n: u32) {
        *streams = streams.wrapping_add(n);
    }
}

/// A connection whose handshake was seen.
struct Spoken {
    c: Connection,
    host: Host,
}

const PEERS: u32 = u32::MAX - 30;
const PODS: u32 = u32::MAX - 50;

impl Spoken {
    fn new() -> Self {
        let c = Connection { protocol: protocol::HTTP2, flags: flag::NEW, ..Connection::default() };
        let host =
            Host { walk: Walk::default(), bytes: Vec::new(), streams: BTreeSet::new(), epoch: 0, room: 1000 };
        Self { c, host }
    }

    /// With both prefaces.
    fn begun() -> Self {
        let mut s = Self::new();
        let preface = [&PREFACE_BYTES[..], &frame(4, 0, 0, &[])].concat();
        client_begins(&mut s.c, Piece { sequence: PEERS, payload: preface.len() as u32 });
        s.comes(PEERS, &preface);
        s.leaves(PODS, &frame(4, 0, 0, &[0; 6]));
        s
    }

    fn comes(&mut self, sequence: u32, bytes: &[u8]) {
        self.host.bytes = bytes.to_vec();
        self.host.epoch = self.c.h2_epoch;
        inbound(&mut self.c, Piece { sequence, payload: bytes.len() as u32 }, &mut self.host);
    }

    fn leaves(&mut self, sequence: u32, bytes: &[u8]) {
        let piece = Piece { sequence, payload: bytes.len() as u32 };
        if self.c.flags & flag::OUT == 0 {
            self.c.flags |= flag::OUT;
            if let Some(header) = bytes.first_chunk() {
                server_begins(&mut self.c, piece, Frame::read(header));
            }
        }
        self.host.bytes = bytes.to_vec();
        self.host.epoch = self.c.h2_epoch;
        outbound(&mut self.c, piece, &mut self.host);
    }

    fn is_wholly_known(&self) -> bool {
        let both = (self.c.h2_in.state, self.c.h2_out.state);
        both == (follow::WHOLLY, follow::WHOLLY) && self.c.flags & flag::H2_FOLLOWED != 0
    }
}

#[test]
fn a_frame_header() {
    let f = Frame::read(&[1, 2, 3, 9, 0x25, 0x80, 0, 0, 5]);
    assert_eq!((f.length, f.kind, f.flags, f.stream), (0x01_02_03, 9, 0x25, 0x8000_0005));
}

#[test]
fn what_is_plausible() {
    let is = |kind, flags, stream, length: usize| {
        let bytes = frame(kind, flags, stream, &vec![0; length]);
        Frame::read(bytes.first_chunk().expect("a header")).is_plausible()
    };
    for (kind, stream, length, expected) in [
        (0, 1, 100, true),
        (0, 0, 0, false),
        (1, 1, 100, true),
        (1, 0, 100, false),
        (2, 1, 5, true),
        (2, 1, 6, false),
        (3, 1, 4, true),
        (3, 1, 3, false),
        (3, 0, 4, false),
        (4, 0, 12, true),
        (4, 0, 7, false),
        (4, 1, 6, false),
        (6, 0, 8, true),
        (6, 0, 9, false),
        (6, 1, 8, false),
        (7, 0, 8, true),
        (7, 0, 7, false),
        (8, 0, 4, true),
        (8, 3, 4, true),
        (8, 3, 5, false),
        (9, 1, 0, true),
        (9, 0, 0, false),
        (16, 0, 9, true),
        (200, 77, 1, true),
        (0, 1 << 31 | 1, 1, false),
    ] {
        assert_eq!(is(kind, 0, stream, length), expected, "{kind} on {stream}, {length} bytes");
    }
    assert!(is(0, 0x09, 1, 1) && !is(0, 0x02, 1, 1), "flags of DATA");
    assert!(is(1, 0x2d, 1, 1) && !is(1, 0x10, 1, 1), "flags of HEADERS");
    let text = |b: &[u8; 9]| Frame::read(b).is_plausible();
    assert!(!text(b"\x16\x03\x01\0\xa5\x01\0\0\xa1"), "TLS");
}

#[test]
fn the_first_bytes_of_a_server() {
    let is = |b: &[u8]| Frame::read(b.first_chunk().expect("a header")).is_server_preface();
    assert!(is(&frame(4, 0, 0, &[])) && is(&frame(4, 0, 0, &[0; 36])));
    assert!(!is(&frame(4, 1, 0, &[])) && !is(&frame(4, 0, 0, &[0; 5])) && !is(&frame(6, 0, 0, &[0; 8])));
    assert!(!is(b"HTTP/1.1 200 OK") && !is(b"\0\0\0\0\0\0\0\0\0"));
}

#[test]
fn where_a_preface_may_be() {
    let piece = Piece { sequence: 7, payload: 30 };
    let new =
        Connection { flags: flag::NEW | flag::IN_ACKED, in_acked: 7, bytes_in: 90, ..Connection::default() };
    assert!(may_begin(&new, piece), "the first byte, whatever overtook it");
    assert!(!may_begin(&Connection { in_acked: 6, ..new }, piece));
    let older = Connection { bytes_in: 30, ..Connection::default() };
    assert!(may_begin(&older, piece) && !may_begin(&Connection { bytes_in: 31, ..older }, piece));
}

#[test]
fn more_frames_than_there_is_time_for() {
    let mut s = Spoken::begun();
    let ping = frame(6, 0, 0, &[0; 8]);
    let many = |n: u32| (0..n).flat_map(|_| ping.clone()).collect::<Vec<u8>>();
    let next = s.c.h2_in.next;
    s.comes(next, &many(FRAMES * TIMES));
    assert!(s.is_wholly_known() && s.c.flags & flag::WAITING == 0);
    let next = s.c.h2_in.next;
    s.comes(next, &many(FRAMES * TIMES + 1));
    assert!(!s.is_wholly_known() && s.c.flags & flag::WAITING != 0);
}

#[test]
fn what_follows_a_request_that_was_answered_is_no_request() {
    let mut s = Spoken::begun();
    let next = s.c.h2_in.next;
    s.comes(next, &frame(1, 4, 1, b"x"));
    let next = s.c.h2_out.next;
    s.leaves(next, &frame(1, 5, 1, b"x"));
    let next = s.c.h2_in.next;
    s.comes(next, &[frame(0, 0, 1, b"body"), frame(1, 5, 1, b"trailers"), frame(3, 0, 1, &[0; 4])].concat());
    assert_eq!((s.c.streams, s.c.exchanges, s.is_wholly_known()), (0, 1, true));
}

#[test]
fn a_stream_without_a_place_is_not_followed() {
    let mut s = Spoken::begun();
    s.host.room = 1;
    let next = s.c.h2_in.next;
    s.comes(next, &[frame(1, 5, 1, b"x"), frame(1, 5, 3, b"x")].concat());
    assert_eq!((s.c.streams, s.is_wholly_known(), s.c.flags & flag::WAITING), (1, false, flag::WAITING));
}

/// Requests on streams 1, 3 and so on, each a segment; they come in another order.
fn overtakes(order: &[u32]) -> Spoken {
    let mut s = Spoken::begun();
    let next = s.c.h2_in.next;
    for i in order {
        s.comes(next.wrapping_add(i * 10), &frame(1, 5, 2 * i + 1, b"x"));
    }
    s
}

#[test]
fn what_was_overtaken_is_caught_up_with() {
    for (order, streams) in [
        (&[0, 1, 2][..], 3),
        (&[1], 1),
        (&[1, 1], 1),
        (&[1, 0], 2),
        (&[1, 2, 0], 3),
        (&[2, 0, 1], 3),
        (&[1, 2, 3, 0, 4], 5),
    ] {
        let s = overtakes(order);
        assert!(s.is_wholly_known() && s.c.flags & flag::WAITING == 0 && s.c.h2_unseen == 0, "{order:?}");
        assert_eq!((s.c.streams, s.host.streams.len()), (streams, streams as usize), "{order:?}");
    }
    // Two gaps are one too many.
    for order in [&[1, 3][..], &[2, 4, 0, 1]] {
        let s = overtakes(order);
        assert!(!s.is_wholly_known() && s.c.flags & flag::WAITING != 0, "{order:?}");
    }
}

#[test]
fn trailers_open_nothing_whatever_has_overtaken_what() {
    let trailers = |stream| frame(1, 5, stream, b"x");
    let answer = |s: &mut Spoken, stream| {
        let next = s.c.h2_out.next;
        s.leaves(next, &frame(1, 5, stream, b"x"));
    };
    // Of the stream that had overtaken.
    let mut s = overtakes(&[1, 0]);
    answer(&mut s, 3);
    let next = s.c.h2_in.next;
    s.comes(next, &trailers(3));
    assert_eq!((s.c.streams, s.is_wholly_known()), (1, true));
    // Behind it, before what it had overtaken comes.
    let mut s = overtakes(&[1]);
    answer(&mut s, 3);
    let next = s.c.h2_ahead.end;
    s.comes(next, &trailers(3));
    assert_eq!((s.c.streams, s.is_wholly_known()), (0, true));
    // In the second half of the gap.
    let mut s = overtakes(&[2, 0]);
    answer(&mut s, 1);
    let next = s.c.h2_in.next;
    s.comes(next, &trailers(1));
    assert_eq!((s.c.streams, s.is_wholly_known(), s.c.h2_ahead), (1, true, H2Ahead::default()));
}

#[test]
fn what_overtakes_has_to_begin_with_a_frame() {
    // And to end with one: of a part nobody could say where the next one is.
    let mut s = Spoken::begun();
    let next = s.c.h2_in.next;
    s.comes(next.wrapping_add(10), &frame(1, 5, 3, &[0; 50])[..20]);
    assert!(!s.is_wholly_known());
    let mut s = Spoken::begun();
    let next = s.c.h2_in.next;
    // Looks like a request and is the middle of a body.
    s.comes(next.wrapping_add(20), &frame(1, 5, 9, b"x"));
    assert!(s.is_wholly_known());
    s.c.last_packet = 77;
    s.comes(next, &[frame(0, 0, 1, &[0; 50])[..20].to_vec()].concat());
    assert!(!s.is_wholly_known() && s.c.flags & flag::WAITING != 0);
    assert_eq!(s.c.h2_unseen, 77);
}

#[test]
fn what_was_overtaken_may_be_sent_again_together_with_what_overtook_it() {
    for (more, known) in [(0, true), (1, false)] {
        let mut s = overtakes(&[1]);
        let next = s.c.h2_in.next;
        let all: Vec<u8> = (0..2 + more).flat_map(|i| frame(1, 5, 2 * i + 1, b"x")).collect();
        s.comes(next, &all);
        assert_eq!((s.is_wholly_known(), s.c.streams), (known, 2));
    }
}

#[test]
fn another_processor_may_close_the_gap() {
    let mut s = overtakes(&[1]);
    // The segment in the gap, walked by somebody who did not see that there was one.
    s.c.h2_in.next = s.c.h2_ahead.start;
    let next = s.c.h2_ahead.end;
    s.comes(next, &frame(1, 5, 5, b"x"));
    assert_eq!((s.is_wholly_known(), s.c.h2_ahead, s.c.streams), (true, Default::default(), 2));
}

/// What either side does next.
#[derive(Clone, Debug)]
enum Event {
    Opens { ends: bool, continued: bool, skips: u32 },
    Sends { which: prop::sample::Index, length: usize, ends: bool },
    Answers { which: prop::sample::Index, length: usize, ends: bool, headers: bool },
    Resets { which: prop::sample::Index, pod: bool },
    Housekeeping { kind: u8, pod: bool },
    Pushes,
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), 0..2u32).prop_map(|(ends, continued, skips)| Event::Opens { ends, continued, skips }),
        2 => (index(), 0..60usize, any::<bool>()).prop_map(|(which, length, ends)| Event::Sends { which, length, ends }),
        4 => (index(), 0..60usize, any::<bool>(), any::<bool>())
            .prop_map(|(which, length, ends, headers)| Event::Answers { which, length, ends, headers }),
        1 => (index(), any::<bool>()).prop_map(|(which, pod)| Event::Resets { which, pod }),
        2 => (0..6u8, any::<bool>()).prop_map(|(kind, pod)| Event::Housekeeping { kind, pod }),
        1 => Just(Event::Pushes),
    ]
}

/// What a frame does to the number of open streams, at the byte where its header is complete.
#[derive(Clone, Copy, Debug)]
enum Does {
    Opens(u32),
    Ends(u32),
}

/// One side's frames of one turn, and what they do.
#[derive(Debug, Default)]
struct Turn {
    pod: bool,
    bytes: Vec<u8>,
    does: Vec<(usize, Does)>,
}

impl Turn {
    fn frame(&mut self, kind: u8, flags: u8, stream: u32, length: usize, does: Option<Does>) {
        self.does.extend(does.map(|d| (self.bytes.len() + HEADER as usize, d)));
        // Payloads that look like frames.
        let payload: Vec<u8> = frame(1, 5, 99, b"").into_iter().cycle().take(length).collect();
        self.bytes.extend(frame(kind, flags, stream, &payload));
    }
}

/// Turns in the order in which they are made: what a side says, it says knowing all before.
fn turns(events: &[Event]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut open: Vec<u32> = Vec::new();
    let mut next = 1;
    for event in events {
        let pod = match event {
            Event::Opens { .. } | Event::Sends { .. } => false,
            Event::Answers { .. } | Event::Pushes => true,
            Event::Resets { pod, .. } | Event::Housekeeping { pod, .. } => *pod,
        };
        if turns.last().is_none_or(|t| t.pod != pod) {
            turns.push(Turn { pod, ..Turn::default() });
        }
        let turn = turns.last_mut().expect("a turn");
        match event {
            Event::Opens { ends, continued, skips } => {
                let stream = next + 2 * skips;
                next = stream + 2;
                open.push(stream);
                let flags = u8::from(*ends) | if *continued { 0 } else { 4 };
                turn.frame(1, flags, stream, 11, Some(Does::Opens(stream)));
                if *continued {
                    turn.frame(9, 4, stream, 5, None);
                }
            }
            Event::Sends { which, length, ends } if !open.is_empty() => {
                turn.frame(0, u8::from(*ends), open[which.index(open.len())], *length, None);
            }
            Event::Answers { which, length, ends, headers } if !open.is_empty() => {
                let i = which.index(open.len());
                let stream = if *ends { open.remove(i) } else { open[i] };
                let kind = u8::from(*headers);
                turn.frame(
                    kind,
                    u8::from(*ends) | (kind * 4),
                    stream,
                    *length,
                    ends.then_some(Does::Ends(stream)),
                );
            }
            Event::Resets { which, .. } if !open.is_empty() => {
                let stream = open.remove(which.index(open.len()));
                turn.frame(3, 0, stream, 4, Some(Does::Ends(stream)));
            }
            Event::Housekeeping { kind, .. } => {
                let (kind, stream, length) =
                    [(4, 0, 12), (6, 0, 8), (8, 0, 4), (8, 1, 4), (2, 1, 5), (16, 0, 7)][usize::from(*kind)];
                turn.frame(kind, 0, stream, length, None);
            }
            Event::Pushes if !open.is_empty() => {
                turn.frame(5, 4, open[0], 20, None);
                turn.frame(1, 4, 2, 9, None);
                turn.frame(0, END, 2, 9, None);
            }
            _ => {}
        }
    }
    turns.retain(|t| !t.bytes.is_empty());
    turns
}

/// How a turn's bytes travel.
#[derive(Clone, Debug)]
struct Travel {
    cuts: Vec<prop::sample::Index>,
    again: Option<prop::sample::Index>,
    swap: Option<prop::sample::Index>,
}

fn travel(swaps: bool) -> impl Strategy<Value = Travel> {
    let index = any::<prop::sample::Index>;
    let swap = if swaps { prop::option::of(index()).boxed() } else { Just(None).boxed() };
    (prop::collection::vec(index(), 0..5), prop::option::of(index()), swap)
        .prop_map(|(cuts, again, swap)| Travel { cuts, again, swap })
}

/// Segments of a turn, by their ends in its bytes, in the order in which they come.
fn segments(turn: &Turn, travel: &Travel) -> Vec<(usize, usize)> {
    let len = turn.bytes.len();
    let mut at: Vec<usize> = travel.cuts.iter().map(|i| i.index(len)).collect();
    at.extend([0, len]);
    at.sort_unstable();
    at.dedup();
    let mut segments: Vec<(usize, usize)> = at.windows(2).map(|w| (w[0], w[1])).collect();
    if let Some(swap) = &travel.swap
        && !turn.pod
        && segments.len() > 1
    {
        let i = swap.index(segments.len() - 1);
        segments.swap(i, i + 1);
    }
    if let Some(again) = &travel.again {
        let i = again.index(segments.len());
        segments.insert(i + 1, segments[i]);
    }
    segments
}

/// Lets the turns travel; after each segment says what is open, and gives it to `check`.
fn converse(
    events: &[Event],
    travels: &[Travel],
    mut check: impl FnMut(&Spoken, &BTreeSet<u32>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut spoken = Spoken::begun();
    let mut numbers = [spoken.c.h2_in.next, spoken.c.h2_out.next];
    let (mut open, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (turn, travel) in turns(events).iter().zip(travels.iter().cycle()) {
        let base = numbers[usize::from(turn.pod)];
        let mut had = vec![false; turn.bytes.len()];
        let mut in_order = 0;
        for (from, to) in segments(turn, travel) {
            let sequence = base.wrapping_add(from as u32);
            // What the pod has had already is not new: tcp.rs sees to that.
            let new = to > in_order;
            if new && turn.pod {
                spoken.leaves(sequence, &turn.bytes[from..to]);
            } else if new {
                spoken.comes(sequence, &turn.bytes[from..to]);
            }
            had[from..to].fill(true);
            in_order = had.iter().take_while(|h| **h).count();
            // A request is one when the pod has it; a reset is the peer's word that it wants no answer.
            for (at, does) in &turn.does {
                match does {
                    Does::Opens(stream) if *at <= in_order && seen.insert(*stream) => open.insert(*stream),
                    Does::Ends(stream) if had[at - HEADER as usize..*at].iter().all(|h| *h) => {
                        open.remove(stream)
                    }
                    _ => false,
                };
            }
            check(&spoken, &open)?;
        }
        numbers[usize::from(turn.pod)] = base.wrapping_add(turn.bytes.len() as u32);
        prop_assert!(!after(spoken.c.h2_in.next, numbers[0]) || !spoken.is_wholly_known());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Frames in segments of any size, some of them twice: the count is exact after each, and following
    /// never ends.
    #[test]
    fn in_order_the_count_is_exact(
        events in prop::collection::vec(event(), 1..40),
        travels in prop::collection::vec(travel(false), 1..10),
    ) {
        converse(&events, &travels, |spoken, open| {
            prop_assert!(spoken.is_wholly_known());
            prop_assert_eq!(spoken.c.streams as usize, open.len());
            prop_assert_eq!(spoken.host.streams.len(), open.len());
            prop_assert!(spoken.c.flags & flag::WAITING == 0);
            Ok(())
        })?;
    }

    /// Segments of the peer's overtake each other as well: as long as streams are followed none is missed, and
    /// where the following ends the bytes wait.
    #[test]
    fn out_of_order_no_open_stream_is_missed(
        events in prop::collection::vec(event(), 1..40),
        travels in prop::collection::vec(travel(true), 1..10),
    ) {
        let mut known = true;
        converse(&events, &travels, |spoken, open| {
            let lost = known && !spoken.is_wholly_known();
            known = spoken.is_wholly_known();
            if known {
                for stream in open {
                    prop_assert!(spoken.host.streams.contains(&(spoken.c.h2_epoch, *stream)), "{stream}");
                }
                prop_assert!(spoken.c.streams as usize >= open.len());
            }
            prop_assert!(!lost || spoken.c.flags & flag::WAITING != 0);
            Ok(())
        })?;
    }

    /// Any bytes: no panic, and the count never passes below zero.
    #[test]
    fn any_bytes_may_come(segments in prop::collection::vec((any::<bool>(), 0..40u32, prop::collection::vec(0..6u8, 1..60)), 0..30)) {
        let mut spoken = Spoken::begun();
        for (pod, gap, bytes) in segments {
            if pod {
                let next = spoken.c.h2_out.next.wrapping_add(gap % 3);
                spoken.leaves(next, &bytes);
            } else {
                let next = spoken.c.h2_in.next.wrapping_add(gap).wrapping_sub(20);
                spoken.comes(next, &bytes);
            }
            let counted = spoken.host.streams.iter().filter(|(epoch, _)| *epoch == spoken.c.h2_epoch).count();
            prop_assert_eq!(spoken.c.streams as usize, counted);
        }
    }
}
