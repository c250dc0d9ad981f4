//! Flags and sequence numbers.

use proptest::prelude::*;

use crate::{
    abi::{Connection, flag},
    tcp::{ACK, Direction, Direction::In, Direction::Out, Effect, FIN, RST, Segment, advance, after},
};

/// The peer's and the pod's numbers at the start; the pod's wrap at once.
const PEERS: u32 = 100;
const PODS: u32 = u32::MAX - 4;

/// (direction, offset of the sequence number, offset of the acknowledgement, flags, payload)
type Row = (Direction, u32, u32, u8, u32);

fn take(c: &mut Connection, at: u64, row: Row) -> Effect {
    let (direction, sequence, acknowledgement, flags, payload) = row;
    let (own, other) = if direction == In { (PEERS, PODS) } else { (PODS, PEERS) };
    let (sequence, acknowledgement) = (own.wrapping_add(sequence), other.wrapping_add(acknowledgement));
    advance(c, direction, &Segment { at, sequence, acknowledgement, flags, payload })
}

/// What each segment did: `+` advanced, `.` ended, `?` look.
fn table(rows: &[(Row, &str)]) -> Connection {
    let mut c = Connection::default();
    for (i, (row, expected)) in rows.iter().enumerate() {
        let effect = take(&mut c, i as u64 + 1, *row);
        let said: std::string::String = [(effect.advanced, '+'), (effect.look, '?'), (effect.ended, '.')]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, c)| *c)
            .collect();
        assert_eq!(said, *expected, "row {i}, {row:?}");
        assert_eq!(c.last_packet, i as u64 + 1);
    }
    c
}

const A: u8 = ACK;
const F: u8 = FIN | ACK;

#[test]
fn the_peer_closes_first() {
    table(&[
        ((In, 0, 0, A, 10), "+"),
        ((Out, 0, 10, A, 20), "+"),
        ((In, 10, 20, F, 0), "?"),
        ((Out, 20, 11, A, 0), ""),
        ((Out, 20, 11, F, 0), ""),
        ((In, 11, 21, A, 0), "."),
    ]);
}

#[test]
fn the_pod_closes_first() {
    table(&[
        ((In, 0, 0, A, 10), "+"),
        ((Out, 0, 10, F, 20), "+"),
        // Where the peer had closed before the attach, this is the end.
        ((In, 10, 21, A, 0), "?"),
        ((In, 10, 21, F, 0), "?"),
        ((Out, 21, 11, A, 0), "."),
    ]);
}

#[test]
fn both_close_at_once() {
    table(&[
        ((Out, 0, 0, F, 0), ""),
        ((In, 0, 0, F, 0), "?"),
        ((Out, 1, 1, A, 0), ""),
        ((In, 1, 1, A, 0), "."),
    ]);
}

#[test]
fn a_half_close_is_no_end() {
    let c = table(&[
        ((In, 0, 0, F, 10), "+?"),
        ((Out, 0, 11, A, 0), ""),
        ((Out, 0, 11, A, 1000), "+"),
        ((In, 11, 1000, A, 0), ""),
        ((Out, 1000, 11, A, 500), "+"),
        ((Out, 1500, 11, F, 0), ""),
        ((In, 11, 1500, A, 0), ""),
    ]);
    assert_eq!(c.bytes_out, 1500);
    // The pod has closed, the peer goes on.
    table(&[
        ((Out, 0, 0, F, 5), "+"),
        ((In, 0, 6, A, 100), "+?"),
        ((Out, 6, 100, A, 0), ""),
        ((In, 100, 6, A, 100), "+"),
    ]);
}

#[test]
fn a_fin_is_not_acknowledged_by_less() {
    table(&[
        ((In, 0, 0, F, 10), "+?"),
        ((Out, 0, 10, F, 0), ""),
        ((In, 11, 1, A, 0), ""),
        ((In, 0, 1, F, 10), "?"),
        ((Out, 1, 11, A, 0), "."),
    ]);
}

#[test]
fn a_fin_that_is_made_up_is_not_the_peers() {
    // Of data that the pod has acknowledged: it would have been acknowledged as well.
    table(&[
        ((In, 0, 0, A, 10), "+"),
        ((Out, 0, 10, F, 0), ""),
        ((In, 30, 1, F, 0), "?"),
        ((In, 0, 1, F, 5), "?"),
        ((Out, 1, 10, A, 0), ""),
        ((Out, 1, 31, A, 0), "."),
    ]);
}

#[test]
fn a_reset_ends_only_from_the_pod() {
    let c = table(&[((In, 0, 0, A, 10), "+"), ((In, 10, 0, RST, 0), "?"), ((In, 10, 0, RST | ACK, 50), "?")]);
    assert_eq!((c.flags & flag::RESET_IN, c.bytes_in), (flag::RESET_IN, 10), "its payload is a reason");
    table(&[((In, 0, 0, A, 10), "+"), ((Out, 0, 10, RST | ACK, 0), ".")]);
    table(&[((Out, 0, 10, RST, 7), ".")]);
}

