//! HTTP/1 messages.

use std::{borrow::ToOwned, format, string::String, vec};

use proptest::prelude::*;

use crate::{
    abi::{Connection, flag, path_hash, protocol},
    announce::SMALL_REQUEST,
    http::*,
    tests::spoken::{Spoken, begins, head, head_at, peek, segments},
};

#[test]
fn where_a_request_begins() {
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\n", Start::Request),
        ("OPTIONS * HTTP/1.1\r\n", Start::Request),
        ("PUT http://x/ HTTP/1.1\r\n", Start::Request),
        ("M-SEARCH * HTTP/1.1\r\n", Start::Request),
        ("PROPFIND /", Start::Request),
        ("VERSION-CONTROL /", Start::Request),
        ("HEAD / HTTP/1.1\r\n", Start::Head),
        ("HEADS / HTTP/1.1\r\n", Start::Request),
        ("CONNECT db:5432 HTTP/1.1\r\n", Start::Connect),
        ("PRI * HTTP/2.0\r\n", Start::Preface),
        ("PRI * HT", Start::Preface),
        ("PRI * H", Start::Short),
        ("PRI ", Start::Short),
        ("", Start::Short),
        ("G", Start::Short),
        ("GET", Start::Short),
        ("GET ", Start::Short),
        ("CONNECT ", Start::Short),
        ("\r\nGET / HTTP/1.1\r\n", Start::Blank),
        ("\n", Start::Blank),
        ("get / HTTP/1.1\r\n", Start::Other),
        ("GO / HTTP/1.1\r\n", Start::Other),
        ("GET x", Start::Other),
        ("THE quick brown fox", Start::Other),
        ("BASELINE-CONTROL-X /", Start::Other),
        ("{\"a\": 1}", Start::Other),
        (" GET /", Start::Other),
        ("\x16\x03\x01", Start::Other),
    ] {
        assert_eq!(begins(bytes.as_bytes()), expected, "{bytes:?}");
    }
}

#[test]
fn a_path_is_hashed_without_its_query() {
    let hash = |bytes: &str| {
        let (peek, len) = peek(bytes.as_bytes());
        target_hash(&peek, start(&peek, len).1, len)
    };
    let expected = path_hash(b"/healthz");
    for rest in [" HTTP/1.1\r\n", "?verbose HTTP/1.1", "#x", "\r\n", "\n", ""] {
        assert_eq!(hash(&format!("GET /healthz{rest}")), expected, "{rest:?}");
        assert_eq!(hash(&format!("OPTIONS /healthz{rest}")), expected, "{rest:?}");
    }
    assert_ne!(hash("GET /healthz/ HTTP/1.1"), expected);
    let long = "/x".repeat(40);
    assert_eq!(hash(&format!("GET {long} HTTP/1.1")), path_hash(long.as_bytes()));
}

#[test]
fn how_a_body_is_framed() {
    let cases: [(&str, Option<u64>, bool); 15] = [
        ("A: *Content-Length: 10", None, false),
        ("Content-Length: 10", Some(10), false),
        ("content-length:10", Some(10), false),
        ("CONTENT-LENGTH: \t 010 \t", Some(10), false),
        ("A: b\r\nContent-Length: 0\r\nB: c", Some(0), false),
        ("A: b\nContent-Length: 7\nB: c", Some(7), false),
        ("X-Content-Length: 10", None, false),
        ("A: content-length: 10", None, false),
        ("Content-Length-X: 10", None, false),
        ("Content-Transfer-Encoding: binary", None, false),
        ("Transfer-Encoding: chunked", None, true),
        ("transfer-ENCODING:gzip, chunked", None, true),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", Some(3), true),
        ("Host: x", None, false),
        ("Trailer: Content-Length\r\nTE: trailers", None, false),
    ];
    for (lines, length, chunked) in cases {
        let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nContent-Length: 99\r\n\r\n");
        let h = head(text.as_bytes());
        assert_eq!(h.body as usize, text.len() - 22, "{lines:?}");
        assert_eq!((h.has_length != 0).then_some(h.length), length, "{lines:?}");
        assert_eq!(h.chunked != 0, chunked, "{lines:?}");
    }
    for end in ["\r\n\r\n", "\n\n", "\r\n\n", "\n\r\n"] {
        let text = format!("HTTP/1.1 200 OK{end}body\r\n\r\n");
        assert_eq!(head(text.as_bytes()).body as usize, 15 + end.len(), "{end:?}");
    }
    assert_eq!(head(b"HTTP/1.1 200 OK\r\nA: b\r\n").body, 0);
}

