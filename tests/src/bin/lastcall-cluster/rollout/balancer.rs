//! A load balancer of the kind that sends to pods' own addresses and learns of changes late.
//!
//! A process where the clients are. It takes connections and passes bytes on, so the pods see its
//! connections, not the clients'. `+ADDRESS` on its standard input is a new target, at once, as a health
//! check that passes would make it; `-ADDRESS` takes one away, after the lag.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use lastcall_tests::process::Process;

use crate::cluster::Cluster;

/// `lastcall-cluster balancer`
#[derive(Args, Clone, Debug)]
pub(crate) struct BalancerArgs {
    /// Where clients come.
    #[arg(long)]
    listen: SocketAddr,
    /// Seconds from the removal of a target to its last new connection.
    #[arg(long)]
    lag: f64,
}

/// Targets, and when they stop to be ones.
type Targets = Mutex<HashMap<SocketAddr, Option<Instant>>>;

/// Runs to the end of standard input.
pub(crate) fn run(args: &BalancerArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| args.listen.to_string())?;
    let targets = Arc::new(Targets::default());
    let ours = Arc::clone(&targets);
    thread::spawn(move || {
        for (turn, client) in listener.incoming().flatten().enumerate() {
            let targets = Arc::clone(&ours);
            thread::spawn(move || serve(client, &targets, turn));
        }
    });
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
        match line.split_at_checked(1) {
            Some(("+", address)) => drop(targets.insert(address.parse()?, None)),
            Some(("-", address)) => {
                let until = Instant::now() + Duration::from_secs_f64(args.lag);
                targets.entry(address.parse()?).and_modify(|end| *end = end.or(Some(until)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// One client to one target. A target that does not answer is the client's failure, as it would be.
fn serve(client: TcpStream, targets: &Targets, turn: usize) {
    let target = {
        let targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut live: Vec<SocketAddr> = targets
            .iter()
            .filter(|(_, end)| end.is_none_or(|end| end > now))
            .map(|(address, _)| *address)
            .collect();
        live.sort();
        live.get(turn % live.len().max(1)).copied()
    };
    let Some(target) = target else { return };
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::scope(|scope| {
        scope.spawn(|| pass_on(&client, &server));
        pass_on(&server, &client);
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// A balancer that runs.
#[derive(Debug)]
pub(crate) struct Balancer {
    // Killed with the handle.
    _process: Process,
    stdin: Mutex<ChildStdin>,
    pub(crate) address: SocketAddr,
}

impl Balancer {
    pub(crate) fn start(cluster: &Cluster, port: u16, lag: Duration) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = cluster.client(std::env::current_exe()?);
        command.args(["balancer", "--listen", &address.to_string(), "--lag", &lag.as_secs_f64().to_string()]);
        let process = Process::new(command.stdin(Stdio::piped()).spawn().context("run the balancer")?)?;
        let stdin = Mutex::new(process.stdin()?);
        Ok(Self { _process: process, stdin, address })
    }

    /// A target passes its health check.
    pub(crate) fn add(&self, target: &str) -> Result<()> {
        self.tell('+', target)
    }

    /// A target is to go.
    pub(crate) fn remove(&self, target: &str) -> Result<()> {
        self.tell('-', target)
    }

    fn tell(&self, what: char, target: &str) -> Result<()> {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(stdin, "{what}{target}").context("tell the balancer")
    }
}
