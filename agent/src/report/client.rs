//! The command line's question to the agent of this node.
//!
//! In: an address on loopback. Out: the agent's [`NodeStatus`] or one [`DrainStatus`], or an error
//! that says what to do. One GET, one answer, blocking: a command has nothing else to do meanwhile.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::status::{DrainStatus, NodeStatus, PATH, drain_path};

/// For the whole answer. The agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of an answer; 10,000 connections are about 3 MB.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens.
    #[error(
        "no agent answers at {address}: nothing listens there. Ask on the node itself or from inside the \
         agent's own pod (kubectl exec … -- lastcall status); if it runs with another --hook-port, give \
         --address; if it does not run, `lastcall doctor` says what it would need"
    )]
    NotRunning {
        /// Where.
        address: SocketAddr,
    },
    /// It took too long.
    #[error(
        "the agent at {address} took the call but has not answered within {} s: it is stuck or \
         overloaded; its log says more",
        PATIENCE.as_secs()
    )]
    Silent {
        /// Where.
        address: SocketAddr,
    },
    /// The connection broke.
    #[error("the connection to the agent at {address} failed")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// How.
        source: io::Error,
    },
    /// The answer is no agent's.
    #[error("what answers at {address} is not a lastcall agent of this version: {what}")]
    NotLastcall {
        /// Where.
        address: SocketAddr,
        /// What is wrong with the answer.
        what: String,
    },
    /// The agent does not know what was asked for.
    #[error("the agent answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The agent's words.
        message: String,
    },
    /// No draining pod of that name.
    #[error(
        "{pod} is not draining on this node, and only the connections of Terminating pods are watched; \
         draining here: {here}"
    )]
    NoSuchPod {
        /// As it was typed.
        pod: String,
        /// Those that are, or "none".
        here: String,
    },
    /// More than one.
    #[error("several pods named {pod} drain here, give -n NAMESPACE: {}", namespaces.join(", "))]
    Ambiguous {
        /// As it was typed.
        pod: String,
        /// Theirs.
        namespaces: Vec<String>,
    },
}

/// The node's status, without connections.
pub fn status(address: SocketAddr) -> Result<NodeStatus, Error> {
    json(address, &get(address, PATH)?)
}

/// One drain, with its connections. Without a namespace, whichever has a pod of that name.
pub fn drain(address: SocketAddr, namespace: Option<&str>, pod: &str) -> Result<DrainStatus, Error> {
    let node = status(address)?;
    let namespace = find(&node, namespace, pod)?;
    match get(address, &drain_path(&namespace, pod)) {
        // It went away between the two questions.
        Err(Error::Refused { status: 404, .. }) => {
            Err(Error::NoSuchPod { pod: format!("{namespace}/{pod}"), here: here(&node) })
        }
        answer => json(address, &answer?),
    }
}

fn find(node: &NodeStatus, namespace: Option<&str>, pod: &str) -> Result<String, Error> {
    let mut found: Vec<_> = node
        .drains
        .iter()
        .filter(|d| d.name == pod && namespace.is_none_or(|n| n == d.namespace))
        .map(|d| d.namespace.clone())
        .collect();
    found.sort();
    // A pod and its successor of the same name, as StatefulSets have them, are one answer.
    found.dedup();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let pod = namespace.map_or_else(|| pod.to_owned(), |n| format!("{n}/{pod}"));
            Err(Error::NoSuchPod { pod, here: here(node) })
        }
        _ => Err(Error::Ambiguous { pod: pod.to_owned(), namespaces: found }),
    }
}

fn here(node: &NodeStatus) -> String {
    let names: Vec<_> = node.drains.iter().map(|d| format!("{}/{}", d.namespace, d.name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn json<T: DeserializeOwned>(address: SocketAddr, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::NotLastcall { address, what: e.to_string() })
}

/// The body of a 200.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, Error> {
    let answer = exchange(address, path).map_err(|source| match source.kind() {
        ErrorKind::ConnectionRefused => Error::NotRunning { address },
        // A read's timeout is EAGAIN.
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Silent { address },
        _ => Error::Broken { address, source },
    })?;
    let not_lastcall = |what: &str| Error::NotLastcall { address, what: what.to_owned() };
    let (status, body) = parse(&answer).map_err(not_lastcall)?;
    match status {
        200 => Ok(body.to_vec()),
        _ => Err(Error::Refused { status, message: String::from_utf8_lossy(body).trim().to_owned() }),
    }
}

/// Everything that is answered until the agent closes, as it was asked to.
fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "an answer of more than 64 MB"));
        }
    }
}

/// Status and body of an answer that ends with the connection or its Content-Length.
fn parse(answer: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let head = std::str::from_utf8(&answer[..head_end]).map_err(|_| "headers that are no text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.strip_prefix("HTTP/1.1 ").or_else(|| l.strip_prefix("HTTP/1.0 ")))
        .and_then(|l| l.get(..3)?.parse().ok())
        .ok_or("no HTTP/1 status line")?;
    let mut body = &answer[head_end + 4..];
    for (name, value) in lines.filter_map(|l| l.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let length: usize = value.trim().parse().map_err(|_| "a length that is no number")?;
            body = body.get(..length).ok_or("an answer that breaks off")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer in chunks");
        }
    }
    Ok((status, body))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
