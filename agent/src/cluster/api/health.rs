//! Whether the API server answers, by each request that the agent makes.
//!
//! A watch that goes on without news tells nobody that it goes on, so this is read off the requests
//! themselves: a layer around the client notes how each ended.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::causes;

/// What is wrong with the API server, or with the rights there. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By what was asked for: why the last request for it failed.
    failing: Mutex<BTreeMap<String, Failure>>,
    /// The last request found no server.
    away: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
}

/// What is asked for again until it answers; a failure of anything else is history once the server answers.
const FOLLOWED: [&str; 2] = ["pods", "endpointslices"];

#[derive(Clone, Debug)]
struct Failure {
    why: String,
    /// The server answered, and refused.
    answered: bool,
}

impl Health {
    /// What fails now, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.failing().iter().map(|(what, failure)| format!("API server, {what}: {}", failure.why)).collect()
    }

    /// The last request for pods did not fail: news of their end comes. Or why not.
    pub fn pods(&self) -> Result<(), String> {
        self.failing().get("pods").map_or(Ok(()), |failure| Err(failure.why.clone()))
    }

    /// The server answers, if only to refuse.
    pub fn reachable(&self) -> bool {
        !self.0.away.load(Ordering::Relaxed)
    }

    /// Requests so far, and those of them that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.requests.load(Ordering::Relaxed), self.0.failures.load(Ordering::Relaxed))
    }

    fn note(&self, what: &str, result: Result<StatusCode, String>) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let failure = match result {
            // Not there, there already, too old: answers like any other.
            Ok(status) if status.is_success() || matches!(status.as_u16(), 404 | 409 | 410) => None,
            Ok(status) => Some(Failure { why: status.to_string(), answered: !status.is_server_error() }),
            Err(why) => Some(Failure { why, answered: false }),
        };
        self.0.failures.fetch_add(failure.is_some().into(), Ordering::Relaxed);
        let away = failure.as_ref().is_some_and(|failure| !failure.answered);
        self.0.away.store(away, Ordering::Relaxed);
        let mut failing = self.failing();
        if !away {
            failing.retain(|what, failure| failure.answered || FOLLOWED.contains(&what.as_str()));
        }
        match failure {
            Some(failure) => drop(failing.insert(what.to_owned(), failure)),
            None => drop(failing.remove(what)),
        }
    }

    fn failing(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.0.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind that a path is about: `pods` for `/api/v1/namespaces/shop/pods/web-1`.
fn resource(path: &str) -> &str {
    let mut parts = path.trim_matches('/').split('/');
    // `api/v1/…` or `apis/GROUP/VERSION/…`
    let skipped = if parts.next() == Some("api") { 1 } else { 2 };
    let mut rest = parts.skip(skipped);
    match (rest.next(), rest.next(), rest.next()) {
        (Some("namespaces"), Some(_), Some(resource)) => resource,
        (Some(resource), ..) => resource,
        _ => "server",
    }
}

impl<S> Layer<S> for Health {
    type Service = Noted<S>;
    fn layer(&self, service: S) -> Noted<S> {
        Noted { service, health: self.clone() }
    }
}

/// A client whose requests are noted.
#[derive(Clone, Debug)]
pub struct Noted<S> {
    service: S,
    health: Health,
}

impl<S, A, B> Service<Request<A>> for Noted<S>
where
    S: Service<Request<A>, Response = Response<B>, Error = tower::BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let what = resource(request.uri().path()).to_owned();
        let health = self.health.clone();
        let response = self.service.call(request);
        Box::pin(async move {
            let response = response.await;
            health.note(&what, response.as_ref().map(Response::status).map_err(|e| causes(&**e)));
            response
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_is_about() {
        for (path, want) in [
            ("/api/v1/pods", "pods"),
            ("/api/v1/namespaces/shop/pods/web-1", "pods"),
            ("/api/v1/nodes/node-a", "nodes"),
            ("/apis/discovery.k8s.io/v1/endpointslices", "endpointslices"),
            ("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", "endpointslices"),
            ("/apis/events.k8s.io/v1/namespaces/shop/events", "events"),
            ("/version", "server"),
        ] {
            assert_eq!(resource(path), want, "{path}");
        }
    }

    #[test]
    fn each_thing_heals_by_itself() {
        let health = Health::default();
        health.note("pods", Err("connection refused".into()));
        health.note("events", Err("connection refused".into()));
        assert_eq!(health.problems().len(), 2);
        health.note("nodes", Ok(StatusCode::FORBIDDEN));
        assert_eq!(health.pods(), Err("connection refused".into()));
        assert!(health.reachable(), "a refusal is an answer");
        assert_eq!(health.problems().len(), 2, "the events are history, the pods are asked for again");
        health.note("pods", Ok(StatusCode::GONE));
        assert_eq!(health.pods(), Ok(()));
        assert_eq!(health.problems(), ["API server, nodes: 403 Forbidden"]);
        assert_eq!(health.counts(), (4, 3));
        health.note("pods", Err("connection refused".into()));
        assert!(!health.reachable());
    }
}
