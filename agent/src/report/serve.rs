//! `/metrics`, `/healthz` and `/readyz`: what every node of the cluster may read.
//!
//! In: GET requests from Prometheus and the kubelet. Out: text that names no client and no pod's
//! address. Bounded in every direction: connections, header size and count, time for headers. A
//! newcomer pushes out the oldest connection, so that nobody keeps the kubelet's probe out by sitting
//! on connections: the agent would be restarted for it.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    metrics::Metrics,
    ready::{Heartbeat, Readiness},
};
use crate::moment::Moment;

/// Connections at a time: a Prometheus pair, the kubelet, and people.
pub const MAX_CONNECTIONS: usize = 32;
/// For a request's headers, and for the next request on a connection that is kept open. Longer than
/// scrapes are apart, and not equal to any interval that people choose.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a request's head.
const MAX_HEAD: usize = 8 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// A whole connection: then the answer in progress is its last.
const MAX_LIFE: Duration = Duration::from_secs(600);
/// For that last answer: somebody who never reads it does not stay either.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// Why the address could not be listened on. Fatal: it is a mistake in the configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics and health (--metrics-address)")]
pub struct BindError {
    address: SocketAddr,
    /// What the kernel said; an address in use may become free.
    pub source: std::io::Error,
}

/// What is served.
#[derive(Clone)]
pub struct Pages {
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// `/readyz`
    pub readiness: Readiness,
    /// `/healthz`
    pub heartbeat: Heartbeat,
}

/// Listens, but does not answer yet.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Answers until dropped; every connection ends with it.
pub async fn serve(listener: TcpListener, pages: Pages) -> Infallible {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory, or the peer went away: nothing to do but wait.
                tracing::debug!(%error, "a connection to the metrics address was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        while open.len() >= MAX_CONNECTIONS {
            if let Some(oldest) = open.pop_front() {
                oldest.abort();
            }
        }
        open.push_back(tasks.spawn(connection(stream, pages.clone())));
    }
}

async fn connection(stream: TcpStream, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = match timeout(MAX_LIFE, served.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            served.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the metrics address ended early");
    }
}

impl Pages {
    /// The answer to one request.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz\n".to_owned());
        }
        if method != Method::GET {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
            refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
            return refusal;
        }
        match path {
            "/metrics" => {
                let mut page = text(StatusCode::OK, self.metrics.text());
                let kind = header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
                page.headers_mut().insert(header::CONTENT_TYPE, kind);
                page
            }
            "/healthz" => match self.heartbeat.check(Moment::now()) {
                Ok(why) => text(StatusCode::OK, format!("ok: {why}\n")),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {why}\n")),
            },
            _ => {
                let status =
                    if self.readiness.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, self.readiness.report())
            }
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
