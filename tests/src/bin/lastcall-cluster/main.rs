//! `cargo xtask e2e`: a real one-node Kubernetes, and what lastcall does in it.

mod agent;
mod app;
mod boot;
mod cluster;
mod home;
mod load;
mod pods;
mod rollout;
mod run;
mod scenarios;
mod supervise;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Error, Result, bail};
use clap::{Parser, Subcommand};
use nix::unistd::geteuid;

use cluster::Cluster;
use home::Home;

/// A real one-node Kubernetes in namespaces of this machine, and what lastcall does in it.
#[derive(Parser)]
struct Args {
    /// The folder with the cluster's programs and images.
    #[arg(long, env = "LASTCALL_E2E_DIR")]
    dir: PathBuf,
    /// The script that makes the node.
    #[arg(long, env = "LASTCALL_E2E_NODE")]
    node_script: PathBuf,
    /// An existing cluster's administrator, instead of a cluster of our own.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything: boot, play the scenarios, measure, and take the cluster down; what is done where no
    /// verb is given.
    All(rollout::RolloutArgs),
    /// Boot the cluster and leave it running.
    Up {
        /// kube-proxy's mode: nftables or iptables.
        #[arg(long, default_value = "nftables")]
        proxy: String,
    },
    /// End it.
    Down {
        /// Leave its logs and data.
        #[arg(long)]
        keep: bool,
    },
    /// Play the scenarios.
    Test(scenarios::TestArgs),
    /// Measure what a rolling update costs, by the way to stop a pod.
    Rollout(rollout::RolloutArgs),
    /// A shell on the node, or one command.
    Shell {
        /// In the client's network namespace, outside the node.
        #[arg(long)]
        client: bool,
        /// What to run instead of a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// A load, as the measurements run it.
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// A load balancer that learns late, as the measurements run it.
    #[command(hide = true)]
    Balancer(rollout::balancer::BalancerArgs),
}

fn main() -> ExitCode {
    match go(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(args: &Args) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("namespaces and cgroups need root; `cargo xtask e2e` asks for it by sudo");
    }
    let home = Home::new(args.dir.clone());
    let all = Verb::All(rollout::RolloutArgs::default());
    match args.verb.as_ref().unwrap_or(&all) {
        Verb::All(rollout) => {
            return with_cluster(args, &home, |cluster| {
                let played = scenarios::run(cluster, &scenarios::TestArgs::default())?;
                Ok(rollout::run(cluster, rollout)? && played)
            });
        }
        Verb::Load(load) => load::run(load)?,
        Verb::Balancer(balancer) => rollout::balancer::run(balancer)?,
        Verb::Down { keep } => boot::down(&home, *keep)?,
        Verb::Shell { client, command } => return Err(shell(*client, command)),
        Verb::Up { proxy } if supervise::is_child()? => {
            let started = Instant::now();
            boot::up(&home, &args.node_script, proxy)?;
            let took = started.elapsed().as_secs_f64();
            println!("up in {took:.1} s; `cargo xtask e2e shell` is a shell on the node");
        }
        // Nothing has to be booted for that.
        Verb::Test(test) if test.list => scenarios::list(test)?,
        Verb::Test(test) => return with_cluster(args, &home, |cluster| scenarios::run(cluster, test)),
        Verb::Rollout(rollout) => {
            return with_cluster(args, &home, |cluster| rollout::run(cluster, rollout));
        }
        Verb::Up { .. } => {
            boot::ensure_none()?;
            if !supervise::run_as_child()?.success() {
                boot::down(&home, true)?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does something in the cluster that is there, or in one that lives as long as it takes.
fn with_cluster(args: &Args, home: &Home, work: impl FnOnce(&Cluster) -> Result<bool>) -> Result<ExitCode> {
    let good = if let Some(kubeconfig) = &args.kubeconfig {
        work(&Cluster::theirs(home, kubeconfig.clone()))?
    } else if supervise::is_child()? {
        if boot::init()?.is_none() {
            boot::up(home, &args.node_script, "nftables")?;
        }
        work(&Cluster::own(home)?)?
    } else {
        let was_there = boot::init()?.is_some();
        let status = supervise::run_as_child();
        if !was_there {
            boot::down(home, true)?;
            println!("the cluster is down; nothing of it is left but its logs");
        }
        status?.success()
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does not return but with an error: the shell takes this process's place.
fn shell(client: bool, words: &[String]) -> Error {
    let init = match boot::init() {
        Ok(Some(init)) => init,
        Ok(None) => return Error::msg("no cluster runs: `cargo xtask e2e up` boots one"),
        Err(error) => return error,
    };
    let mut command = boot::enter(init, &["--pid", "--mount", "--net", "--uts", "--ipc"]);
    if client {
        command.args(["ip", "netns", "exec", "client"]);
    }
    boot::surroundings(&mut command);
    match words {
        [] => command.arg("bash"),
        words => command.args(words),
    };
    Error::new(command.exec()).context("run nsenter")
}
