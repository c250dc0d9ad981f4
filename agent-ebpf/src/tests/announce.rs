//! Where the announcement goes.

use std::{format, string::String, vec, vec::Vec};

use proptest::prelude::*;

use crate::{
    abi::{Connection, Unread, flag, protocol},
    announce::*,
    http::Piece,
};

/// Behind which byte of `text`, or what it is instead.
fn place(text: &[u8]) -> Result<Option<usize>, u32> {
    let mut reader = Reader::default();
    reader.message();
    let _ = text.iter().find(|&&byte| !reader.step(byte));
    match reader.said() {
        said::NOTHING => Ok(None),
        said::HERE => Ok(Some(reader.bytes() as usize)),
        other => Err(other),
    }
}

#[test]
fn behind_the_status_line_of_the_final_response() {
    let rows: [(&str, &str); 8] = [
        ("HTTP/1.1 200 OK\r\n", "Content-Length: 0\r\n\r\n"),
        ("HTTP/1.0 404 Not Found\r\n", "\r\n"),
        ("HTTP/1.1 204\r\n", "\r\n"),
        ("HTTP/1.1 200 OK\n", "\n"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n", "\r\n"),
        ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n", ""),
        (
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 x\r\nA: b\r\nC: d\r\n\r\nHTTP/1.1 500 x\r\n",
            "Connection: x",
        ),
        ("HTTP/1.1 102 Processing\r\nX: HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n", ""),
    ];
    for (before, after) in rows {
        assert_eq!(place(format!("{before}{after}").as_bytes()), Ok(Some(before.len())), "{before}");
        assert_eq!(place(&before.as_bytes()[..before.len() - 1]), Ok(None), "{before}");
    }
}

#[test]
fn not_on_anything_else() {
    let nonsense: [&[u8]; 12] = [
        b"HTTP/2.0 200 OK\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        b"HTTP/1.1 600 OK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"+OK\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x03\x00\x7a\x02",
        b"\x4a\x00\x00\x00\x0a8.0.36",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    ];
    for text in nonsense {
        assert_eq!(place(text), Err(said::NONSENSE), "{}", text.escape_ascii());
    }
    let upgraded = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n";
    assert_eq!(place(upgraded), Err(said::UPGRADED));
}

proptest! {
    /// Whatever the reason phrase and whatever follows.
    #[test]
    fn the_first_line_end_decides(code in 200..600u16, reason in "[ -~]{0,80}", rest in "[ -~\r\n]{0,80}") {
        let line = format!("HTTP/1.1 {code} {reason}\r\n");
        let text: String = [line.as_str(), &rest].concat();
        prop_assert_eq!(place(text.as_bytes()), Ok(Some(line.len())));
    }

    /// Any number of interim responses.
    #[test]
    fn interim_responses_are_passed_over(
        interim in prop::collection::vec((prop::sample::select(vec![100, 102, 103, 199]), "[a-zA-Z: /]{0,20}"), 0..4)
    ) {
        let mut text = String::new();
        for (code, header) in &interim {
            let header: Vec<_> = (!header.is_empty()).then(|| format!("{header}\r\n")).into_iter().collect();
            text += &format!("HTTP/1.1 {code} x\r\n{}\r\n", header.concat());
        }
        text += "HTTP/1.1 200 OK\r\n";
        prop_assert_eq!(place(text.as_bytes()), Ok(Some(text.len())));
    }
}

#[test]
fn clients_have_their_turns_one_after_another() {
    const WITHIN: u64 = 2_000_000_000;
    // As one client's kernel deals ports: every second one.
    let ports: Vec<u16> = (32_768..33_368).step_by(2).collect();
    let told = |since| ports.iter().filter(|p| is_turn(**p, since, WITHIN)).count();
    assert_eq!(told(WITHIN), ports.len(), "nobody waits for longer");
    for tenth in 0..10 {
        let (now, due) = (told(WITHIN / 10 * tenth as u64), ports.len() * tenth * tenth / 100);
        assert!(now.abs_diff(due) <= ports.len() / 10, "{now} of {} after {tenth} tenths", ports.len());
    }
    assert!(ports.iter().all(|p| is_turn(*p, 0, 0)), "at once, where nobody wants turns");
    assert!(ports.iter().all(|p| is_turn(*p, u64::MAX, WITHIN)), "and for ever");
}

/// A connection whose request of 5,000 bytes has come in completely.
fn asked() -> (Connection, Piece) {
    let c = Connection {
        protocol: protocol::HTTP1,
        flags: flag::BOUNDARY
            | flag::IN
            | flag::OUT
            | flag::ACKED
            | flag::WAITING
            | flag::REQUEST_LENGTH
            | flag::LARGE_REQUEST,
        exchanges: 1,
        in_end: 6_000,
        request_end: 6_000,
        out_end: 300,
        out_acked: 300,
        ..Connection::default()
    };
    (c, Piece { sequence: 5_000, payload: 1_000 })
}

#[test]
fn a_large_request_waits_to_be_read() {
    let (c, piece) = asked();
    assert_eq!(http1(&c, piece, Tail::Other), Ok(()));
    let unread = Unread { in_end: 6_000, out_end: 300, ..Unread::default() };
    assert!(is_unread(&c, &unread));
    let no_more: [fn(&mut Connection); 9] = [
        |c| c.flags &= !flag::WAITING,
        |c| c.flags |= flag::RESPONSE_LENGTH,
        |c| c.flags |= flag::RESPONSE_HEAD,
        |c| c.flags |= flag::PIPELINED,
        |c| c.flags |= flag::UNCERTAIN,
        |c| c.flags |= flag::UPGRADED,
        |c| c.out_end += 1,
        |c| c.in_end += 1,
        |c| c.told_at = 1,
    ];
    for change in no_more {
        let mut c = c;
        change(&mut c);
        assert!(!is_unread(&c, &unread), "{c:?}");
    }
}

#[test]
fn a_large_request_of_unknown_end_tells_nobody() {
    let (mut c, piece) = asked();
    c.flags &= !flag::REQUEST_LENGTH;
    for tail in [Tail::End, Tail::Other] {
        assert!(http1(&c, piece, tail).is_err(), "an empty line may be in its body");
    }
    c.flags &= !flag::LARGE_REQUEST;
    assert_eq!(http1(&c, piece, Tail::End), Ok(()));
}

#[test]
fn places_are_dealt_out() {
    let mut taken: Vec<u32> = (32_768..32_896).step_by(2).map(unread_place).collect();
    taken.sort_unstable();
    taken.dedup();
    assert!(taken.len() > 40, "64 connections have {} places", taken.len());
    let keys: Vec<u32> =
        (5..5 + UNREAD_PODS).flat_map(|pod| [unread_key(pod, 0), unread_key(pod, 63)]).collect();
    assert!(keys.iter().all(|k| *k < UNREAD_PODS * UNREAD_PLACES));
    assert_eq!(keys.len(), keys.iter().collect::<std::collections::BTreeSet<_>>().len());
}
