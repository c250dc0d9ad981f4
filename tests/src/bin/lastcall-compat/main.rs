//! `cargo xtask compat`: real servers lose a pod under real clients, with the last call.
//!
//! Everything happens in namespaces that end with this process, so there is nothing to clean up, also not
//! after Ctrl-C.

mod client;
mod curl;
mod kits;
mod row;
mod server;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;
use lastcall_tests::leftovers;
use nix::unistd::geteuid;

use client::Kind;
use kits::Kits;
use row::{Pair, Row};

/// Drains a pod of each server while clients are at work on it, and shows what that cost them.
#[derive(Parser)]
struct Args {
    /// Where the servers and clients were built.
    #[arg(long, value_name = "DIR")]
    built: PathBuf,
    /// A kit that is not there, and why.
    #[arg(long, value_name = "KIT=REASON")]
    missing: Vec<String>,
    /// Only these servers or clients.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Write the rows here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table here as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// How many rows at once, each on a node of its own.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The path of the preStop hook.
    #[arg(long, default_value = "/drain?last-call=http")]
    hook: String,
    /// Show all that can be known of a node where a row is not what it must be.
    #[arg(long)]
    verbose: bool,
    /// Play a row that is not what it must be once more; the second time counts, both are shown. For machines
    /// that have to say yes or no: now and then a row has a client that cannot be told (Known faults).
    #[arg(long)]
    again: bool,
}

fn main() -> ExitCode {
    match compat(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compat(args: &Args) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("network namespaces and eBPF need root; `cargo xtask compat` asks for it by sudo");
    }
    let started = Instant::now();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat");
    let kits = Kits::new(&args.built, &sources, &args.missing);
    let pairs = plan(&args.only)?;
    println!(
        "{} rows: two pods of each server, clients that never stop, and one pod replaced\n",
        pairs.len()
    );
    let rows = run_all(&pairs, &kits, args);
    println!("\n{}", table::render(&rows));
    let bad = rows.iter().filter(|row| row.not_available.is_none() && !row.is_good()).count();
    let away = rows.iter().filter(|row| row.not_available.is_some()).count();
    let left = match leftovers("") {
        left if left.is_empty() => "Nothing is left on this machine.".to_owned(),
        left => format!("Left on this machine: {}.", left.join(", ")),
    };
    println!("It took {:.0} s. {left}", started.elapsed().as_secs_f64());
    println!("{} passed, {bad} failed, {away} skipped", rows.len() - bad - away);
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "rows": rows }))?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        fs::write(path, table::markdown(&rows)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each server with one good client, each client with one or two servers.
fn plan(only: &[String]) -> Result<Vec<Pair>> {
    let server = |name: &str| server::ALL.into_iter().find(|server| server.name == name);
    let mut pairs: Vec<Pair> =
        server::ALL.into_iter().map(|server| Pair { server, client: Kind::Go }).collect();
    for (client, servers) in [
        (Kind::GoLarge, ["go", "nginx-proxy", "jdk"].as_slice()),
        (Kind::Curl, &["go", "nginx-sendfile"]),
        (Kind::Requests, &["uvicorn"]),
        (Kind::Httpx, &["go"]),
        (Kind::Undici, &["node"]),
        (Kind::Java, &["jetty"]),
        (Kind::Hyper, &["axum", "go"]),
        (Kind::NginxPool, &["go", "jdk"]),
        (Kind::HaproxyPool, &["node"]),
        (Kind::Wrk, &["axum"]),
        (Kind::Fortio, &["go"]),
        (Kind::Ghz, &["grpc-go"]),
    ] {
        for name in servers {
            let server = server(name).with_context(|| format!("no server {name}"))?;
            pairs.push(Pair { server, client });
        }
    }
    let known = |name: &str| server(name).is_some() || Kind::ALL.iter().any(|kind| kind.name() == name);
    if let Some(name) = only.iter().find(|name| !known(name)) {
        let servers = server::ALL.map(|server| server.name).join(", ");
        bail!(
            "no server or client {name}; there are {servers}, and {}",
            Kind::ALL.map(Kind::name).join(", ")
        );
    }
    let is_meant = |name: &str| only.iter().any(|only| only == name);
    let chosen = |pair: &Pair| {
        only.is_empty()
            || is_meant(pair.server.name)
            || (pair.client != Kind::Go && is_meant(pair.client.name()))
    };
    pairs.retain(chosen);
    Ok(pairs)
}

/// Runs the pairs, some at once; says of each what came of it, and gives them back in their order.
fn run_all(pairs: &[Pair], kits: &Kits, args: &Args) -> Vec<Row> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pair) = pairs.get(index) else { break };
                    let mut row = row::run(*pair, kits, &args.hook, args.verbose);
                    println!("{:2}/{}  {}", index + 1, pairs.len(), summary(&row));
                    if args.again && row.not_available.is_none() && !row.is_good() {
                        let said = row.errors.first().map_or("", String::as_str);
                        println!("        {said}\n        once more:");
                        row = row::run(*pair, kits, &args.hook, args.verbose);
                        println!("{:2}/{}  {}", index + 1, pairs.len(), summary(&row));
                    }
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((index, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn summary(row: &Row) -> String {
    let what = format!("{} with {}", row.server, row.client);
    match (&row.not_available, &row.error) {
        (Some(why), _) => format!("{what}: not available, {why}"),
        (None, Some(error)) => format!("{what}: did not work, {error}"),
        (None, None) => format!(
            "{what}: {} of {} requests failed, {} told, {} moved, {} reopened, {} after {:.1} s",
            row.failed,
            row.requests,
            row.told,
            row.moved,
            row.reopened,
            row.outcome,
            row.answered_s.unwrap_or_default()
        ),
    }
}
