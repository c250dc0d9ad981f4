//! `cargo xtask e2e`: a real one-node Kubernetes, or some of them, and what lastcall does there.

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
use std::slice;
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
            let scenarios = scenarios::TestArgs::default();
            return with_clusters(args, &home, scenarios.clusters()?, |clusters| {
                let played = scenarios::run(clusters, &scenarios)?;
                // What is measured has the machine to itself.
                for beside in clusters.iter().skip(1) {
                    boot::down(beside.home(), true)?;
                }
                Ok(rollout::run(&clusters[0], rollout)? && played)
            });
        }
        Verb::Load(load) => load::run(load)?,
        Verb::Balancer(balancer) => rollout::balancer::run(balancer)?,
        Verb::Down { keep } => all_down(&home, *keep)?,
        Verb::Shell { client, command } => return Err(shell(&home, *client, command)),
        Verb::Up { proxy } if supervise::is_child()? => {
            let started = Instant::now();
            boot::up(slice::from_ref(&home), &args.node_script, proxy)?;
            let took = started.elapsed().as_secs_f64();
            println!("up in {took:.1} s; `cargo xtask e2e shell` is a shell on the node");
        }
        // Nothing has to be booted for that.
        Verb::Test(test) if test.list => scenarios::list(test)?,
        Verb::Test(test) => {
            return with_clusters(args, &home, test.clusters()?, |clusters| scenarios::run(clusters, test));
        }
        Verb::Rollout(rollout) => {
            return with_clusters(args, &home, 1, |clusters| rollout::run(&clusters[0], rollout));
        }
        Verb::Up { .. } => {
            boot::ensure_none(&home)?;
            if !supervise::run_as_child()?.success() {
                all_down(&home, true)?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does something in the cluster that is there, or in so many that live as long as it takes.
fn with_clusters(
    args: &Args,
    home: &Home,
    count: usize,
    work: impl FnOnce(&[Cluster]) -> Result<bool>,
) -> Result<ExitCode> {
    let good = if let Some(kubeconfig) = &args.kubeconfig {
        work(&[Cluster::theirs(home, kubeconfig.clone())])?
    } else if supervise::is_child()? {
        let mut homes = vec![home.clone()];
        if boot::init(home)?.is_none() {
            homes = home.and_others(count);
            boot::up(&homes, &args.node_script, "nftables")?;
        }
        work(&homes.iter().map(Cluster::own).collect::<Result<Vec<_>>>()?)?
    } else {
        let was_there = boot::init(home)?.is_some();
        if !was_there {
            // Those beside it, of a command that was killed.
            all_down(home, true)?;
        }
        let status = supervise::run_as_child();
        if !was_there {
            all_down(home, true)?;
            println!("the cluster is down; nothing of it is left but its logs");
        }
        status?.success()
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends whatever cluster runs on this machine, also of a command that could not tidy up any more.
fn all_down(home: &Home, keep: bool) -> Result<()> {
    let ends: Vec<Result<()>> =
        home.and_others(home::MOST).iter().map(|home| boot::down(home, keep)).collect();
    ends.into_iter().collect()
}

/// Does not return but with an error: the shell takes this process's place.
fn shell(home: &Home, client: bool, words: &[String]) -> Error {
    let init = match boot::init(home) {
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
