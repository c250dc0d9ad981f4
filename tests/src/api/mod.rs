//! A stub API server: as much of the protocol as an agent uses, with its moods.
//!
//! Lists (cached and paged), watches with bookmarks, streamed lists, "410 Gone", gets, and writes of
//! Events; over plain HTTP on the node's loopback. Every request is noted, in the words of RBAC.

mod request;
mod serve;
mod store;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

pub use request::Request;
use store::{Key, Store};

use crate::netns::Netns;

/// The server. It ends with its handle.
#[derive(Debug)]
pub struct ApiServer {
    inner: Arc<Inner>,
    address: SocketAddr,
}

#[derive(Debug, Default)]
struct Inner {
    store: Mutex<Store>,
    changed: Condvar,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
    refused: Mutex<BTreeSet<String>>,
    away: AtomicBool,
    frozen: AtomicBool,
    no_streams: AtomicBool,
    over: AtomicBool,
}

impl ApiServer {
    /// Listens on 127.0.0.1, in `netns` or in the caller's own.
    pub fn start(netns: Option<&Netns>, port: u16) -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = match netns {
            Some(netns) => netns.run(bind),
            None => bind(),
        };
        let listener = listener.context("listen as an API server")?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner::default());
        let accepting = Arc::clone(&inner);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                accepting.serve(stream);
            }
        });
        Ok(Self { inner, address })
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: \
             \"http://{}\"}}\nusers:\n- name: test\n  user: {{}}\ncontexts:\n- name: test\n  context: {{cluster: \
             test, user: test}}\n",
            self.address
        )
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: Value) -> Result<()> {
        let key = store::key_of(&object).with_context(|| format!("no kind or name: {object}"))?;
        lock(&self.inner.store).put(key, object);
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Enters an object as text, of which `text` gets the resourceVersion; nobody who watches is told.
    pub fn fill(&self, resource: &str, namespace: &str, name: &str, text: impl FnOnce(u64) -> String) {
        lock(&self.inner.store).fill(key(resource, namespace, name), text);
    }

    /// The object's present state.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = lock(&self.inner.store);
        let object = store.objects.get(&key(resource, namespace, name))?;
        serde_json::from_str(&object.text).ok()
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        let store = lock(&self.inner.store);
        store.list(resource, "", "").iter().filter_map(|o| serde_json::from_str(&o.text).ok()).collect()
    }

    /// Removes an object, by its kind and name.
    pub fn remove(&self, object: &Value) {
        if let Some(key) = store::key_of(object) {
            lock(&self.inner.store).delete(&key);
            self.inner.changed.notify_all();
        }
    }

    /// Removes an object.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        lock(&self.inner.store).delete(&key(resource, namespace, name));
        self.inner.changed.notify_all();
    }

    /// Forgets all versions up to now, so that watches end with "410 Gone" and lists follow.
    pub fn compact(&self) {
        let mut store = lock(&self.inner.store);
        store.version += 1;
        store.compacted = store.version;
        store.log.clear();
        drop(store);
        self.inner.changed.notify_all();
    }

    /// Lists do not show this object any more, as a cache that lags; a get does.
    pub fn hide(&self, resource: &str, namespace: &str, name: &str) {
        lock(&self.inner.store).hidden.insert(key(resource, namespace, name));
    }

    /// Ends all connections, and takes no more until [`ApiServer::come_back`].
    pub fn go_away(&self) {
        self.inner.away.store(true, Ordering::Relaxed);
        for stream in lock(&self.inner.connections).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.inner.changed.notify_all();
    }

    /// Is there again.
    pub fn come_back(&self) {
        self.inner.away.store(false, Ordering::Relaxed);
    }

    /// Watches say nothing from now on, or again.
    pub fn freeze(&self, frozen: bool) {
        self.inner.frozen.store(frozen, Ordering::Relaxed);
        self.inner.changed.notify_all();
    }

    /// Refuses every request for a resource: the rights are missing.
    pub fn forbid(&self, resource: &str) {
        lock(&self.inner.refused).insert(resource.to_owned());
    }

    /// Does not know streamed lists, as servers before 1.32.
    pub fn without_streamed_lists(&self) {
        self.inner.no_streams.store(true, Ordering::Relaxed);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.inner.requests).clone()
    }

    /// Waits until a request was made for which `wanted` holds.
    pub fn asked(&self, timeout: Duration, wanted: impl Fn(&Request) -> bool) -> Result<Request> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(request) = self.requests().into_iter().find(&wanted) {
                return Ok(request);
            }
            anyhow::ensure!(Instant::now() < until, "no such request within {timeout:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::Relaxed);
        self.go_away();
    }
}

impl Inner {
    fn serve(self: &Arc<Self>, stream: TcpStream) {
        if self.is_away() {
            return;
        }
        if let Ok(copy) = stream.try_clone() {
            lock(&self.connections).push(copy);
        }
        let inner = Arc::clone(self);
        // Whatever ends a connection is the peer's business.
        thread::spawn(move || drop(serve::connection(&inner, stream)));
    }

    fn note(&self, request: Request) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(request);
        requests.len() - 1
    }

    fn refuses(&self, resource: &str) -> bool {
        lock(&self.refused).contains(resource)
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    fn streams_lists(&self) -> bool {
        !self.no_streams.load(Ordering::Relaxed)
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
