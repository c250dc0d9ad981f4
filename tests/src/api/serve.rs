//! One connection to the stub API server.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::request::Request;
use super::store::{Key, Store};
use super::{Inner, lock};
use crate::http::Head;

/// A watcher that has nothing to hear hears at least this often that there is nothing.
const BOOKMARK: Duration = Duration::from_secs(1);

/// Answers until the peer has gone.
pub(super) fn connection(inner: &Arc<Inner>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = Head::read(&mut reader)? {
        let body = head.read_body(&mut reader, 1 << 20)?;
        if inner.is_away() {
            bail!("away");
        }
        let Some(request) = Request::parse(&head.first) else {
            answer(&mut writer, 404, &status(404, "NotFound", &head.first))?;
            continue;
        };
        // What was asked for shows once it has been done: who waits for the request finds what it has written.
        let done = (request.verb != "watch" && !inner.refuses(&request.resource))
            .then(|| once(inner, &request, &body));
        let number = inner.note(request.clone());
        if inner.refuses(&request.resource) {
            sent(inner, number, answer(&mut writer, 403, &status(403, "Forbidden", &request.resource))?);
            continue;
        }
        if request.verb == "watch" {
            watch(inner, number, &request, &mut writer)?;
            continue;
        }
        if let Some((code, text)) = done {
            sent(inner, number, answer(&mut writer, code, &text)?);
        }
    }
    Ok(())
}

fn sent(inner: &Inner, number: usize, bytes: usize) {
    lock(&inner.requests)[number].bytes += bytes as u64;
}

fn answer(writer: &mut TcpStream, code: u16, text: &str) -> Result<usize> {
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    writer.write_all(head.as_bytes())?;
    writer.write_all(text.as_bytes())?;
    Ok(text.len())
}

fn status(code: u16, reason: &str, message: &str) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
           "reason": reason, "code": code})
    .to_string()
}

/// Everything but watches.
fn once(inner: &Inner, request: &Request, body: &[u8]) -> (u16, String) {
    let key: Key = (request.resource.clone(), request.namespace.clone(), request.name.clone());
    let mut store = lock(&inner.store);
    match request.verb.as_str() {
        "list" => (200, list(&store, request)),
        "get" => match store.objects.get(&key) {
            Some(object) => (200, object.text.to_string()),
            None => (404, status(404, "NotFound", &request.name)),
        },
        "create" | "patch" => {
            let object: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or(&request.name).to_owned();
            let object = store.put((key.0, key.1, name), object);
            drop(store);
            inner.changed.notify_all();
            (201, object.text.to_string())
        }
        _ => (405, status(405, "MethodNotAllowed", &request.verb)),
    }
}

/// A page where one is asked for; never of a list "at any version", as with the server's cache.
fn list(store: &Store, request: &Request) -> String {
    let selector = request.query.get("fieldSelector").map_or("", String::as_str);
    let objects = store.list(&request.resource, &request.namespace, selector);
    let cached = request.query.get("resourceVersion").is_some_and(|version| version == "0");
    let limit = request.number("limit").filter(|_| !cached).map_or(objects.len(), |n| n as usize);
    let from = request.number("continue").unwrap_or(0) as usize;
    let to = (from + limit).min(objects.len());
    let next = if to < objects.len() { to.to_string() } else { String::new() };
    let items: Vec<&str> = objects[from..to].iter().map(|object| &*object.text).collect();
    format!(
        "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{}\",\"continue\":\
         {next:?}}},\"items\":[{}]}}",
        store.version,
        items.join(",")
    )
}

/// Tells of changes until the peer, or its time, has gone.
fn watch(inner: &Inner, number: usize, request: &Request, writer: &mut TcpStream) -> Result<()> {
    let selector = request.query.get("fieldSelector").cloned().unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(request.number("timeoutSeconds").unwrap_or(290));
    let initial = request.is("sendInitialEvents");
    if initial && !inner.streams_lists() {
        let text = status(422, "Invalid", "sendInitialEvents is forbidden for watch");
        sent(inner, number, answer(writer, 422, &text)?);
        return Ok(());
    }
    writer.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut say = |text: &str| -> Result<()> {
        write!(writer, "{:x}\r\n{text}\n\r\n", text.len() + 1)?;
        sent(inner, number, text.len() + 1);
        Ok(())
    };
    let mut seen = request.number("resourceVersion").unwrap_or(0);
    let mut store = lock(&inner.store);
    if initial || seen == 0 {
        let (objects, version) =
            (store.list(&request.resource, &request.namespace, &selector), store.version);
        drop(store);
        for object in objects {
            say(&event("ADDED", &object.text))?;
        }
        if initial {
            say(&bookmark(request, version, true))?;
        }
        seen = version;
        store = lock(&inner.store);
    }
    while Instant::now() < until {
        if seen < store.compacted {
            drop(store);
            say(&event("ERROR", &status(410, "Expired", "too old resource version")))?;
            break;
        }
        if inner.is_away() {
            bail!("away");
        }
        let of = |key: &Key| {
            key.0 == request.resource && (request.namespace.is_empty() || key.1 == request.namespace)
        };
        // A frozen server goes on in time, and says nothing.
        let (seen_before, now) = (seen, store.version);
        let news: Vec<String> = if inner.is_frozen() {
            Vec::new()
        } else {
            seen = now;
            let new = store.log.iter().skip_while(|change| change.version <= seen_before);
            let ours = new.filter(|change| of(&change.key) && change.object.is(&selector));
            ours.map(|change| event(change.what, &change.object.text)).collect()
        };
        if news.is_empty() {
            let (again, timeout) =
                inner.changed.wait_timeout(store, BOOKMARK).unwrap_or_else(PoisonError::into_inner);
            store = again;
            if timeout.timed_out() && !inner.is_frozen() && request.is("allowWatchBookmarks") {
                drop(store);
                say(&bookmark(request, seen, false))?;
                store = lock(&inner.store);
            }
            continue;
        }
        drop(store);
        for text in news {
            say(&text)?;
        }
        store = lock(&inner.store);
    }
    writer.write_all(b"0\r\n\r\n")?;
    Ok(())
}

fn event(what: &str, object: &str) -> String {
    format!("{{\"type\":\"{what}\",\"object\":{object}}}")
}

fn bookmark(request: &Request, version: u64, end: bool) -> String {
    let version_of = if request.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", request.group) };
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", &json!({"kind": "X", "apiVersion": version_of, "metadata": metadata}).to_string())
}
