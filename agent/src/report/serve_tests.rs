//! The real listener, spoken to byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    task: tokio::task::JoinHandle<Infallible>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn server(heart_limit: Duration) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    let pages = Pages {
        metrics: Arc::new(Metrics::new()),
        readiness: readiness.clone(),
        heartbeat: Heartbeat::new(heart_limit),
    };
    Server { address, readiness, task: tokio::spawn(serve(listener, pages)) }
}

/// Everything that is answered until the server closes.
async fn say(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("it closes");
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    say(address, &format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = server(Duration::from_secs(10)).await;
    let answer = get(server.address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nlastcall_build_info{version="), "{answer}");
}

#[tokio::test]
async fn ready_only_when_every_latch_is_done() {
    let server = server(Duration::from_secs(10)).await;
    let latch = server.readiness.latch("source read");
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nwaiting  source read\n"), "{answer}");
    latch.done("3 pods");
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\ndone     source read: 3 pods\n"), "{answer}");
}

#[tokio::test]
async fn healthy_while_the_main_loop_comes_round() {
    let alive = server(Duration::from_secs(10)).await;
    assert!(get(alive.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let dead = server(Duration::ZERO).await;
    let answer = get(dead.address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("stuck: "), "{answer}");
}

#[tokio::test]
async fn what_is_not_asked_for_properly_is_refused() {
    let server = server(Duration::from_secs(10)).await;
    let table = [
        (
            "POST /metrics HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 405 ",
        ),
        ("HEAD /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n", "HTTP/1.1 405 "),
        ("GET /status HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 "),
        ("GET / HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 "),
        ("what\r\n\r\n", "HTTP/1.1 400 "),
    ];
    for (request, expected) in table {
        let answer = say(server.address, request).await;
        assert!(answer.starts_with(expected), "{request:?}: {answer}");
    }
    let refusal = say(server.address, table[0].0).await;
    assert!(refusal.contains("allow: GET"), "{refusal}");
}

#[tokio::test]
async fn too_many_headers_and_too_long_ones_are_refused() {
    let server = server(Duration::from_secs(10)).await;
    let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
    let answer = say(server.address, &format!("GET /healthz HTTP/1.1\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let long = "y".repeat(MAX_HEAD + 1);
    let answer = say(server.address, &format!("GET /healthz HTTP/1.1\r\nX: {long}")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_query_is_left_out_of_account() {
    let server = server(Duration::from_secs(10)).await;
    assert!(get(server.address, "/healthz?verbose").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn connections_are_kept_for_the_next_scrape() {
    let server = server(Duration::from_secs(10)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
        let mut answer = [0; 512];
        let n = stream.read(&mut answer).await.unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200 "));
    }
}

/// Somebody who opens connections and says nothing does not keep the kubelet out.
#[tokio::test]
async fn the_oldest_connection_makes_room() {
    let server = server(Duration::from_secs(10)).await;
    let mut sitting = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 8 {
        sitting.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let mut byte = [0];
    let oldest = timeout(Duration::from_secs(60), sitting[0].read(&mut byte)).await.expect("it was closed");
    assert!(matches!(oldest, Ok(0) | Err(_)));
    let newest = timeout(Duration::from_millis(100), sitting.last_mut().unwrap().read(&mut byte)).await;
    assert!(newest.is_err(), "it is still open");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = bind(taken.local_addr().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("--metrics-address"), "{error}");
}
