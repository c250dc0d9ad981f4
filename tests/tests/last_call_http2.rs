//! The last call over HTTP/2 cleartext: one GOAWAY between frames, and streams in progress go on.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};
use lastcall_tests::{Conn, Stage, scenarios};

const HOOK: &str = "/drain?settle=60s&last-call=http";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// Last stream 2^31-1, NO_ERROR.
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

scenarios! {
    /// Told with the answer to the next request, once; a stream that the pod is in the middle of goes on.
    fn a_grpc_client_is_told_once(node) {
        let stage = Stage::start(node, "grpc", HOOK)?;
        let _stop = stage.delete(node)?;
        let (mut conn, mut served) = connected(&stage)?;
        // A stream of the server's that began before.
        ask(&mut conn, &mut served, 1)?;
        answer(&mut conn, &mut served, &[&headers(1, 0), &frame(DATA, 0, 1, b"one")], true)?;
        ask(&mut conn, &mut served, 3)?;
        answer(&mut conn, &mut served, &[&headers(3, END_STREAM)], false)?;
        for n in 0..20u8 {
            let flags = if n == 19 { END_STREAM } else { 0 };
            answer(&mut conn, &mut served, &[&frame(DATA, flags, 1, &[n; 1000])], false)?;
        }
        Ok(())
    }

    /// A connection older than the drain is followed from whole frames on.
    fn an_older_connection_is_told(node) {
        let stage = Stage::start(node, "grpc", HOOK)?;
        let (mut conn, mut served) = connected(&stage)?;
        exchange(&mut conn, &mut served, 1, false)?;
        let _stop = stage.delete(node)?;
        let mut told = 0;
        for stream in [3, 5, 7, 9, 11, 13] {
            conn.send(headers(stream, END_STREAM))?;
            served.expect(headers(stream, END_STREAM))?;
            served.send(headers(stream, END_STREAM))?;
            told += usize::from(told_before(&mut conn, &headers(stream, END_STREAM))?);
        }
        anyhow::ensure!(told == 1, "told {told} times");
        Ok(())
    }

    /// It hears nothing: only what the app writes passes where an announcement can be put in. Its client is told
    /// when it asks again, and had nothing in flight until then.
    fn an_idle_connection_waits_for_its_next_request(node) {
        let stage = Stage::start(node, "grpc", HOOK)?;
        let (mut conn, mut served) = connected(&stage)?;
        exchange(&mut conn, &mut served, 1, false)?;
        let _stop = stage.delete(node)?;
        conn.stream().set_read_timeout(Some(Duration::from_millis(1500)))?;
        let heard = conn.stream().read(&mut [0; 1]);
        anyhow::ensure!(heard.is_err(), "an idle client heard {heard:?}");
        conn.stream().set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut told = 0;
        for stream in [3, 5, 7, 9] {
            ask(&mut conn, &mut served, stream)?;
            served.send(headers(stream, END_STREAM))?;
            told += usize::from(told_before(&mut conn, &headers(stream, END_STREAM))?);
        }
        anyhow::ensure!(told == 1, "told {told} times");
        Ok(())
    }

    /// Not within a frame, nor between HEADERS and their CONTINUATION, whatever the app writes at once.
    fn not_within_frames(node) {
        let stage = Stage::start(node, "grpc", HOOK)?;
        let _stop = stage.delete(node)?;
        // Half of a frame, and the other half looks like whole ones.
        let nested = [headers(1, END_STREAM), headers(3, END_STREAM)].concat();
        let data = frame(DATA, 0, 1, &nested);
        in_two_writes(&stage, &[headers(1, 0), data].concat(), 19)?;
        let head = [frame(HEADERS, 0, 1, b"\x88"), frame(CONTINUATION, END_HEADERS, 1, b"\x88")].concat();
        in_two_writes(&stage, &head, 10)?;
        in_two_writes(&stage, &head, 4)
    }

    /// Nine zero bytes are a frame header, and nothing here is HTTP/2.
    fn other_protocols_are_left_alone(node) {
        let stage = Stage::start(node, "grpc", HOOK)?;
        let _stop = stage.delete(node)?;
        let tls = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 500]].concat();
        for said in [&tls[..], &[0; 90], b"*1\r\n$4\r\nPING\r\n", &headers(1, END_STREAM)] {
            let (mut conn, mut served) = stage.accepted()?;
            for _ in 0..4 {
                conn.send(said)?;
                served.expect(said)?;
                served.send([0x17; 100])?;
                conn.expect([0x17; 100])?;
            }
        }
        Ok(())
    }
}

/// The pod's first answer comes in two writes with another request between them. Nothing comes between the
/// writes, and the next answer tells.
fn in_two_writes(stage: &Stage, whole: &[u8], cut: usize) -> Result<()> {
    let (mut conn, mut served) = stage.accepted()?;
    let asked = [PREFACE, SETTINGS, &headers(1, END_STREAM)].concat();
    conn.send(&asked)?;
    served.expect(&asked)?;
    served.send([SETTINGS, &whole[..cut]].concat())?;
    conn.expect([SETTINGS, &whole[..cut]].concat())?;
    ask(&mut conn, &mut served, 3)?;
    served.send(&whole[cut..])?;
    conn.expect(&whole[cut..])?;
    exchange(&mut conn, &mut served, 5, true)?;
    exchange(&mut conn, &mut served, 7, false)
}

/// Receives `bytes`; answers whether the announcement came ahead of them.
fn told_before(conn: &mut Conn, bytes: &[u8]) -> Result<bool> {
    let first = conn.receive(9)?;
    if first == GOAWAY[..9] {
        conn.expect(&GOAWAY[9..])?;
        conn.expect(bytes)?;
        return Ok(true);
    }
    anyhow::ensure!(first == bytes[..9], "{} came", first.escape_ascii());
    conn.expect(&bytes[9..])?;
    Ok(false)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// HEADERS of one byte, with END_HEADERS.
fn headers(stream: u8, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, b"\x88")
}

fn ask(conn: &mut Conn, served: &mut Conn, stream: u8) -> Result<()> {
    conn.send(headers(stream, END_STREAM))?;
    served.expect(headers(stream, END_STREAM))
}

/// The pod writes frames, one after the other; the client hears them, behind a GOAWAY where it is told.
fn answer(conn: &mut Conn, served: &mut Conn, frames: &[&[u8]], told: bool) -> Result<()> {
    frames.iter().try_for_each(|frame| served.send(frame))?;
    let goaway = if told { GOAWAY } else { b"" };
    conn.expect([goaway, &frames.concat()].concat())
}

fn exchange(conn: &mut Conn, served: &mut Conn, stream: u8, told: bool) -> Result<()> {
    ask(conn, served, stream)?;
    answer(conn, served, &[&headers(stream, END_STREAM)], told)
}

/// A new connection with its prefaces behind it.
fn connected(stage: &Stage) -> Result<(Conn, Conn)> {
    let (mut conn, mut served) = stage.accepted()?;
    conn.send([PREFACE, SETTINGS].concat())?;
    served.expect([PREFACE, SETTINGS].concat()).context("the client's preface")?;
    served.send(SETTINGS)?;
    conn.expect(SETTINGS).context("the server's preface")?;
    Ok((conn, served))
}
