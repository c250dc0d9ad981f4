//! Connections that are older than the attach, and what is taken back of them.

use std::{format, string::String, vec::Vec};

use proptest::prelude::*;

use crate::{
    abi::{flag, protocol},
    announce::{self, Tail},
    http::Piece,
    tests::spoken::{Spoken, segments},
};

const DOUBT: u32 = flag::PIPELINED | flag::UNCERTAIN;
const GET: &str = "GET / HTTP/1.1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is asked (`>`) and answered (`<`); whether something is in flight then, and whether there is doubt about
/// the messages.
fn table(flags: u32, rows: &[(&str, &str, bool, bool)]) {
    let mut spoken = Spoken::on(protocol::HTTP, 0, 0);
    spoken.c.flags = flags;
    for (i, (side, text, in_flight, doubt)) in rows.iter().enumerate() {
        match *side {
            ">" => spoken.asks(text.as_bytes()),
            _ => spoken.answers(text.as_bytes()),
        }
        let said = (spoken.in_flight(), spoken.c.flags & DOUBT != 0);
        assert_eq!(said, (*in_flight, *doubt), "row {i}, {side} {text:?}");
    }
}

/// A segment from the midst of a body: a request that ends early, and the beginning of another.
const BODY: &str = "POST /7 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello, POST /7 HTTP/1.1\r\n";

#[test]
fn a_body_that_looked_like_requests_is_forgotten_after_one_whole_exchange() {
    for body in [&[BODY][..], &[BODY, BODY], &["POST /7 HTTP/1.1\r\n", "POST /7 HTTP/1.1\r\n"]] {
        let mut rows: Vec<_> = body.iter().map(|piece| (">", *piece, true, true)).collect();
        rows[0].3 = body[0] == BODY;
        rows.extend([
            ("<", OK, true, true),
            (">", GET, true, true),
            ("<", OK, true, true),
            (">", GET, true, false),
            ("<", OK, false, false),
        ]);
        table(0, &rows);
        // Of one that was seen from its beginning it was no mistake.
        rows.iter_mut().rev().take(3).for_each(|row| (row.2, row.3) = (true, true));
        table(flag::NEW, &rows);
    }
}

