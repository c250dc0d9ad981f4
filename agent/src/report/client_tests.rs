//! Against a listener that answers whatever a test wants, and against none.

use std::net::TcpListener;

use super::*;

/// Answers each connection with the next of `answers`, and remembers what was asked.
fn server(answers: Vec<String>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            asked.push(String::from_utf8_lossy(&request[..n]).lines().next().unwrap_or_default().to_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    };
    (address, std::thread::spawn(serve))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn drain_json(namespace: &str, name: &str) -> String {
    format!(
        r#"{{"namespace":"{namespace}","name":"{name}","uid":"","addresses":[],"began_seconds_ago":1.0,
            "deadline_in_seconds":2.0,"hooks_waiting":1,"until":"auto","waiting_for":"3 in flight",
            "counts":{{"open":3,"in_flight":3,"idle":0,"closing":0,"vanished":0,"doubt":0,"flows":0}},
            "known":{{"seen":3,"inferred":0,"doubt":0}},"outcome":null}}"#
    )
}

fn node_json(drains: &[String]) -> String {
    format!(
        r#"{{"version":"0.1.0","uptime_seconds":1.0,"problems":[],"drains":[{}],
            "ebpf":{{"available":true,"how":"tcx","table_entries":0,"table_capacity":1}}}}"#,
        drains.join(",")
    )
}

#[test]
fn a_status() {
    let (address, asked) = server(vec![ok(&node_json(&[drain_json("shop", "web-1")]))]);
    let node = status(address).unwrap();
    assert_eq!(node.drains[0].waiting_for, "3 in flight");
    assert_eq!(asked.join().unwrap(), ["GET /status HTTP/1.1"]);
}

#[test]
fn a_pod_is_found_without_its_namespace() {
    let node = node_json(&[drain_json("shop", "web-1"), drain_json("bank", "web-2")]);
    let (address, asked) = server(vec![ok(&node), ok(&drain_json("bank", "web-2"))]);
    assert_eq!(drain(address, None, "web-2").unwrap().namespace, "bank");
    assert_eq!(asked.join().unwrap()[1], "GET /status/bank/web-2 HTTP/1.1");
}

#[test]
fn a_name_in_two_namespaces_needs_one() {
    let node = node_json(&[drain_json("shop", "web-0"), drain_json("bank", "web-0")]);
    let (address, _) = server(vec![ok(&node), ok(&node), ok(&drain_json("shop", "web-0"))]);
    let error = drain(address, None, "web-0").unwrap_err().to_string();
    assert_eq!(error, "several pods named web-0 drain here, give -n NAMESPACE: bank, shop");
    assert_eq!(drain(address, Some("shop"), "web-0").unwrap().namespace, "shop");
}

#[test]
fn a_pod_that_does_not_drain() {
    let node = node_json(&[drain_json("shop", "web-1")]);
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone".to_owned();
    let (address, _) = server(vec![ok(&node), ok(&node), gone]);
    let error = drain(address, Some("shop"), "web-9").unwrap_err().to_string();
    assert!(error.starts_with("shop/web-9 is not draining on this node"), "{error}");
    assert!(error.ends_with("draining here: shop/web-1"), "{error}");
    // Between the first answer and the second it can go.
    let error = drain(address, None, "web-1").unwrap_err().to_string();
    assert!(error.starts_with("shop/web-1 is not draining"), "{error}");
}

#[test]
fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = status(free).unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains("--address") && error.to_string().contains("lastcall doctor"));
}

#[test]
fn somebody_else_there() {
    let table = [
        ("220 mail ESMTP\r\n", "no HTTP answer"),
        ("SSH-2.0-x\r\n\r\n", "no HTTP/1 status line"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "an answer that breaks off"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "an answer in chunks"),
        ("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "a length that is no number"),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", "expected value at line 1"),
        ("HTTP/1.1 200 OK\r\n\r\n{}", "missing field `version`"),
        ("", "no HTTP answer"),
    ];
    let (address, _) = server(table.iter().map(|(answer, _)| (*answer).to_owned()).collect());
    for (answer, expected) in table {
        let error = status(address).unwrap_err().to_string();
        assert!(error.contains("is not a lastcall agent") && error.contains(expected), "{answer:?}: {error}");
    }
}

#[test]
fn the_agent_s_own_words() {
    let (address, _) = server(vec!["HTTP/1.1 503 Later\r\n\r\nstarting, try again\n".to_owned()]);
    assert_eq!(status(address).unwrap_err().to_string(), "the agent answered 503: starting, try again");
}

/// Takes the patience of a command: 5 s.
#[test]
fn an_agent_that_is_stuck() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let error = status(listener.local_addr().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    assert!(began.elapsed() < PATIENCE + Duration::from_secs(30));
}
