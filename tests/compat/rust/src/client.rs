//! Keeps connections busy with one POST after the other, by hyper's pool, which never sends again what
//! has left. Ends when its standard input does, and prints what became of its requests as JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use crate::Fallible;

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Count {
    stopping: AtomicBool,
    number: AtomicU64,
    closes: AtomicU64,
}

pub async fn run(target: &str, connections: usize) -> Fallible<()> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
    let count = Arc::new(Count::default());
    let url = format!("http://{target}/");
    let workers: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(work(client.clone(), url.clone(), Arc::clone(&count))))
        .collect();
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    count.stopping.store(true, Ordering::Relaxed);
    let (mut requests, mut wrong, mut errors) = (0, 0, Vec::new());
    for worker in workers {
        let (made, differed, failures) = worker.await?;
        requests += made;
        wrong += differed;
        errors.extend(failures);
    }
    let closes = count.closes.load(Ordering::Relaxed);
    let failed = errors.len();
    errors.truncate(5);
    let report =
        json!({"requests": requests, "failed": failed, "wrong": wrong, "closes": closes, "errors": errors});
    println!("{report}");
    Ok(())
}

async fn work(
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    count: Arc<Count>,
) -> (u64, u64, Vec<String>) {
    let (mut requests, mut wrong, mut errors) = (0, 0, Vec::new());
    while !count.stopping.load(Ordering::Relaxed) {
        let sent = body(count.number.fetch_add(1, Ordering::Relaxed) + 1);
        requests += 1;
        let error = match timeout(TIMEOUT, post(&client, &url, sent.clone(), &count)).await {
            Ok(Ok(got)) if got == sent => continue,
            Ok(Ok(got)) => {
                wrong += 1;
                format!("a wrong body of {} bytes instead of {}", got.len(), sent.len())
            }
            Ok(Err(error)) => format!("{error}: {:?}", error.source()),
            Err(_) => "no answer in time".to_owned(),
        };
        errors.push(error);
        sleep(Duration::from_millis(50)).await;
    }
    (requests, wrong, errors)
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    url: &str,
    body: Bytes,
    count: &Count,
) -> Fallible<Bytes> {
    let response = client.request(Request::post(url).body(Full::new(body))?).await?;
    if response.headers().get_all(header::CONNECTION).iter().any(|value| value == "close") {
        count.closes.fetch_add(1, Ordering::Relaxed);
    }
    if response.status() != 200 {
        return Err(format!("status {}", response.status()).into());
    }
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Unlike any other; every tenth needs several segments, every hundredth overfills the buffers.
fn body(number: u64) -> Bytes {
    let size = match number {
        n if n % 100 == 0 => 300_000,
        n if n % 10 == 0 => 20_000,
        _ => 64,
    };
    let part = format!("{number} HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPOST /{number} HTTP/1.1\r\n");
    let mut bytes = part.repeat(size / part.len() + 1).into_bytes();
    bytes.truncate(size);
    bytes.into()
}
