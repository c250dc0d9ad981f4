//! One request and its answer.

use std::{collections::hash_map::Entry, sync::Arc};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Incoming},
    header::{HOST, USER_AGENT},
};
use tokio::time::timeout;

use super::{
    answer::Reply,
    desk::{Book, Call, Callee, Desk, StatusRequest},
    fault::Fault,
    held::{HeldError, HeldRecord, held_flag},
    identity::{self, Asked},
    line::Line,
    server::{Shared, lock},
};
use crate::moment::Moment;

/// The caller has closed the connection: nobody is there to answer.
#[derive(Debug, thiserror::Error)]
#[error("the caller has gone")]
pub(super) struct Gone;

/// Answers one request, at once or when its pod has drained.
pub(super) async fn exchange<D: Desk>(
    shared: &Shared<D>,
    line: &Line,
    request: Request<Incoming>,
) -> Result<Reply, Gone> {
    let refused = |fault, status, why| {
        shared.desk.fault(fault);
        Ok(Reply::refused(status, why))
    };
    if request.method() != Method::GET {
        return refused(Fault::Method, StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    if !request.body().is_end_stream() {
        return refused(Fault::Body, StatusCode::PAYLOAD_TOO_LARGE, "a hook has no body");
    }
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    // Not UTF-8, or not an address: nobody's.
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let earlier = line.earlier.as_deref();
    let identity = identity::identify((*line.local.ip()).into(), path, host, |bits| {
        earlier.and_then(HeldRecord::pod).or_else(|| shared.desk.dialled(bits))
    });
    let callee = match identity.asked {
        Asked::Refused { status, why } => return refused(Fault::Path, status, why),
        Asked::Status(page) => {
            let request = StatusRequest { page, query: query.to_owned() };
            let page = timeout(shared.limits.status, shared.desk.status(request)).await;
            let late = |_| Reply::refused(StatusCode::SERVICE_UNAVAILABLE, "the page took too long");
            return Ok(page.unwrap_or_else(late));
        }
        Asked::Dialled { .. } if !line.from_kubelet => {
            tracing::warn!(peer = %line.peer, local = %line.local, "a hook from a process that is not the kubelet");
            return refused(
                Fault::NotTheKubelet,
                StatusCode::FORBIDDEN,
                "only the kubelet speaks for a pod by its address",
            );
        }
        Asked::Dialled { .. } if is_probe(&request) => {
            return refused(
                Fault::Path,
                StatusCode::NOT_FOUND,
                "a probe, not a hook: this port is lastcall's; a pod that listens on it has to declare it as a \
                 containerPort",
            );
        }
        Asked::Dialled { bits, pod } => Callee::Dialled { bits, pod },
        Asked::Named(pod) => Callee::Named(pod),
        Asked::Workload(workload) => Callee::Workload(workload),
    };
    let Some(_place) = Place::take(shared, &callee) else {
        tracing::warn!(?callee, "too many hooks of one pod");
        return refused(
            Fault::TooMany,
            StatusCode::TOO_MANY_REQUESTS,
            "too many hooks of this pod are held already",
        );
    };
    let (contract, unclear) = crate::contract::read(query, &shared.desk.defaults());
    let mut odd = identity.warnings;
    odd.extend(unclear.iter().map(|parameter| (Fault::Parameter, parameter.to_string())));
    if earlier.is_some_and(|record| record.has(held_flag::QUERY_LOST)) {
        let lost = "the parameters were too long to be kept through the agent's restart";
        odd.push((Fault::Parameter, lost.to_owned()));
    }
    for (fault, warning) in &odd {
        shared.desk.fault(*fault);
        tracing::warn!(?callee, "{warning}");
    }
    let warnings: Vec<String> = odd.into_iter().map(|(_, warning)| warning).collect();
    let began = earlier.map_or_else(Moment::now, |record| Moment(record.began));
    let record = earlier.copied().or_else(|| {
        let pod = if let Callee::Dialled { pod, .. } = callee { pod } else { None };
        let target = request.uri().path_and_query().map_or(path, |target| target.as_str());
        HeldRecord::new(target, pod, line.from_kubelet, began)
    });
    let book = hold(shared, line, record);
    let call = Call {
        callee,
        from_kubelet: line.from_kubelet,
        query: query.to_owned(),
        contract,
        warnings: warnings.clone(),
        began,
        deadline: earlier.map(|record| Moment(record.deadline)).filter(|at| at.0 != 0),
        book: book.clone(),
    };
    let answer = tokio::select! {
        answer = shared.desk.drain(call) => Ok(answer),
        () = line.gone() => Err(Gone),
    };
    // Only here, where this hook is over: a task that is dropped at the process's end leaves the
    // connection in TCP_REPAIR and its record in the store, for the next agent.
    line.release();
    book.close();
    let mut answer = answer.inspect_err(|Gone| tracing::info!(peer = %line.peer, "the caller has gone"))?;
    answer.warnings.splice(0..0, warnings);
    Ok(Reply::from(&answer))
}

/// The kubelet's probes come from the same process as its hooks, and to hold one would have its container
/// killed. They say what they are (`pkg/probe/http/request.go`).
fn is_probe(request: &Request<Incoming>) -> bool {
    request.headers().get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"))
}

/// Makes a held hook survive its process, where that is possible. It is held either way.
fn hold<D: Desk>(shared: &Shared<D>, line: &Line, record: Option<HeldRecord>) -> Book {
    let connection = match line.hold() {
        Ok(connection) => connection,
        // `gone` sees to it.
        Err(HeldError::NotEstablished) => return Book::closed(),
        Err(error) => {
            shared.say_once(&error);
            return Book::closed();
        }
    };
    let Some(record) = record else { return Book::closed() };
    let store = Arc::clone(&shared.store);
    Book::open(store, HeldRecord { connection, ..record }).unwrap_or_else(|error| {
        tracing::warn!(%error, "a held hook could not be written down: it will not survive a restart");
        Book::closed()
    })
}

/// A place among the held hooks.
struct Place<'a, D> {
    shared: &'a Shared<D>,
    callee: Callee,
}

impl<'a, D> Place<'a, D> {
    fn take(shared: &'a Shared<D>, callee: &Callee) -> Option<Self> {
        let mut places = lock(&shared.places);
        let held = places.entry(callee.clone()).or_insert(0);
        if *held >= shared.limits.hooks_per_pod {
            return None;
        }
        *held += 1;
        shared.held.send_modify(|held| *held += 1);
        Some(Self { shared, callee: callee.clone() })
    }
}

impl<D> Drop for Place<'_, D> {
    fn drop(&mut self) {
        let mut places = lock(&self.shared.places);
        if let Entry::Occupied(mut held) = places.entry(self.callee.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.shared.held.send_modify(|held| *held -= 1);
    }
}