#[test]
fn a_body_that_looked_like_an_answer_is_forgotten_after_one_whole_exchange() {
    table(
        0,
        &[
            ("<", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, HTTP/1.1 200 OK\r\n", false, true),
            (">", GET, true, true),
            ("<", OK, false, true),
            (">", GET, true, false),
            ("<", OK, false, false),
        ],
    );
}

#[test]
fn an_answer_on_trial_may_look_like_several() {
    let (head, body) =
        ("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12");
    let answer = [("<", head, true, true), ("<", body, true, true)];
    table(
        0,
        &[
            &[(">", BODY, true, true), ("<", OK, true, true), (">", GET, true, true)],
            &answer[..],
            &[(">", GET, true, false)],
        ]
        .concat(),
    );
}

#[test]
fn more_behind_an_answer_is_the_middle_of_one() {
    for (flags, midway) in [(0, flag::MIDWAY), (flag::NEW, 0)] {
        let mut spoken = Spoken::on(protocol::HTTP, 0, 0);
        spoken.c.flags = flags;
        spoken.answers(OK.as_bytes());
        spoken.answers(b"and more");
        assert_eq!(spoken.c.flags & flag::MIDWAY, midway);
        spoken.asks(GET.as_bytes());
        assert_eq!(spoken.c.flags & flag::MIDWAY, 0);
    }
}

#[test]
fn one_that_pipelines_stays_one() {
    let two = [GET, GET].concat();
    // As often as it likes.
    let burst = [(">", &*two, true, true), ("<", OK, true, true), ("<", OK, true, true)];
    table(0, &[burst, burst, burst].concat());
    let ahead =
        [(">", GET, true, true), (">", GET, true, true), ("<", OK, true, true), ("<", OK, true, true)];
    table(0, &[&burst[..], &ahead, &ahead].concat());
    let three =
        [(">", GET, true, true), (">", GET, true, true), ("<", OK, true, true), (">", GET, true, true)];
    table(0, &[&burst[..], &three].concat());
    // Not all of the answer has been sent.
    let half = ("<", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", true, true);
    let next = [(">", GET, true, true), half, (">", GET, true, true), ("<", OK, true, true)];
    table(0, &[&burst[..], &next].concat());
    // Two answers to one request: another waits.
    let late = [(">", GET, true, true), ("<", OK, true, true), ("<", OK, true, true), (">", GET, true, true)];
    table(0, &[&burst[..2], &late].concat());
    // Two answers in one segment.
    table(
        0,
        &[
            &burst[..2],
            &[(">", GET, true, true), ("<", &[OK, OK].concat(), true, true), (">", GET, true, true)],
        ]
        .concat(),
    );
}

#[test]
fn nothing_is_taken_back_on_the_way() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n0123456789";
    let early = ("<", OK, true, true);
    for next in [
        // The rest of a body that was answered already, whatever it looks like.
        GET,
        // No request, as far as anybody can tell.
        "0123456789",
        "G",
        "\r\n",
    ] {
        let rows = [(">", BODY, true, true), ("<", OK, true, true), (">", post, true, true), early];
        table(0, &[&rows[..], &[(">", next, true, true), (">", GET, true, true)]].concat());
    }
    // Something behind a request whose end was not seen, and its answer.
    let halves = [(">", "GET / HTTP/1.1\r\n", true, true), (">", "Host: x\r\n\r\n", true, true)];
    let before = [(">", BODY, true, true), ("<", OK, true, true)];
    let behind = [("<", OK, true, true), (">", "frob", true, true), (">", GET, true, true)];
    table(0, &[before, halves].concat().into_iter().chain(behind).collect::<Vec<_>>());
    // The next one comes before all of the answer was acknowledged.
    let mut spoken = Spoken::on(protocol::HTTP, 0, 0);
    for (text, deaf) in [(BODY, false), (GET, false), (GET, true)] {
        spoken.deaf = deaf;
        spoken.asks(text.as_bytes());
        spoken.answers(OK.as_bytes());
        assert_ne!(spoken.c.flags & flag::PIPELINED, 0);
    }
}

/// Text that looks like what is around it.
fn look_alikes() -> impl Strategy<Value = String> {
    let part = prop::sample::select(std::vec![
        "POST /7 HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "Content-Length: 5\r\n",
        "\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "0\r\n\r\n",
        "hello",
        "G",
        "\r",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// A request and its answer, framed by their lengths.
fn exchange() -> impl Strategy<Value = (String, String)> {
    (look_alikes(), look_alikes(), 0..3u8).prop_map(|(question, answer, how)| {
        let request = if how == 0 {
            "GET /x HTTP/1.1\r\nHost: x\r\n\r\n".into()
        } else {
            format!("POST /x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{question}", question.len())
        };
        let response = if how == 1 {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{answer}.\r\n0\r\n\r\n",
                answer.len() + 1
            )
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
        };
        (request, response)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever was seen of its first exchange, the client of an older connection can be told soon: it waits
    /// for its answers.
    #[test]
    fn every_client_that_waits_for_its_answers_can_be_told(
        exchanges in prop::collection::vec(exchange(), 6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        missed in any::<prop::sample::Index>(),
        peers: u32, pods: u32,
    ) {
        let mut spoken = Spoken::on(protocol::HTTP, peers, pods);
        for (i, (request, response)) in exchanges.iter().enumerate() {
            // What the first segments of the connection's first exchange are is left to chance.
            let asked = segments(request.as_bytes(), if i == 0 { &cuts } else { &[] });
            let answered = segments(response.as_bytes(), &cuts);
            let first = if i == 0 { missed.index(asked.len() + answered.len()) } else { 0 };
            for piece in asked.iter().skip(first) {
                spoken.asks(piece);
                prop_assert!(spoken.in_flight());
            }
            if i == exchanges.len() - 1 {
                let piece = Piece { sequence: spoken.peers.wrapping_sub(request.len() as u32), payload: request.len() as u32 };
                let tail = if request.ends_with("\r\n\r\n") { Tail::End } else { Tail::Other };
                prop_assert_eq!(announce::http1(&spoken.c, piece, tail), Ok(()), "{:x}", spoken.c.flags);
            }
            for piece in answered.iter().skip(first.saturating_sub(asked.len())) {
                spoken.answers(piece);
            }
            if i > 2 {
                prop_assert!(!spoken.in_flight(), "{:x}", spoken.c.flags);
            }
        }
    }
}