#[test]
fn what_was_seen_is_not_seen_again() {
    let c = table(&[
        ((In, 0, 0, A, 10), "+"),
        ((Out, 0, 10, A, 20), "+"),
        // Retransmissions, whole, in part, and the first of them longer.
        ((In, 0, 0, A, 10), ""),
        ((In, 4, 20, A, 6), ""),
        ((Out, 0, 10, A, 20), ""),
        ((Out, 10, 10, A, 20), "+"),
        // Keep-alive probes: one byte of old, or none.
        ((In, 9, 30, A, 1), ""),
        ((In, 9, 30, A, 0), ""),
        ((Out, 29, 10, A, 1), ""),
        ((In, 10, 30, A, 5), "+"),
    ]);
    assert_eq!((c.bytes_in, c.bytes_out), (15, 30));
    assert_eq!((c.last_in, c.last_out), (10, 6));
    assert_eq!((c.in_end, c.out_end), (PEERS + 15, PODS.wrapping_add(30)));
}

#[test]
fn what_the_pod_has_not_had_is_new() {
    let c = table(&[
        ((Out, 0, 0, A, 5), "+"),
        // Lost behind us, and sent again; then overtaken by what follows it.
        ((In, 0, 5, A, 10), "+"),
        ((In, 0, 5, A, 10), "+"),
        ((In, 20, 5, A, 10), "+"),
        ((In, 10, 5, A, 10), "+"),
        ((Out, 5, 30, A, 0), ""),
        ((In, 10, 5, A, 10), ""),
    ]);
    assert_eq!(c.in_end, PEERS + 30);
}

#[test]
fn super_packets_are_long_segments() {
    let c = table(&[
        ((In, 0, 0, A, 180_000), "+"),
        ((Out, 0, 180_000, A, 500_000), "+"),
        ((In, 180_000, 499_999, A, 0), ""),
    ]);
    assert_eq!((c.bytes_in, c.bytes_out), (180_000, 500_000));
    assert!(after(c.out_end, c.out_acked));
}

#[test]
fn what_was_not_sent_cannot_be_acknowledged() {
    let c = table(&[
        ((In, 0, 0, A, 10), "+"),
        ((In, 10, 5000, A, 0), ""), // Made up, before anything was sent.
        ((Out, 0, 10, A, 20), "+"),
        ((In, 10, 21, A, 0), ""),
    ]);
    assert_eq!(c.out_acked, PODS, "of the response, nothing");
    let c = table(&[((Out, 0, 0, A, 20), "+"), ((In, 0, 20, A, 0), ""), ((In, 0, 10, A, 0), "")]);
    assert_eq!(c.out_acked, PODS.wrapping_add(20), "an older one says nothing");
    // A FIN takes one number more.
    table(&[
        ((Out, 0, 0, F, 20), "+"),
        ((In, 0, 0, F, 0), "?"),
        ((Out, 21, 1, A, 0), ""),
        ((In, 1, 22, A, 0), ""),
        ((In, 1, 21, A, 0), "."),
    ]);
}

#[test]
fn an_acknowledgement_without_its_flag_is_none() {
    let c = table(&[((In, 0, 7, FIN, 0), "?"), ((Out, 0, 9, 0, 3), "+")]);
    assert_eq!(c.flags & (flag::ACKED | flag::IN_ACKED), 0);
}

proptest! {
    /// Segments of one stream in any order, any of them twice: a pod's are counted to the byte, and nothing
    /// of the peer's that the pod has not acknowledged is overlooked.
    #[test]
    fn bytes_are_counted_once(
        start: u32,
        cuts in prop::collection::vec(1..3000u32, 1..20),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut c = Connection::default();
        let mut edges = std::vec![0];
        for cut in &cuts {
            edges.push(edges[edges.len() - 1] + cut);
        }
        let mut sent = 1;
        let mut plan = again.iter();
        while sent < edges.len() {
            let (from, to) = (edges[sent - 1], edges[sent]);
            let s = Segment { at: 1, sequence: start.wrapping_add(from), acknowledgement: 0, flags: ACK, payload: to - from };
            prop_assert!(advance(&mut c, Out, &s).advanced);
            sent += 1;
            if let Some(index) = plan.next() {
                // From any edge to any later one that was sent.
                let i = index.index(sent - 1);
                let j = i + 1 + index.index(sent - 1 - i);
                let s = Segment { sequence: start.wrapping_add(edges[i]), payload: edges[j] - edges[i], ..s };
                prop_assert!(!advance(&mut c, Out, &s).advanced);
            }
        }
        prop_assert_eq!(c.bytes_out, u64::from(edges[edges.len() - 1]));
        prop_assert_eq!(c.out_end, start.wrapping_add(edges[edges.len() - 1]));
    }

    /// No order of segments ends a connection before the pod has closed it.
    #[test]
    fn nothing_ends_before_the_pod_closes(rows in prop::collection::vec((any::<bool>(), 0..40u32, 0..40u32, 0..32u8, 0..9u32), 0..40)) {
        let mut c = Connection::default();
        let mut closed = false;
        for (i, (inbound, sequence, acknowledgement, flags, payload)) in rows.into_iter().enumerate() {
            let direction = if inbound { In } else { Out };
            closed |= !inbound && flags & (FIN | RST) != 0;
            let effect = take(&mut c, i as u64, (direction, sequence, acknowledgement, flags, payload));
            prop_assert!(closed || !effect.ended);
            prop_assert!(inbound || !effect.look);
        }
    }
}