#[test]
fn no_length_comes_round_to_a_small_one() {
    for digits in
        ["2147418112", "2147483647", "4294967296", "18446744073709551616", "184467440737095516160000000001"]
    {
        let h = head(format!("HTTP/1.1 200 OK\r\nContent-Length: {digits}\r\n\r\n").as_bytes());
        assert_eq!(h.end(), None, "{digits}");
    }
    let h = head_at(u32::MAX, b"HTTP/1.1 200 OK\r\nContent-Length: 2147418111\r\n\r\n");
    assert_eq!(h.end(), Some((h.body - 1).wrapping_add(2_147_418_111)));
}

#[test]
fn status_lines() {
    for (line, expected) in [
        (b"HTTP/1.1 200", Some(200)),
        (b"HTTP/1.0 404", Some(404)),
        (b"HTTP/1.x 200", None),
        (b"HTTP/2.0 200", None),
        (b"HTTP/1.1 2x0", None),
        (b"HTTP/1.1200 ", None),
        (b"http/1.1 200", None),
        (b"ICY 200 OK\r\n", None),
    ] {
        assert_eq!(status(line), expected);
    }
}

#[test]
fn an_interim_response_says_that_a_request_waits() {
    let mut c = Connection { protocol: protocol::HTTP, ..Connection::default() };
    assert!(response_begins(&mut c, 100, &mut head(b"HTTP/1.1 100 Continue\r\n\r\n")));
    assert_eq!((c.flags & flag::WAITING, c.exchanges), (flag::WAITING, 0), "it came before the attach");
    assert!(!response_begins(&mut c, 204, &mut head(b"HTTP/1.1 204 No Content\r\n\r\n")));
    assert_eq!((c.flags & UNFINISHED, c.exchanges), (0, 1));
}

#[test]
fn a_farewell_is_no_question() {
    let cut = |protocol, flags| is_cut(&Connection { protocol, flags, ..Connection::default() });
    assert!(cut(protocol::UNKNOWN, flag::WAITING));
    assert!(!cut(protocol::UNKNOWN, flag::WAITING | flag::FIN_IN));
    assert!(cut(protocol::HTTP1, flag::WAITING | flag::FIN_IN));
    assert!(cut(protocol::HTTP1, flag::RESPONSE_HEAD) && !cut(protocol::HTTP1, flag::RESPONSE_UNTIL_CLOSE));
    let streams = Connection { streams: 1, protocol: protocol::HTTP2, ..Connection::default() };
    assert!(!is_cut(&streams) && is_cut(&Connection { flags: flag::H2_FOLLOWED, ..streams }));
}

/// A conversation on an HTTP port: what is asked (`>`) and answered (`<`), and whether something is in flight
/// then.
fn table(rows: &[(&str, bool)]) -> Connection {
    let mut spoken = Spoken::on(protocol::HTTP, 0, 0);
    for (i, (row, expected)) in rows.iter().enumerate() {
        match row.split_at(1) {
            (">", text) => spoken.asks(text.as_bytes()),
            (_, text) => spoken.answers(text.as_bytes()),
        }
        assert_eq!(spoken.in_flight(), *expected, "row {i}, {row:?}");
    }
    spoken.c
}

const GET: &str = ">GET / HTTP/1.1\r\n\r\n";
const OK: &str = "<HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn answers_without_a_body() {
    const LONG: &str = "Content-Length: 100\r\n\r\n";
    for code in ["204 No Content", "304 Not Modified"] {
        table(&[(GET, true), (&format!("<HTTP/1.1 {code}\r\n{LONG}"), false), (GET, true), (OK, false)]);
    }
    let answer = format!("<HTTP/1.1 200 OK\r\n{LONG}");
    table(&[(">HEAD / HTTP/1.1\r\n\r\n", true), (&answer, false), (GET, true), (&answer, true)]);
}

#[test]
fn what_becomes_something_else() {
    let c =
        table(&[(GET, true), ("<HTTP/1.1 101 Switching Protocols\r\n\r\n", false), (OK, false), (GET, true)]);
    assert_eq!((c.protocol, c.flags & flag::UPGRADED), (protocol::UNKNOWN, flag::UPGRADED));
    let connect = ">CONNECT db:5432 HTTP/1.1\r\n\r\n";
    let c = table(&[(connect, true), ("<HTTP/1.1 200 OK\r\n\r\n", false)]);
    assert_eq!(c.flags & flag::UPGRADED, flag::UPGRADED);
    let c = table(&[
        (connect, true),
        ("<HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", false),
        (GET, true),
        (OK, false),
    ]);
    assert_eq!(c.flags & flag::UPGRADED, 0);
}

