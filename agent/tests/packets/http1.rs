//! HTTP/1 and protocols that nobody knows: what waits for an answer, and which answer is complete.

use std::net::TcpStream;

use lastcall_ebpf::abi::protocol;

use crate::{
    bench::{GRPC, HTTP, METRICS, SQL, bench},
    talk::*,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One conversation on the HTTP port.
fn http(rows: &[(Step<'_>, &str)]) {
    bench(|bench| Talk::open(bench, HTTP).table(rows));
}

#[test]
fn a_request_and_its_answer() {
    http(&[
        (In(GET), "http1 waiting"),
        (AckOut, "http1 waiting"),
        (Out(OK), "http1 done=1"),
        (AckIn, "http1 done=1"),
        (AgainIn, "http1 done=1"),
        (ProbeIn, "http1 done=1"),
        (AgainOut, "http1 done=1"),
        (In(GET), "http1 waiting done=1"),
        (Out(OK), "http1 done=2"),
        (FinIn, "http1 fin-in done=2"),
        (FinOut, "http1 fin-in fin-out done=2"),
        (AckIn, "-"),
    ]);
}

#[test]
fn headers_that_trickle_wait_from_the_first_byte() {
    http(&[
        (In(b"G"), "http1 waiting"),
        (In(b"ET / HTTP/1.1\r\n"), "http1 waiting"),
        (In(b"Host: x\r\n"), "http1 waiting"),
        (In(b"\r\n"), "http1 waiting"),
        (Out(b"HTTP/1"), "http1 waiting"),
        (Out(b".1 200 OK\r\n"), "http1 waiting"),
        (Out(b"Content-Length: 0\r\n\r\n"), "http1 waiting"),
        (In(GET), "http1 waiting pipelined"),
    ]);
    http(&[
        (In(b"\r\n"), "http waiting midway"),
        (In(b"GET / HTTP/1.1\r\n\r\n"), "http waiting midway"),
        (Out(OK), "http1 done=1"),
        (In(b"GET /slow HTTP/1.1\r\nA: "), "http1 waiting done=1"),
        (In(b"b\r\n\r\n"), "http1 waiting done=1"),
        (Out(OK), "http1 done=2"),
        (In(b"\r\nget / HTTP/1.1\r\n\r\n"), "http1 waiting done=2"),
        (Out(OK), "http1 done=3"),
        (In(b"frob / HTTP/1.1\r\n\r\n"), "http1 waiting done=3"),
        (Out(OK), "http1 done=4"),
        (In(b"PROPFIND /dav HTTP/1.1\r\n\r\n"), "http1 waiting done=4"),
    ]);
}

#[test]
fn a_response_lasts_until_its_length_is_reached() {
    http(&[
        (In(GET), "http1 waiting"),
        (Out(b"HTTP/1.1 200 OK\r\ncontent-LENGTH:\t 10\r\n\r\n01234"), "http1 length done=1"),
        (AckIn, "http1 length done=1"),
        (AgainOut, "http1 length done=1"),
        (Out(b"HTTP/1.1 404"), "http1 done=1"),
        (In(HEAD), "http1 waiting done=1"),
        (Out(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), "http1 done=2"),
        (In(GET), "http1 waiting done=2"),
        (Out(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"), "http1 done=3"),
        (In(GET), "http1 waiting done=3"),
        (Out(b"HTTP/1.1 204 No Content\r\n\r\n"), "http1 done=4"),
        (In(GET), "http1 waiting done=4"),
        (Out(b"HTTP/1.0 200 OK\r\n\r\nuntil I am"), "http1 until-close done=5"),
        (Out(b" closed"), "http1 until-close done=5"),
    ]);
    // More than sequence numbers can tell, and more than 64 bits hold.
    for length in ["2147483648", "4294967297", "18446744073709551617", "99999999999999999999999999"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n0123456789");
        http(&[(In(GET), "http1 waiting"), (Out(head.as_bytes()), "http1 until-close done=1")]);
    }
}

#[test]
fn a_status_line_in_a_body_is_no_response() {
    http(&[
        (In(GET), "http1 waiting"),
        (Out(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nlog:\n"), "http1 length done=1"),
        (Out(OK), "http1 length done=1"),
        (Out(b"HTTP/1.1 204 No Content\r\n\r\n"), "http1 length done=1"),
    ]);
    http(&[
        (In(GET), "http1 waiting"),
        (Out(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "http1 chunked done=1"),
        (Out(OK), "http1 chunked done=1"),
    ]);
}

#[test]
fn a_chunked_response_lasts_until_its_last_chunk() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    http(&[
        (In(GET), "http1 waiting"),
        (Out(CHUNKED), "http1 chunked done=1"),
        (Out(b"7\r\n0\r\n\r\n..\r\n"), "http1 chunked done=1"),
        (Out(b"5\r\n10\r\n\r\n"), "http1 chunked done=1"),
        (Out(b"\r\n0\r\n\r\n"), "http1 done=1"),
        (In(GET), "http1 waiting done=1"),
        (Out(CHUNKED), "http1 chunked done=2"),
        (Out(b"0\r\n\r\n"), "http1 done=2"),
        (In(GET), "http1 waiting done=2"),
        (Out(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "http1 done=3"),
        (In(GET), "http1 waiting done=3"),
        // Of PHP's: no encoding of the transfer.
        (
            Out(b"HTTP/1.1 200 OK\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 1\r\n\r\n1"),
            "http1 done=4",
        ),
    ]);
}

#[test]
fn interim_responses_answer_nothing() {
    const EXPECTS: &[u8] = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    http(&[
        (In(EXPECTS), "http1 waiting"),
        (Out(b"HTTP/1.1 100 Continue\r\n\r\n"), "http1 waiting"),
        (In(b"body"), "http1 waiting"),
        (Out(OK), "http1 done=1"),
        (In(GET), "http1 waiting done=1"),
        (
            Out(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            ),
            "http1 length done=2",
        ),
        (Out(b"123456789"), "http1 done=2"),
        (In(GET), "http1 waiting done=2"),
        (Out(b"HTTP/1.1 103 Early Hints\r\nLink"), "http1 waiting head done=2"),
        (Out(b": </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), "http1 length done=3"),
        (Out(b"123456789"), "http1 done=3"),
        (In(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), "http1 waiting done=3"),
        (Out(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "? upgraded done=4"),
        (Out(OK), "? upgraded done=4"),
        (In(b"GET / "), "? waiting upgraded done=4"),
        (Out(b"\x81\x02hi"), "? upgraded done=5"),
    ]);
    http(&[
        (In(b"CONNECT db:5432 HTTP/1.1\r\n\r\n"), "http1 waiting"),
        (Out(b"HTTP/1.1 200 Connection established\r\n\r\n"), "? upgraded done=1"),
    ]);
    http(&[
        (In(b"CONNECT db:5432 HTTP/1.1\r\n\r\n"), "http1 waiting"),
        (Out(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), "http1 done=1"),
    ]);
}

#[test]
fn a_long_head_and_one_in_pieces() {
    let cookie = "x".repeat(2900);
    let long = format!("HTTP/1.1 200 OK\r\nSet-Cookie: {cookie}\r\nContent-Length: 5\r\n\r\n1");
    http(&[
        (In(GET), "http1 waiting"),
        (Out(long.as_bytes()), "http1 length done=1"),
        (Out(b"2345"), "http1 done=1"),
        (In(GET), "http1 waiting done=1"),
        (Out(b"HTTP/1.1 200 OK\r\nContent-"), "http1 head done=2"),
        (AckIn, "http1 head done=2"),
        (AgainOut, "http1 head done=2"),
        (Out(b"Length: 5\r\n"), "http1 head done=2"),
        (Out(b"\r\n12"), "http1 length done=2"),
        (Out(b"345"), "http1 done=2"),
    ]);
}

#[test]
fn an_early_answer_and_the_rest_of_the_upload() {
    http(&[
        (In(b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n0123"), "http1 waiting"),
        (Out(OK), "http1 done=1"),
        (In(b"0123456"), "http1 done=1"),
        (In(b"GET / too"), "http1 waiting done=1"),
        (Out(OK), "http1 done=2"),
        (In(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), "http1 waiting done=2"),
        (Out(OK), "http1 done=3"),
        (In(b"4\r\nbody\r\n"), "http1 done=3"),
        (In(b"0\r\n\r\n"), "http1 done=3"),
        (In(b"frob / HTTP/1.1\r\n\r\n"), "http1 waiting done=3"),
    ]);
}

#[test]
fn a_pipeline_waits_for_ever() {
    let two = [GET, GET].concat();
    http(&[
        (In(GET), "http1 waiting"),
        (In(GET), "http1 waiting pipelined"),
        (Out(OK), "http1 waiting pipelined done=1"),
        (Out(OK), "http1 waiting pipelined done=2"),
    ]);
    http(&[(In(&two), "http1 waiting pipelined"), (Out(OK), "http1 waiting pipelined done=1")]);
    // A body that looks like a request is a body.
    http(&[
        (In(b"POST / HTTP/1.1\r\nContent-Length: 28\r\n\r\n"), "http1 waiting"),
        (In(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nx"), "http1 waiting"),
        (Out(OK), "http1 done=1"),
    ]);
}

#[test]
fn what_looked_like_a_pipeline_on_an_older_connection_is_none_after_a_whole_exchange() {
    // The midst of a body that ends a request and begins another.
    let body: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello, POST / HTTP/1.1\r\n";
    bench(|bench| {
        let listener = bench.older(protocol::HTTP);
        let local = listener.local_addr().expect("an address");
        let client = TcpStream::connect(local).expect("connect");
        let peer = client.local_addr().expect("an address");
        Talk::between(bench, local, peer).table(&[
            (In(body), "http1 waiting pipelined"),
            (In(body), "http1 waiting pipelined"),
            (Out(OK), "http1 waiting pipelined done=1"),
            (In(GET), "http1 waiting pipelined done=1"),
            (Out(OK), "http1 waiting pipelined done=2"),
            (In(GET), "http1 waiting done=2"),
            (Out(OK), "http1 done=3"),
        ]);
    });
}

#[test]
fn a_request_that_was_overtaken_or_dropped_is_a_request() {
    http(&[
        (Ahead(60, b"the body"), "http waiting midway"),
        (
            Behind(b"POST / HTTP/1.1\r\nContent-Length: 8\r\nAccept: text/html;q=1\r\n\r\n"),
            "http waiting midway",
        ),
        (Out(OK), "http1 done=1"),
        (In(GET), "http1 waiting done=1"),
        // Still the answer to the first: the pod has not had the second.
        (AgainOut, "http1 waiting done=1"),
    ]);
    bench(|bench| {
        let mut talk = Talk::open(bench, HTTP);
        talk.table(&[(In(GET), "http1 waiting"), (Out(OK), "http1 done=1")]);
        let (body, head) = (b"body".as_slice(), b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n".as_slice());
        talk.table(&[
            (Ahead(head.len(), body), "http1 waiting done=1"),
            (Behind(head), "http1 waiting pipelined done=1"),
        ]);
    });
}

#[test]
fn nothing_is_idle_on_a_port_of_which_nothing_is_known() {
    bench(|bench| {
        Talk::open(bench, SQL).table(&[
            (In(b"SELECT 1"), "? waiting"),
            (Out(b"1"), "? done=1"),
            (In(b"SELECT log"), "? waiting done=1"),
            // A log of a web server.
            (Out(OK), "? done=2"),
            (In(b"GET / HTTP/1.1\r\n\r\n"), "? waiting done=2"),
            (Out(OK), "http1 done=3"),
        ]);
    });
}

#[test]
fn http1_on_a_port_that_is_called_grpc() {
    bench(|bench| {
        Talk::open(bench, GRPC).table(&[
            (In(GET), "http1 waiting"),
            (Out(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok"), "http1 length done=1"),
            (Out(b"ok"), "http1 done=1"),
        ]);
    });
}

#[test]
fn closes_and_what_they_cut() {
    let cuts = |port: u16, steps: &[Step<'_>], expected: u64| {
        bench(|bench| {
            let mut talk = Talk::open(bench, port);
            steps.iter().for_each(|step| talk.take(*step));
            assert_eq!(talk.bench().counters().cut, expected, "{steps:?}");
        });
    };
    cuts(HTTP, &[In(GET), Out(OK), FinOut], 0);
    cuts(HTTP, &[FinIn, FinOut], 0);
    cuts(HTTP, &[In(GET), FinOut], 1);
    cuts(HTTP, &[In(GET), FinOut, FinOut, RstOut], 1);
    cuts(HTTP, &[In(GET), RstOut], 1);
    cuts(HTTP, &[In(GET), RstIn], 0);
    cuts(HTTP, &[In(GET), FinIn, Out(OK), FinOut], 0);
    cuts(HTTP, &[In(GET), Out(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"), FinOut], 1);
    cuts(HTTP, &[In(GET), Out(b"HTTP/1.0 200 OK\r\n\r\nall"), FinOut], 0);
    cuts(SQL, &[In(b"SELECT 1"), FinOut], 1);
    cuts(SQL, &[In(b"SELECT 1"), Out(b"1"), In(b"BYE"), FinIn, FinOut], 0);
}

#[test]
fn what_keeps_a_pod_unsettled() {
    const HEALTH: &[u8] = b"GET /healthz?full HTTP/1.1\r\n\r\n";
    bench(|bench| {
        let pod = bench.pod;
        bench.observer.add_health_paths(pod, ["/healthz"]).expect("add a path");
        let ignored = ["198.51.100.0/24".parse().expect("a network")];
        bench.observer.ignore_sources(&ignored).expect("ignore");
        let mut counted = |peer: &str, port: u16, step: Step<'_>| {
            let before = bench.counters();
            let local = Talk::with(bench, port).local;
            let mut talk = Talk::between(bench, local, peer.parse().expect("an address"));
            talk.shake();
            talk.take(step);
            talk.take(Out(OK));
            let after = bench.counters();
            assert_eq!(after.last_new > before.last_new, after.new_connections > before.new_connections);
            (
                after.new_connections - before.new_connections,
                after.health_connections - before.health_connections,
            )
        };
        assert_eq!(counted("192.0.2.7:1", HTTP, In(GET)), (1, 0));
        assert_eq!(counted("192.0.2.7:2", HTTP, AckIn), (0, 0), "nothing asked");
        assert_eq!(counted("192.0.2.7:3", HTTP, In(HEALTH)), (0, 1));
        assert_eq!(counted("192.0.2.7:4", HTTP, In(b"GET /healthz2 HTTP/1.1\r\n\r\n")), (1, 0));
        assert_eq!(counted("192.0.2.7:5", METRICS, In(GET)), (0, 0), "its port does not matter");
        assert_eq!(counted("198.51.100.7:6", HTTP, In(GET)), (0, 0), "an ignored source");
        assert_eq!(counted("198.51.101.7:6", HTTP, In(GET)), (1, 0));
        // A client that comes through a health checker's connection.
        let mut talk = Talk::with(bench, HTTP);
        talk.peer.set_port(7);
        talk.shake();
        talk.table(&[
            (In(HEALTH), "http1 waiting health"),
            (Out(OK), "http1 health done=1"),
            (In(HEALTH), "http1 waiting health done=1"),
            (Out(OK), "http1 health done=2"),
            (In(GET), "http1 waiting done=2"),
        ]);
        assert_eq!((bench.counters().new_connections, bench.counters().health_connections), (4, 2));
    });
}
