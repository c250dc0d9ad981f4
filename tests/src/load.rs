//! Clients in numbers: the loads of the demo, in a process of their own.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::process::{Process, binary};

/// Who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A new connection for each request, 50 a second, and 2 requests a second that take two seconds.
    ComingAndGoing,
    /// 50 connections that stay open, each sending POSTs back to back that take 200 ms.
    Busy,
}

impl Kind {
    /// The load's name in the demo's table.
    pub fn name(self) -> &'static str {
        match self {
            Self::ComingAndGoing => "coming and going",
            Self::Busy => "busy",
        }
    }
}

/// How far a failed request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// It had a connection, and an app behind it; the connection broke before the whole answer was there.
    Cut,
    /// It never got a connection: refused, unreachable, or no answer in time.
    Refused,
}

/// One failed request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When, by [`crate::clock::now`].
    pub at: f64,
    /// How far it came.
    pub loss: Loss,
    /// What the client's kernel said.
    pub error: String,
    /// What was asked for.
    pub path: String,
    /// The client's address, if it had a connection.
    pub from: Option<SocketAddr>,
}

/// What became of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// All requests, failed ones included.
    pub requests: u64,
    /// Those without a complete answer.
    pub failed: u64,
    /// Those among the failed that were cut in flight; the others never got a connection.
    pub cut: u64,
    /// The failed ones, the first ten thousand.
    pub failures: Vec<Failure>,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    process: Process,
    stdin: ChildStdin,
}

impl Load {
    /// Starts a load from `client` to `target`.
    pub fn start(client: &Client, kind: Kind, target: SocketAddr) -> Result<Self> {
        let mut command = Command::new(binary("lastcall-load")?);
        let name = kind.to_possible_value().context("every load has a name")?;
        command.args(["--kind", name.get_name(), "--target", &target.to_string()]);
        // Slowness is no failure: of what is cut or refused the kernel tells at once.
        command.args(["--timeout-seconds", "20"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = client.start(command)?;
        let stdin = process.stdin()?;
        Ok(Self { process, stdin })
    }

    /// Ends the load: no new requests, those in flight finish, then the report.
    pub fn finish(self) -> Result<Report> {
        let mut stdout = self.process.stdout()?;
        drop(self.stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("the load's report: {text:?}"))
    }
}
