//! HTTP/2 by its open streams, and by its bytes where they cannot be followed.

use crate::{
    bench::{Bench, GRPC, HTTP, SQL, bench},
    talk::*,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame with a payload of so many bytes.
fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut b = (length as u32).to_be_bytes()[1..].to_vec();
    b.extend([kind, flags]);
    b.extend(stream.to_be_bytes());
    b.extend(vec![b'.'; length]);
    b
}

fn data(stream: u32, flags: u8, length: usize) -> Vec<u8> {
    frame(0, flags, stream, length)
}

fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, flags | END_HEADERS, stream, 20)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, 4)
}

fn settings(acknowledges: bool) -> Vec<u8> {
    if acknowledges { frame(4, 1, 0, 0) } else { frame(4, 0, 0, 18) }
}

fn ping() -> Vec<u8> {
    frame(6, 0, 0, 8)
}

fn window_update(stream: u32) -> Vec<u8> {
    frame(8, 0, stream, 4)
}

fn goaway() -> Vec<u8> {
    frame(7, 0, 0, 8)
}

/// A connection with both prefaces exchanged, on any port.
fn h2(port: u16, rows: &[(Step<'_>, &str)]) {
    bench(|bench| h2_of(bench, port, 40_000, rows));
}

/// The same, from a port of the peer.
fn h2_of(bench: &mut Bench, port: u16, peer: u16, rows: &[(Step<'_>, &str)]) {
    let mut talk = Talk::with(bench, port);
    talk.peer.set_port(peer);
    talk.shake();
    talk.table(&[
        (In(&[PREFACE, &settings(false)].concat()), "http2"),
        (Out(&settings(false)), "http2 streams=0"),
        (Out(&settings(true)), "http2 streams=0"),
        (In(&settings(true)), "http2 streams=0"),
    ]);
    talk.table(rows);
}

#[test]
fn a_stream_counts_until_the_pod_has_ended_it() {
    for port in [GRPC, HTTP, SQL] {
        h2(
            port,
            &[
                (In(&headers(1, END)), "http2 streams=1"),
                (Out(&window_update(0)), "http2 streams=1"),
                (Out(&headers(1, 0)), "http2 streams=1"),
                (Out(&data(1, 0, 100)), "http2 streams=1"),
                (AgainOut, "http2 streams=1"),
                (In(&headers(3, 0)), "http2 streams=2"),
                (AgainIn, "http2 streams=2"),
                (In(&data(3, 0, 300)), "http2 streams=2"),
                (Out(&data(1, END, 100)), "http2 streams=1 done=1"),
                (AgainOut, "http2 streams=1 done=1"),
                (In(&data(3, END, 0)), "http2 streams=1 done=1"),
                (In(&[ping(), window_update(3)].concat()), "http2 streams=1 done=1"),
                // Trailers.
                (Out(&[headers(3, 0), data(3, 0, 5), headers(3, END)].concat()), "http2 streams=0 done=2"),
                (In(&reset(3)), "http2 streams=0 done=2"),
                (In(&goaway()), "http2 streams=0 done=2"),
                (FinIn, "http2 fin-in streams=0 done=2"),
            ],
        );
    }
}

#[test]
fn resets_end_streams_and_pushes_begin_none() {
    h2(
        GRPC,
        &[
            (In(&[headers(1, END), headers(3, END), headers(5, 0)].concat()), "http2 streams=3"),
            (In(&reset(3)), "http2 streams=2"),
            (Out(&headers(3, END)), "http2 streams=2"),
            (Out(&reset(5)), "http2 streams=1"),
            (In(&data(5, END, 10)), "http2 streams=1"),
            (
                Out(&[frame(5, END_HEADERS, 1, 30), headers(2, 0), data(2, END, 9)].concat()),
                "http2 streams=1",
            ),
            (Out(&data(1, END, 0)), "http2 streams=0 done=1"),
            (In(&frame(16, 0, 0, 9)), "http2 streams=0 done=1"),
            (In(&frame(0xf0, 0xff, 7, 3)), "http2 streams=0 done=1"),
            // Trailers of a request are no new one.
            (In(&headers(9, 0)), "http2 streams=1 done=1"),
            (In(&headers(9, END)), "http2 streams=1 done=1"),
        ],
    );
}

#[test]
fn frames_lie_across_segments() {
    let request = [headers(1, 0), data(1, 0, 40), data(1, END, 7)].concat();
    let response = [headers(1, 0), data(1, 0, 30), data(1, END, 3), ping()].concat();
    bench(|bench| {
        for cut in 1..request.len() - 1 {
            let ((a, b), (x, y)) = (request.split_at(cut), response.split_at(cut));
            let answered = if cut >= 77 { "http2 streams=0 done=1" } else { "http2 streams=1" };
            let rows = [
                (In(a), if cut < 9 { "http2 streams=0" } else { "http2 streams=1" }),
                (In(b), "http2 streams=1"),
                (Out(x), answered),
                (AgainOut, answered),
                (Out(y), "http2 streams=0 done=1"),
                (In(&headers(3, END)), "http2 streams=1 done=1"),
            ];
            h2_of(bench, GRPC, cut as u16, &rows);
        }
    });
}

#[test]
fn a_super_packet_has_many_frames() {
    let many: Vec<u8> = (0..60).flat_map(|i| headers(2 * i + 1, END)).collect();
    let small: Vec<u8> = (0..330).flat_map(|_| data(1, 0, 0)).collect();
    h2(
        GRPC,
        &[
            (In(&many), "http2 streams=60"),
            (Out(&small), "http2 streams=60"),
            (
                Out(&(0..59).flat_map(|i| headers(2 * i + 1, END)).collect::<Vec<u8>>()),
                "http2 streams=1 done=59",
            ),
        ],
    );
}

#[test]
fn a_request_that_was_overtaken_counts_when_it_comes() {
    let first = headers(1, END);
    h2(
        GRPC,
        &[
            (Ahead(first.len(), &headers(3, END)), "http2 streams=1"),
            (Behind(&first), "http2 streams=2"),
            (In(&headers(5, END)), "http2 streams=3"),
            (Out(&[headers(1, END), headers(3, END), headers(5, END)].concat()), "http2 streams=0 done=3"),
        ],
    );
    h2(
        GRPC,
        &[
            (Ahead(first.len(), &window_update(0)), "http2 streams=0"),
            (Behind(&first), "http2 streams=1"),
            (Out(&ping()), "http2 streams=1"),
            (Out(&headers(1, 0)), "http2 streams=1"),
            (Out(&data(1, END, 3)), "http2 streams=0 done=1"),
        ],
    );
    // Behind the gap is the middle of something: only bytes are known until frames are found again.
    h2(
        GRPC,
        &[
            (Ahead(first.len(), b"the rest of a body"), "http2 waiting streams=0"),
            (Behind(&first), "http2 waiting streams=0"),
            (Out(&ping()), "http2 waiting streams=0"),
            (Out(&headers(1, 0)), "http2 streams=1 done=1"),
            (Out(&data(1, END, 3)), "http2 streams=0 done=2"),
        ],
    );
    // A gap within a body hides no frame.
    h2(
        GRPC,
        &[
            (In(&[headers(1, 0), data(1, 0, 50)].concat()[..40]), "http2 streams=1"),
            (Ahead(30, &[b"........".as_slice(), &data(1, END, 0)].concat()), "http2 streams=1"),
            (Behind(&[b'.'; 30]), "http2 streams=1"),
            (Out(&headers(1, END)), "http2 streams=0 done=1"),
        ],
    );
}

#[test]
fn what_is_no_frame_is_followed_no_longer_and_its_bytes_are() {
    h2(
        GRPC,
        &[
            (In(&headers(1, END)), "http2 streams=1"),
            (In(&frame(6, 0, 0, 7)), "http2 waiting streams=1"),
            (Out(&headers(1, END)), "http2 streams=0 done=1"),
            (In(b"whatever"), "http2 waiting streams=0 done=1"),
            (Out(&ping()), "http2 waiting streams=0 done=1"),
            (Out(&headers(3, END)), "http2 streams=0 done=2"),
        ],
    );
    h2(
        GRPC,
        &[
            (In(&headers(1, END)), "http2 streams=1"),
            (Out(&frame(6, 0, 0, 7)), "http2 waiting"),
            (Out(&ping()), "http2 waiting"),
            (Out(&headers(1, END)), "http2 streams=0 done=1"),
            (In(&ping()), "http2 streams=0 done=1"),
            (In(&headers(3, END)), "http2 streams=1 done=1"),
            (Out(&headers(3, END)), "http2 streams=0 done=2"),
        ],
    );
}

#[test]
fn streams_of_before_are_others() {
    h2(
        GRPC,
        &[
            (In(&[headers(1, END), headers(3, END)].concat()), "http2 streams=2"),
            (Out(&frame(6, 0, 0, 7)), "http2 waiting"),
            (In(&headers(5, END)), "http2 waiting"),
            (Out(&headers(1, 0)), "http2 done=1"),
            // Shown again, it counts again.
            (Out(&data(1, 0, 3)), "http2 streams=2 done=1"),
            (Out(&data(1, END, 3)), "http2 streams=1 done=2"),
            (Out(&headers(3, END)), "http2 streams=1 done=2"),
            (Out(&headers(5, END)), "http2 streams=0 done=3"),
        ],
    );
}

#[test]
fn a_server_may_speak_first() {
    bench(|bench| {
        Talk::open(bench, HTTP).table(&[
            (Out(&settings(false)), "http midway"),
            (In(PREFACE), "http2 waiting"),
            (In(&settings(false)), "http2 waiting"),
            (In(&headers(1, END)), "http2 waiting"),
            (Out(&settings(true)), "http2 streams=1"),
            (Out(&headers(1, END)), "http2 streams=0 done=1"),
        ]);
    });
}

#[test]
fn an_older_connection_is_followed_from_where_whole_frames_are_seen() {
    bench(|bench| {
        // Without its preface: as if the attach had come later.
        Talk::open(bench, GRPC).table(&[
            (In(b"\x00in the middle of a body"), "http2 waiting"),
            (Out(b"\x00in the middle of a body"), "http2 done=1"),
            (In(&ping()), "http2 done=1"),
            (In(&headers(7, END)), "http2 waiting done=1"),
            (Out(&settings(true)), "http2 waiting done=1"),
            (Out(&headers(7, 0)), "http2 done=2"),
            (In(&[headers(9, 0), data(9, 0, 5)].concat()), "http2 waiting done=2"),
            (Out(&data(7, 0, 5)), "http2 done=3"),
            (Out(&data(7, 0, 5)), "http2 streams=2 done=3"),
            (In(&headers(11, END)), "http2 streams=3 done=3"),
            (Out(&data(7, END, 5)), "http2 streams=2 done=4"),
            (Out(&headers(11, END)), "http2 streams=1 done=5"),
            (In(&data(9, END, 5)), "http2 streams=1 done=5"),
            (Out(&headers(9, END)), "http2 streams=0 done=6"),
            (In(&ping()), "http2 streams=0 done=6"),
        ]);
    });
}

#[test]
fn a_connection_that_goes_takes_its_streams_with_it() {
    h2(GRPC, &[(In(&headers(1, END)), "http2 streams=1"), (RstOut, "-")]);
    bench(|bench| {
        for cut in 1..=2 {
            let mut talk = Talk::open(bench, GRPC);
            talk.take(In(&[PREFACE, &settings(false)].concat()));
            talk.take(Out(&settings(false)));
            talk.table(&[
                (In(&headers(1, END)), "http2 streams=1"),
                (FinOut, "http2 fin-out streams=1"),
                (RstOut, "-"),
            ]);
            assert_eq!(talk.bench().counters().cut, cut, "a stream was open");
        }
    });
}