#[test]
fn large_requests() {
    let head = |length: usize| format!("POST / HTTP/1.1\r\nContent-Length: {length:4}\r\n\r\n");
    let room = SMALL_REQUEST as usize - head(0).len();
    for (segments, large) in [
        (vec!["GET / HTTP/1.1\r\n\r\n".to_owned()], false),
        (vec![head(room) + &"x".repeat(room)], false),
        (vec![head(room), "x".repeat(room)], false),
        (vec![head(room + 1) + &"x".repeat(room + 1)], true),
        (vec![head(room + 1), "x".repeat(room + 1)], true),
        (vec![format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(1000))], true),
        (vec!["GET / HTTP/1.1\r\n".to_owned(), "Host: x\r\n\r\n".to_owned()], true),
        (vec!["PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()], false),
        (vec!["PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".to_owned()], true),
    ] {
        let mut spoken = Spoken::on(protocol::HTTP, u32::MAX - 500, 7);
        // What was said of the request before is forgotten.
        for _ in 0..2 {
            segments.iter().for_each(|segment| spoken.asks(segment.as_bytes()));
            assert_eq!(spoken.c.flags & flag::LARGE_REQUEST != 0, large, "{segments:?}");
            spoken.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            spoken.asks(b"GET / HTTP/1.1\r\n\r\n");
            assert_eq!(spoken.c.flags & flag::LARGE_REQUEST, 0);
            spoken.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if spoken.c.flags & flag::REQUEST_CHUNKED != 0 {
                break;
            }
        }
    }
}

#[test]
fn more_requests_than_answers() {
    table(&[(GET, true), (GET, true), (OK, true), (OK, true)]);
    table(&[(">GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", true), (OK, true)]);
    table(&[(GET, true), (">frob / HTTP/1.1\r\n\r\n", true), (OK, true)]);
    // A line end behind a body is none, as old browsers send it.
    table(&[(">POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok", true), (">\r\n", true), (OK, false)]);
    // Whose answer is without a body is not known any more.
    let long = "<HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let c = table(&[(">HEAD / HTTP/1.1\r\n\r\n", true), (GET, true), (long, true)]);
    assert_ne!(c.flags & flag::RESPONSE_LENGTH, 0);
}

/// An answer begins before its request has ended, and the rest of the request looks like others.
#[test]
fn an_early_answer_leaves_no_doubt() {
    const ASKED: &str = ">POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n0123456789";
    const ANSWER: &str = "<HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhel";
    for rest in [">GET / HTTP/1.1\r\n\r\n..", ">\r\n0123456789abcdef..", ">HEAD", ">0123456789"] {
        let mut rows = vec![(ASKED, true), (ANSWER, true), (rest, true)];
        let whole = rest.len() == 21;
        if whole {
            rows.extend([("<lo.", false), (GET, true), (OK, false), (GET, true)]);
        }
        let c = table(&rows);
        assert_eq!(c.flags & (flag::UNCERTAIN | flag::PIPELINED), 0, "{rest}");
        assert!(!whole || c.flags & flag::REQUEST_LENGTH != 0 && c.exchanges == 2, "{rest}");
    }
    // The next request comes with the body's end, or instead of it.
    for (rest, uncertain) in [(">0123456789abcdefghijGET / HTTP/1.1\r\n\r\n", true), (">GET /", false)] {
        let c = table(&[(ASKED, true), (ANSWER, true), (rest, true), ("<lo.", uncertain)]);
        assert_eq!(c.flags & flag::UNCERTAIN != 0, uncertain, "{rest}");
    }
    table(&[(ASKED, true), (ANSWER, true), ("<lo.", false), (GET, true), (OK, false)]);
}

#[test]
fn a_status_line_in_a_body_is_no_response() {
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked", "Connection: close"] {
        let answer = format!("<HTTP/1.1 200 OK\r\n{framing}\r\n\r\nlog:\n");
        table(&[(GET, true), (&answer, true), ("<HTTP/1.1 204 No Content\r\n\r\n", true), (OK, true)]);
    }
}

#[test]
fn look_alikes_of_the_last_chunk() {
    let chunked = "<HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for piece in ["<7\r\n0\r\n\r\n..", "<5\r\n10\r\n\r\n", "<\r\n", "<0\r\n", "<0\r\n\r"] {
        table(&[(GET, true), (chunked, true), (piece, true)]);
    }
    for piece in
        ["<0\r\n\r\n", "<00\r\n\r\n", "<0\r\nX: y\r\n\r\n", "<\r\n0\r\n\r\n", "<2\r\nok\r\n0\r\n\r\n"]
    {
        table(&[(GET, true), (chunked, true), (piece, false)]);
    }
}

