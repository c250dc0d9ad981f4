//! HTTP/2: a stream without its answer is in flight, whatever frames that keep house have gone since.

use std::time::Duration;

use anyhow::{Result, ensure};
use lastcall_tests::{Conn, Hook, scenarios};

/// Longer than what the hook asks for, so that an agent that errs has answered.
const A_WHILE: Duration = Duration::from_secs(9);
/// `idle-after` behind the answer, and a margin.
const SOON: Duration = Duration::from_secs(15);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// HEADERS with END_STREAM and END_HEADERS, stream 1: GET, and 200.
const ASK: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x82";
const ANSWER: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";

scenarios! {
    /// The server's SETTINGS are no answer.
    fn a_new_http2_request_outlives_the_servers_settings(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("grpc").port("grpc", 8080).hook(Hook::http("/drain?settle=6s")).start()?;
        let server = pod.listen(8080)?;
        let client = node.client()?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let mut client = client.connect(&pod, 8080)?;
        client.send([PREFACE, SETTINGS, ASK].concat())?;
        let mut served = server.accept()?;
        served.expect([PREFACE, SETTINGS, ASK].concat())?;
        served.send(SETTINGS)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a stream open");
        served.send(ANSWER)?;
        client.expect([SETTINGS, ANSWER].concat())?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// Nor is the PING by which a server measures the bandwidth as soon as data comes (grpc-go).
    fn an_older_http2_request_outlives_the_servers_ping(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("grpc").port("grpc", 8080).hook(Hook::http("/drain?settle=6s")).start()?;
        let server = pod.listen(8080)?;
        let mut client = node.client()?.connect(&pod, 8080)?;
        client.send([PREFACE, SETTINGS].concat())?;
        let mut served = server.accept()?;
        served.expect([PREFACE, SETTINGS].concat())?;
        served.send(SETTINGS)?;
        client.expect(SETTINGS)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        client.send(ASK)?;
        served.expect(ASK)?;
        served.send(PING)?;
        ensure!(stop.still_held_after(A_WHILE), "answered with a stream open");
        served.send(ANSWER)?;
        client.expect([PING, ANSWER].concat())?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// What other streams of a connection do says nothing of one that still waits.
    fn a_stream_that_thinks_beside_others_that_do_not(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("grpc").port("grpc", 8080).hook(Hook::http("/drain?settle=6s")).start()?;
        let server = pod.listen(8080)?;
        let client = node.client()?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let mut client = client.connect(&pod, 8080)?;
        client.send([PREFACE, SETTINGS, ASK].concat())?;
        let mut served = server.accept()?;
        served.expect([PREFACE, SETTINGS, ASK].concat())?;
        served.send(SETTINGS)?;
        client.expect(SETTINGS)?;
        for stream in [3, 5, 7] {
            exchange(&mut client, &mut served, stream)?;
        }
        ensure!(stop.still_held_after(A_WHILE), "answered with a stream open");
        served.send(ANSWER)?;
        client.expect(ANSWER)?;
        ensure!(stop.answered_within(SOON)?.outcome() == "drained");
        Ok(())
    }

    /// Nor of one that nobody saw being opened: it is in doubt for ten seconds.
    fn an_older_stream_beside_newer_ones(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("grpc").port("grpc", 8080).hook(Hook::http("/drain?settle=1s")).start()?;
        let server = pod.listen(8080)?;
        let mut client = node.client()?.connect(&pod, 8080)?;
        client.send([PREFACE, SETTINGS, ASK].concat())?;
        let mut served = server.accept()?;
        served.expect([PREFACE, SETTINGS, ASK].concat())?;
        served.send(SETTINGS)?;
        client.expect(SETTINGS)?;
        let stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        for stream in [3, 5, 7] {
            exchange(&mut client, &mut served, stream)?;
        }
        ensure!(stop.still_held_after(Duration::from_secs(6)), "answered with a stream open");
        served.send(ANSWER)?;
        client.expect(ANSWER)?;
        ensure!(stop.answered_within(2 * A_WHILE)?.outcome() == "drained");
        Ok(())
    }
}

/// A request on a stream, and its answer.
fn exchange(client: &mut Conn, served: &mut Conn, stream: u8) -> Result<()> {
    let on = |frame: &[u8]| [&frame[..8], &[stream], &frame[9..]].concat();
    client.send(on(ASK))?;
    served.expect(on(ASK))?;
    served.send(on(ANSWER))?;
    client.expect(on(ANSWER))
}
