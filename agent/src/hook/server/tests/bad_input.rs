//! Requests as nobody should send them, byte by byte.

use super::*;

/// Sends bytes to `to` and reads until the server closes.
async fn send(served: &Served, to: [u8; 4], bytes: &[u8]) -> String {
    let mut stream = served.connect(to).await;
    // The server may have answered and closed before all of it is sent.
    let _ = stream.write_all(bytes).await;
    rest(stream).await
}

const DIALLED: [u8; 4] = [127, 5, 6, 7];
const DIRECT: [u8; 4] = [127, 0, 0, 1];

#[tokio::test]
async fn each_bad_request_gets_its_status_and_touches_no_drain() {
    let served = Served::start();
    let long = "x".repeat(9000);
    let header = |line: &str| format!("GET /drain HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").into_bytes();
    let cases: Vec<(&str, [u8; 4], Vec<u8>, u16)> = vec![
        ("post", DIALLED, b"POST /drain HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 405),
        ("head", DIALLED, b"HEAD /drain HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 405),
        ("options", DIALLED, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 405),
        ("connect", DIALLED, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 405),
        ("invented", DIALLED, b"DRAIN /drain HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 405),
        ("unknown path", DIRECT, get("/healthz").into_bytes(), 404),
        ("a probe", DIALLED, header("User-Agent: kube-probe/1.34"), 404),
        ("root", DIRECT, get("/").into_bytes(), 404),
        ("no name", DIRECT, get("/drain").into_bytes(), 404),
        ("no pod's name", DIRECT, get("/drain/a/B").into_bytes(), 400),
        ("dot dot", DIRECT, get("/drain/a/../b").into_bytes(), 400),
        ("body", DIALLED, b"GET /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_vec(), 413),
        ("body announced", DIALLED, header("Content-Length: 3"), 413),
        ("huge body", DIALLED, [header("Content-Length: 99999999"), vec![b'x'; 300_000]].concat(), 413),
        ("chunked", DIALLED, header("Transfer-Encoding: chunked"), 413),
        ("expect", DIALLED, header("Expect: 100-continue\r\nContent-Length: 3"), 413),
        ("two lengths", DIALLED, header("Content-Length: 1\r\nContent-Length: 2"), 400),
        ("length and chunks", DIALLED, header("Content-Length: 1\r\nTransfer-Encoding: chunked"), 413),
        ("bad length", DIALLED, header("Content-Length: -1"), 400),
        ("long header", DIALLED, header(&format!("X: {long}")), 431),
        ("endless header", DIALLED, format!("GET /drain HTTP/1.1\r\nX: {long}{long}").into_bytes(), 431),
        ("many headers", DIALLED, header(&"X: y\r\n".repeat(1000)), 431),
        ("long path", DIALLED, get(&format!("/{long}")).into_bytes(), 431),
        ("header without colon", DIALLED, header("nonsense"), 400),
        ("folded header", DIALLED, header("X: a\r\n b"), 400),
        ("bare nul", DIALLED, header("X: \0"), 400),
        ("not utf-8", DIRECT, b"GET /drain/a/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("control in path", DIALLED, b"GET /dr\x01ain HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("blank in path", DIALLED, b"GET /dr ain HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("no version", DIALLED, b"GET /drain\r\n\r\n".to_vec(), 400),
        ("http/2", DIALLED, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("http/3.7", DIALLED, b"GET /drain HTTP/3.7\r\n\r\n".to_vec(), 400),
        ("tls", DIALLED, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("noise", DIALLED, b"\xff\xfe\xfd\r\n\r\n".to_vec(), 400),
    ];
    for (number, (name, to, bytes, expected)) in cases.into_iter().enumerate() {
        let answer = send(&served, to, &bytes).await;
        assert!(!answer.is_empty(), "{name}: no answer");
        assert_eq!(status(&answer), expected, "{name}: {answer}");
        if name != "head" {
            assert_well_formed(&answer);
        }
        assert_eq!(answer.to_lowercase().contains("\r\nallow: get"), expected == 405, "{name}: {answer}");
        let fault = match expected {
            405 => Fault::Method,
            413 => Fault::Body,
            404 => Fault::Path,
            // hyper takes no path that is not text.
            _ if to == DIRECT && name != "not utf-8" => Fault::Path,
            _ => Fault::Headers,
        };
        assert_eq!(served.desk.faults(number + 1).await[number..], [fault], "{name}");
    }
    assert_eq!(served.desk.calls().len(), 0);
    assert_eq!(*served.held.borrow(), 0);
}

#[tokio::test]
async fn what_follows_a_request_is_never_read() {
    let served = Served::start();
    served.desk.answer();
    let twice = [get("/drain"), get("/drain")].concat();
    for noise in [twice.into_bytes(), [get("/drain").as_bytes(), &[0xff; 100_000]].concat()] {
        let answer = send(&served, DIALLED, &noise).await;
        assert_well_formed(&answer);
        assert_eq!(status(&answer), 200);
    }
    assert_eq!(served.desk.calls().len(), 2);
}

#[tokio::test]
async fn noise_during_the_wait_changes_nothing() {
    let mut served = Served::start();
    let mut caller = served.hook(DIALLED, "/drain").await;
    served.held_reaches(1).await;
    caller.write_all(&[b'x'; 50_000]).await.expect("the window is open");
    caller.write_all(get("/drain").as_bytes()).await.expect("the window is open");
    served.desk.answer();
    let answer = rest(caller).await;
    assert_well_formed(&answer);
    assert_eq!((status(&answer), served.desk.calls().len()), (200, 1));
}

#[tokio::test]
async fn other_forms_of_a_good_request_are_good() {
    let served = Served::start();
    served.desk.answer();
    for request in [
        "GET /drain HTTP/1.0\r\n\r\n",
        "GET /drain HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /drain HTTP/1.1\r\n\r\n",
        "GET /drain HTTP/1.1\r\nHost: \r\n\r\n",
        "GET http://10.5.6.7:9902/drain HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /drain?until=%zz&=&& HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "\r\nGET /drain HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let answer = send(&served, DIALLED, request.as_bytes()).await;
        assert_well_formed(&answer);
        assert_eq!(status(&answer), 200, "{request:?}: {answer}");
    }
    assert_eq!(served.desk.calls().len(), 7);
}

#[tokio::test]
async fn a_host_that_is_not_text_is_ignored() {
    let served = Served::start();
    served.desk.answer();
    let answer = send(&served, DIALLED, b"GET /drain HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n").await;
    assert_eq!(status(&answer), 200);
}

#[tokio::test]
async fn a_forged_host_is_told_and_ignored() {
    let served = Served::start();
    served.desk.answer();
    let answer = send(&served, DIALLED, b"GET /drain HTTP/1.1\r\nHost: 10.9.9.9:9902\r\n\r\n").await;
    assert!(body(&answer).contains("`Host` says 10.9.9.9"), "{answer}");
    assert_eq!(served.desk.faults(1).await, [Fault::Host]);
    let expected = Callee::Dialled { bits: 0x05_06_07, pod: Some([10, 5, 6, 7].into()) };
    assert_eq!(served.desk.calls()[0].callee, expected);
}

#[tokio::test]
async fn a_head_that_never_ends_does() {
    let served = Served::start();
    for start in ["", "G", "GET /drain HTTP/1.1\r\nHost: a\r\n"] {
        let answer = send(&served, DIALLED, start.as_bytes()).await;
        assert_eq!(status(&answer), 408, "{start:?}: {answer}");
        assert_well_formed(&answer);
    }
    assert_eq!(served.desk.faults(3).await, [Fault::Slow; 3]);
}

#[tokio::test]
async fn a_head_that_trickles_in_ends_too() {
    let served = Served::start();
    let (mut read, mut write) = served.connect(DIALLED).await.into_split();
    let trickle = tokio::spawn(async move {
        let mut pause = time::interval(limits().header / 8);
        let _ = write.write_all(b"GET /drain HTTP/1.1\r\n").await;
        while write.write_all(b"X: y\r\n").await.is_ok() {
            pause.tick().await;
        }
    });
    let mut answer = vec![0; 1000];
    let n = timeout(PATIENCE, read.read(&mut answer)).await.expect("in time").expect("no reset");
    assert_eq!(status(&String::from_utf8_lossy(&answer[..n])), 408);
    timeout(PATIENCE, trickle).await.expect("the server hangs up").expect("no panic");
    assert_eq!(served.desk.calls().len(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_its_head_leaves_nothing() {
    let served = Served::start();
    let mut stream = served.connect(DIALLED).await;
    stream.write_all(b"GET /dra").await.expect("sent");
    drop(stream);
    let all_gone = async {
        while !lock(&served.shared.own).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_gone).await.expect("the task ends");
}