/// One exchange: a request and its response, as bytes.
fn exchange() -> impl Strategy<Value = (String, String)> {
    let method = prop::sample::select(std::vec!["GET", "POST", "HEAD", "PROPFIND", "M-SEARCH"]);
    let body = "[a-z\r\n ]{0,60}";
    let headers = prop::collection::vec("[A-Z][a-z-]{0,20}: [a-zA-Z0-9:; ]{0,40}\r\n", 0..4);
    let framing = 0..4u8;
    (method, body, body, headers, framing, 0..4u8, any::<bool>()).prop_map(
        |(method, question, answer, headers, asked, answered, interim)| {
            let headers = headers.concat();
            let framed = |how: u8, body: &str| match how {
                0 => format!("Content-Length: {}\r\n{headers}\r\n{body}", body.len()),
                1 => format!("{headers}content-length:{}\r\n\r\n{body}", body.len()),
                2 if !body.is_empty() => {
                    format!(
                        "{headers}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                        body.len()
                    )
                }
                _ => format!("{headers}Content-Length: 0\r\n\r\n"),
            };
            let request = format!("{method} /x HTTP/1.1\r\n{}", framed(asked, &question));
            let mut response = String::new();
            if interim {
                response += "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
            }
            response += "HTTP/1.1 200 OK\r\n";
            let body = framed(answered, &answer);
            response +=
                if method == "HEAD" { &body[..body.find("\r\n\r\n").map_or(0, |i| i + 4)] } else { &body };
            (request, response)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// From a request's first byte to its response's last but one, however both are cut up, something is
    /// in flight.
    #[test]
    fn an_exchange_is_in_flight_from_its_first_byte_to_its_last(
        exchanges in prop::collection::vec(exchange(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        early in prop::collection::vec(any::<bool>(), 5),
        peers: u32, pods: u32,
    ) {
        let mut spoken = Spoken::on(protocol::HTTP, peers, pods);
        for ((request, response), early) in exchanges.iter().zip(early) {
            let mut asked = segments(request.as_bytes(), &cuts);
            // The rest of an upload may come while the response is under way.
            let late = if early && asked.len() > 1 { asked.pop() } else { None };
            for piece in asked {
                spoken.asks(piece);
                prop_assert!(spoken.in_flight(), "after {:?}", String::from_utf8_lossy(piece));
            }
            let answered = segments(response.as_bytes(), &cuts);
            let (last, rest) = answered.split_last().expect("a response");
            for (i, piece) in rest.iter().enumerate() {
                spoken.answers(piece);
                prop_assert!(spoken.in_flight(), "after {:?}", String::from_utf8_lossy(piece));
                if i == 0 && let Some(late) = late {
                    spoken.asks(late);
                    prop_assert!(spoken.in_flight());
                }
            }
            if rest.is_empty() && let Some(late) = late {
                spoken.asks(late);
            }
            spoken.answers(last);
        }
    }

    /// Whole messages, one segment each: nothing is in flight between them.
    #[test]
    fn between_exchanges_nothing_is_in_flight(exchanges in prop::collection::vec(exchange(), 1..5), peers: u32) {
        let mut spoken = Spoken::on(protocol::HTTP1, peers, peers);
        spoken.c.flags = flag::BOUNDARY;
        for (i, (request, response)) in exchanges.iter().enumerate() {
            spoken.asks(request.as_bytes());
            prop_assert!(spoken.in_flight());
            spoken.answers(response.as_bytes());
            prop_assert!(!spoken.in_flight(), "{:x} after {:?}", spoken.c.flags, response);
            prop_assert_eq!(spoken.c.exchanges as usize, i + 1);
        }
    }

    /// Any bytes on a port of which nothing is known: what came in last waits, whatever it looks like.
    #[test]
    fn on_an_unknown_port_the_last_word_counts(rows in prop::collection::vec((any::<bool>(), "(GET /|HTTP/1.1 200|PRI \\* HT|[a-z]){1,3}"), 0..20)) {
        let mut spoken = Spoken::on(protocol::UNKNOWN, 1, 1);
        for (asks, text) in rows {
            if asks {
                spoken.asks(text.as_bytes());
                prop_assert!(spoken.in_flight());
            } else {
                let request = spoken.c.flags & flag::ASKED != 0;
                spoken.answers(text.as_bytes());
                prop_assert!(spoken.c.protocol == protocol::UNKNOWN || request || spoken.c.flags & flag::BOUNDARY != 0);
            }
        }
    }
}
