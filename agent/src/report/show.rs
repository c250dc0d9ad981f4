//! `lastcall status` and `lastcall connections`: ask, and print.
//!
//! In: what to ask for, and how to print it. Out: text on a writer. A watch goes on when the agent is
//! away for a while, as it is during its own upgrade; a single question fails.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

use serde::Serialize;

use super::{
    client, render,
    status::{DrainStatus, NodeStatus},
};

/// Between two questions of a watch.
const INTERVAL: Duration = Duration::from_secs(1);
/// Home, without clearing: what is overwritten does not flicker.
const HOME: &str = "\x1b[H";
/// Clear to the end of the line.
const REST_OF_LINE: &str = "\x1b[K";
/// Clear to the end of the screen.
const REST_OF_SCREEN: &str = "\x1b[J";
/// Clear all of it.
const CLEAR: &str = "\x1b[2J";

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's answer, or its absence.
    #[error(transparent)]
    Agent(#[from] client::Error),
    /// Standard output. A closed pipe (`| head`) is no error, and not told.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Prints the node's status once.
pub fn status(address: SocketAddr, json: bool) -> Result<(), Error> {
    let node = client::status(address)?;
    print(&if json { document(&node, true)? } else { render::status(&node) })
}

/// Prints one pod's connections once.
pub fn connections(address: SocketAddr, namespace: Option<&str>, pod: &str, json: bool) -> Result<(), Error> {
    let drain: DrainStatus = client::drain(address, namespace, pod)?;
    print(&if json { document(&drain, true)? } else { render::connections(&drain) })
}

/// Prints the node's status every second, until the output is closed or the process interrupted.
pub fn watch(address: SocketAddr, json: bool) -> Result<(), Error> {
    let redraw = !json && io::stdout().is_terminal();
    if redraw {
        print(CLEAR)?;
    }
    loop {
        let answer = client::status(address);
        let mut out = io::stdout().lock();
        let written = out.write_all(frame(&answer, json, redraw)?.as_bytes()).and_then(|()| out.flush());
        drop(out);
        if let Err(error) = written {
            return closed(error);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a command of one thread, which has nothing else to do"
        )]
        thread::sleep(INTERVAL);
    }
}

/// What one round of a watch prints.
fn frame(answer: &Result<NodeStatus, client::Error>, json: bool, redraw: bool) -> io::Result<String> {
    let text = match answer {
        Ok(node) if json => document(node, false)?,
        Ok(node) => render::status(node),
        Err(error) if json => format!("{}\n", serde_json::json!({ "error": error.to_string() })),
        Err(error) => format!("{error}\n"),
    };
    Ok(match (redraw, json) {
        (true, _) => {
            format!("{HOME}{}{REST_OF_SCREEN}", text.replace('\n', &format!("{REST_OF_LINE}\n")))
        }
        (false, true) => text,
        (false, false) => format!("{text}\n"),
    })
}

/// JSON, with a line end.
pub(super) fn document(value: &impl Serialize, pretty: bool) -> io::Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    Ok(text? + "\n")
}

/// To standard output at once.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(closed)
}

fn closed(error: io::Error) -> Result<(), Error> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(Error::Output(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::EbpfStatus;

    fn node() -> Result<NodeStatus, client::Error> {
        Ok(NodeStatus {
            version: "0.1.0".into(),
            uptime_seconds: 1.0,
            ebpf: EbpfStatus::default(),
            problems: vec![],
            drains: vec![],
        })
    }

    fn away() -> Result<NodeStatus, client::Error> {
        Err(client::Error::NotRunning { address: "127.0.0.1:9902".parse().unwrap() })
    }

    #[test]
    fn on_a_terminal_each_round_overwrites_the_last() {
        let text = frame(&node(), false, true).unwrap();
        assert!(text.starts_with("\x1b[Hlastcall 0.1.0"), "{text:?}");
        assert!(text.ends_with("No pod of this node is Terminating.\x1b[K\n\x1b[J"), "{text:?}");
        assert_eq!(text.matches('\n').count(), text.matches("\x1b[K\n").count());
    }

    #[test]
    fn elsewhere_rounds_are_appended_with_a_blank_line() {
        let text = frame(&node(), false, false).unwrap();
        assert!(!text.contains('\x1b') && text.ends_with("Terminating.\n\n"), "{text:?}");
    }

    #[test]
    fn json_is_a_document_a_line() {
        let text = frame(&node(), true, false).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(serde_json::from_str::<NodeStatus>(&text).is_ok());
    }

    #[test]
    fn a_watch_outlives_the_agent() {
        assert!(frame(&away(), false, true).unwrap().contains("no agent answers at 127.0.0.1:9902"));
        let line = frame(&away(), true, false).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["error"].as_str().unwrap().starts_with("no agent answers"));
    }
}
