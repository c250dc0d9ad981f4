//! The running server: which connections come in, from where, and how it ends.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time,
};

use super::{Limits, Shared, lock};
use crate::hook::{
    answer::Reply,
    desk::Desk,
    exchange::exchange,
    fault::Fault,
    held::{self, HELD_VERSION, HeldError, HeldKey, HeldRecord, Returned},
    line::Line,
    listen::{Listeners, pause_after},
};

/// The server's own task.
pub(super) struct Running<D> {
    shared: Arc<Shared<D>>,
    hooks: Arc<Semaphore>,
    guests: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl<D: Desk> Running<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self {
            hooks: Arc::new(Semaphore::new(shared.limits.hooks)),
            guests: Arc::new(Semaphore::new(shared.limits.guests)),
            tasks: JoinSet::new(),
            shared,
        }
    }

    /// Serves, and takes back what nobody holds any more.
    pub(super) async fn accept_until(&mut self, listeners: &mut Listeners, end: impl Future<Output = ()>) {
        let mut take_back = time::interval(self.shared.limits.take_back);
        take_back.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut pause = Duration::ZERO;
        tokio::pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => return,
                _ = take_back.tick() => {
                    self.take_back();
                    continue;
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = done {
                        tracing::error!(%error, "a hook's task died; its connection is taken back");
                    }
                    continue;
                }
                // Hooks before direct callers, however many of those there are.
                accepted = accept(Some(&listeners.door)) => accepted,
                accepted = accept(listeners.presence.as_ref()) => accepted,
            };
            match accepted {
                Ok(stream) => {
                    pause = Duration::ZERO;
                    self.admit(stream);
                }
                Err(error) => {
                    let Some(next) = pause_after(&error, pause) else { continue };
                    tracing::warn!(%error, "no connection can be accepted for now");
                    pause = next;
                    time::sleep(pause).await;
                }
            }
        }
    }

    pub(super) fn admit_all(&mut self, streams: Vec<TcpStream>) {
        for stream in streams {
            self.admit(stream);
        }
    }

    /// Starts a connection's task, or turns the caller away.
    fn admit(&mut self, stream: TcpStream) {
        let (Ok(SocketAddr::V4(local)), Ok(SocketAddr::V4(peer))) = (stream.local_addr(), stream.peer_addr())
        else {
            return; // Reset meanwhile; the listeners speak IPv4 alone.
        };
        let from_kubelet = self.shared.desk.is_kubelet(peer.into(), local.into());
        let line = Line::new(stream, local, peer, from_kubelet, None);
        if from_kubelet {
            return self.start(line, None);
        }
        match Arc::clone(&self.guests).try_acquire_owned() {
            Ok(place) => self.start(line, Some(place)),
            Err(_) => {
                self.shared.desk.fault(Fault::TooMany);
                line.say(&canned(StatusCode::SERVICE_UNAVAILABLE, "too many callers"));
            }
        }
    }

    /// A guest has its place already, the kubelet waits for one.
    fn start(&mut self, line: Arc<Line>, guest: Option<OwnedSemaphorePermit>) {
        let (shared, hooks) = (Arc::clone(&self.shared), Arc::clone(&self.hooks));
        let own = Own::new(&shared, (line.local, line.peer).into());
        self.tasks.spawn(async move {
            let _place = match guest {
                Some(place) => Some(place),
                None => hooks.acquire_owned().await.ok(),
            };
            serve_line(&shared, &line).await;
            if line.earlier.is_some() {
                // Whatever became of it. A task that is dropped or dies does not come here.
                shared.store.remove(&own.key);
            }
            // From here on it could be taken back.
            drop(line);
            drop(own);
        });
    }

    /// Goes on with those that were made again before the listeners.
    pub(super) fn take_in(&mut self, returned: Returned) {
        for (stream, record) in returned.0 {
            // Not in TCP_REPAIR where it could not be held: then the caller has gone.
            let _ = held::release(&stream);
            match TcpStream::from_std(stream) {
                Ok(stream) => self.resume(stream, record),
                // Closed by now; the caller is told by its kernel.
                Err(error) => tracing::warn!(%error, "a held hook is lost"),
            }
        }
    }

    /// Makes the connections again that nobody holds any more.
    fn take_back(&mut self) {
        for record in self.shared.store.load_all() {
            if record.version != HELD_VERSION || lock(&self.shared.own).contains(&record.key()) {
                continue;
            }
            match held::restore(&record.connection).and_then(|stream| {
                TcpStream::from_std(stream).map_err(held::failed("registering a restored connection"))
            }) {
                Ok(stream) => self.resume(stream, record),
                Err(error @ HeldError::StillHeld { .. }) => tracing::trace!(%error),
                Err(error @ HeldError::NotPermitted(_)) => return self.shared.say_once(&error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a held hook is lost");
                    self.shared.store.remove(&record.key());
                }
            }
        }
    }

    fn resume(&mut self, stream: TcpStream, record: HeldRecord) {
        let (local, peer) = (record.connection.local(), record.connection.peer());
        let from_kubelet = record.has(held::held_flag::FROM_KUBELET);
        tracing::info!(%local, %peer, pod = ?record.pod(), "a held hook is taken back");
        self.start(Line::new(stream, local, peer, from_kubelet, Some(Box::new(record))), None);
    }

    /// Lets what is being read or answered come to its end, and drops what is held.
    pub(super) async fn finish(mut self) {
        let limits = &self.shared.limits;
        let mut held = self.shared.held.subscribe();
        let longest = time::sleep(limits.header + limits.status + limits.farewell);
        tokio::pin!(longest);
        while self.tasks.len() > *held.borrow_and_update() {
            tokio::select! {
                _ = self.tasks.join_next() => {}
                _ = held.changed() => {}
                () = &mut longest => break,
            }
        }
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn serve_line<D: Desk>(shared: &Shared<D>, line: &Arc<Line>) {
    let Limits { header, header_bytes, farewell, .. } = shared.limits;
    let service = service_fn(|request| async {
        let reply = exchange(shared, line, request).await;
        line.answered.notify_one();
        reply.map(Reply::into_response)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header)
        .max_buf_size(header_bytes)
        .keep_alive(false)
        // While a hook is held only `Line::gone` watches the caller.
        .half_close(true)
        .serve_connection(line.wire(), service);
    let too_late = async {
        line.answered.notified().await;
        time::sleep(farewell).await;
    };
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, peer = %line.peer, "a caller was not served to the end");
                // hyper answers most of what is malformed, but neither silence nor HTTP/2.
                if error.is_timeout() {
                    shared.desk.fault(Fault::Slow);
                    line.say(&canned(StatusCode::REQUEST_TIMEOUT, "the request took too long"));
                } else if error.is_parse() {
                    shared.desk.fault(Fault::Headers);
                    line.say(&canned(StatusCode::BAD_REQUEST, "this is not HTTP/1.1"));
                }
            }
        }
        () = too_late => tracing::debug!(peer = %line.peer, "a caller does not take its answer"),
    }
}

/// An answer without hyper.
fn canned(status: StatusCode, why: &str) -> Vec<u8> {
    let body = Reply::refused(status, why).body;
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(&body);
    text
}

/// A connection that this process serves, so that it is not taken back from itself.
struct Own<D> {
    shared: Arc<Shared<D>>,
    key: HeldKey,
}

impl<D> Own<D> {
    fn new(shared: &Arc<Shared<D>>, key: HeldKey) -> Self {
        lock(&shared.own).insert(key);
        Self { shared: Arc::clone(shared), key }
    }
}

impl<D> Drop for Own<D> {
    fn drop(&mut self) {
        lock(&self.shared.own).remove(&self.key);
    }
}
