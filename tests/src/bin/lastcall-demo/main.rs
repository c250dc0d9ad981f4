//! `cargo xtask demo`: what a rolling update costs with each way to stop a pod, measured on this machine.
//!
//! Everything happens in namespaces that end with this process, so there is nothing to clean up, also not
//! after Ctrl-C.

mod progress;
mod row;
mod table;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;
use lastcall_tests::agent::agent_binary;
use lastcall_tests::leftovers;
use lastcall_tests::load::Kind;
use nix::unistd::geteuid;

use progress::Progress;
use row::{Outcome, Row};

/// Replaces two busy pods, once with each way to stop them, and shows what that cost their clients.
#[derive(Parser)]
struct Args {
    /// Only these rows.
    #[arg(long, value_delimiter = ',', value_name = "ROW", default_values_t = Row::ALL)]
    rows: Vec<Row>,
    /// Write the numbers here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match demo(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &Args) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("network namespaces and eBPF need root; `cargo xtask demo` asks for it by sudo");
    }
    let started = Instant::now();
    introduce(args);
    let progress = Progress::new();
    let mut outcomes = Vec::new();
    for (number, row) in args.rows.iter().enumerate() {
        progress.begin(&format!("{}/{} {row}", number + 1, args.rows.len()));
        // The two loads of a row run side by side, each on a node of its own.
        let both = thread::scope(|scope| {
            let [first, second] = [Kind::ComingAndGoing, Kind::Busy].map(|load| {
                let progress = &progress;
                scope.spawn(move || row::run(*row, load, progress))
            });
            [first.join(), second.join()]
        });
        for outcome in both {
            outcomes.push(outcome.unwrap_or_else(|payload| std::panic::resume_unwind(payload)));
        }
        progress.end(&row::summary(&outcomes[outcomes.len() - 2..]));
    }
    println!("\n{}", table::render(&outcomes));
    println!("{}\n", table::meaning(&outcomes));
    for outcome in outcomes.iter().filter(|outcome| outcome.is_broken()) {
        let error = outcome.error.as_deref().unwrap_or_default();
        eprintln!("{} under {} did not work: {error}\n", outcome.name, outcome.load);
    }
    let left = match leftovers("") {
        left if left.is_empty() => "Nothing is left on this machine.".to_owned(),
        left => format!("Left on this machine: {}.", left.join(", ")),
    };
    println!("It took {:.0} s. {left}", started.elapsed().as_secs_f64());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "rows": outcomes }))?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if outcomes.iter().any(Outcome::is_broken) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn introduce(args: &Args) {
    let kernel = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned());
    let kernel = kernel.unwrap_or_else(|_| "unknown".to_owned());
    println!("lastcall demo {}, kernel {kernel}, {}", env!("CARGO_PKG_VERSION"), version_of_nft());
    if args.rows.iter().any(|row| row.has_agent()) {
        match agent_binary() {
            Ok(path) => println!("agent: {}", path.display()),
            Err(error) => println!("agent: none ({error:#})"),
        }
    }
    println!(
        "
When Kubernetes replaces a pod, new connections keep coming to it for a while, and old ones still carry
requests. A preStop hook holds back the end of the app. How long should it? For each answer this demo
builds a node out of network namespaces, with two pods behind a proxy that learns of changes one second
late, as kube-proxy does, and replaces both pods three seconds into the load. The app ends the moment it
gets SIGTERM; the clients never retry.

  coming and going   50 new connections a second with one quick request each, and 10 a second with one that takes
                     0.4 s to send and 2 s to answer
  busy               50 connections that stay, each sending one 200 ms POST after the other

  none               no preStop hook
  sleep 5, sleep 20  a hook that waits by the clock
  lastcall           a hook that lastcall answers when the pod has drained; busy clients are told to leave
                     (lastcall agent --last-call=auto)
  agent absent       the same hook, and the agent is killed just before the pods are deleted: the kernel lets
                     the hook sleep, 20 s here (5 s for a pod that no agent had seen)
"
    );
}

fn version_of_nft() -> String {
    let output = Command::new("nft").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|error| format!("no nftables ({error}): install the package nftables"))
}
