//! `cargo xtask test`: all tests, in three tiers, with what they need.
//!
//! | tier | what | as |
//! |---|---|---|
//! | pure | unit tests and documentation examples of every package | the caller |
//! | packets | `agent/tests/`: the kernel programs by BPF_PROG_TEST_RUN | root |
//! | scenarios | `tests/tests/`: the agent's binary on simulated nodes | root |
//!
//! A tier that fails does not keep the next from running.

use std::{
    ffi::{OsStr, OsString},
    io::{IsTerminal as _, stdout},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::ValueEnum;

use crate::{
    apt,
    build::{Built, build},
    child::{self, Stream, Watched},
    ebpf, root,
    workspace::Workspace,
};

/// What the simulated nodes are built with, and Debian's packages of it.
pub(crate) const NODE_TOOLS: [(&str, &str); 3] =
    [("ip", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack")];

/// A kind of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Unit tests and documentation examples, as the caller
    Pure,
    /// The kernel programs by BPF_PROG_TEST_RUN, as root
    Packets,
    /// The agent's binary on simulated nodes, as root
    Scenarios,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Pure, Self::Packets, Self::Scenarios];

    fn of(test: &Built) -> Self {
        match (test.kind.as_str(), test.package.as_str()) {
            ("test", "tests") => Self::Scenarios,
            ("test", "agent") => Self::Packets,
            _ => Self::Pure,
        }
    }

    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Pure => 600,
            Self::Packets => 300,
            Self::Scenarios => 2400,
        })
    }

    /// How many programs run side by side: most of those with scenarios end with one that takes long.
    fn lanes(self) -> usize {
        if self == Self::Scenarios { 2 } else { 1 }
    }

    /// How many tests each of them runs at a time. Scenarios wait much more than they work.
    fn threads(self) -> usize {
        let processors = thread::available_parallelism().map_or(2, |n| n.get());
        if self == Self::Scenarios { processors * 3 / 2 } else { processors }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Packets => "packets",
            Self::Scenarios => "scenarios",
        }
    }
}

/// Builds and runs the tiers (all, or one); `filter` goes to each test program as it is.
pub(crate) fn run(workspace: &Workspace, only: Option<Tier>, filter: &[String]) -> Result<()> {
    let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(|t| only.is_none_or(|o| o == *t)).collect();
    if tiers.iter().any(|t| *t != Tier::Pure) {
        root::ensure_possible("testing against the kernel (all but `--tier pure`)")?;
    }
    if tiers.contains(&Tier::Scenarios) {
        apt::install_missing(&NODE_TOOLS, "the simulated nodes")?;
        // One scenario alone needs it, and says so where it is not to be had.
        if let Err(e) = apt::install_missing(&[("faketime", "faketime")], "a wall clock that jumps") {
            eprintln!("{e:#}; the scenario of the wall clock will be skipped");
        }
    }
    ebpf::run(workspace, false)?;
    let (agent, tests) = build_all(workspace)?;
    let mut results = Vec::new();
    for tier in tiers {
        let mut tally = run_tier(workspace, tier, &tests, &agent, filter)?;
        if filter.is_empty() && tally.passed + tally.failed == 0 {
            tally.broken.push("there are no tests at all".to_owned());
        }
        results.push((tier, tally));
    }
    println!();
    for (tier, tally) in &results {
        println!("{:<10}{tally}", tier.name());
    }
    let failed: Vec<&str> = results.iter().filter(|(_, t)| !t.is_good()).map(|(t, _)| t.name()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(filter.is_empty() || results.iter().any(|(_, t)| t.passed > 0), "no test of that name");
    Ok(())
}

/// The agent's binary, and every test program.
///
/// xtask is built apart, with the features `cargo xtask` builds it with: else it would be built
/// again at each turn.
fn build_all(workspace: &Workspace) -> Result<(Built, Vec<Built>)> {
    let others = ["--workspace", "--exclude", "xtask"];
    let programs = build(workspace.cargo().arg("build").args(others).arg("--bins"))?;
    let agent = programs.into_iter().find(|b| b.kind == "bin" && b.name == "lastcall");
    let agent = agent.context("the workspace has no program `lastcall`")?;
    let mut tests = build(workspace.cargo().args(["test", "--package", "xtask", "--no-run"]))?;
    tests.extend(build(workspace.cargo().arg("test").args(others).arg("--no-run"))?);
    // The programs that integration tests start are reported too.
    tests.retain(|t| t.test);
    Ok((agent, tests))
}

fn run_tier(
    workspace: &Workspace,
    tier: Tier,
    tests: &[Built],
    agent: &Built,
    filter: &[String],
) -> Result<Tally> {
    println!("\n== {}", tier.name());
    let started = Instant::now();
    let threads = OsString::from(tier.threads().to_string());
    let programs: Vec<&Built> = tests.iter().filter(|t| Tier::of(t) == tier).collect();
    let next = AtomicUsize::new(0);
    let live = tier.lanes() == 1;
    let lane = || -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(test) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let variables = [
                ("LASTCALL_BIN", agent.file.as_os_str()),
                ("CARGO_MANIFEST_DIR", test.folder.as_os_str()),
                ("RUST_TEST_THREADS", threads.as_os_str()),
            ];
            let mut command = command(tier, test.file.as_os_str(), &variables);
            command.args(filter).current_dir(&test.folder);
            let title = format!("-- {}/{}", test.package, test.name);
            let limit = tier.limit().saturating_sub(started.elapsed());
            if live {
                println!("{title}");
                tally.run(&mut command, limit, &test.name)?;
            } else {
                let ran = child::run_heard(&mut command, Stream::Out, limit)?;
                println!("{title}\n{}", ran.said);
                tally.add(&ran, &test.name);
            }
        }
        Ok(tally)
    };
    let mut tally = Tally::default();
    thread::scope(|scope| -> Result<()> {
        let lanes: Vec<_> = (0..tier.lanes()).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            tally.merge(lane.join().map_err(|_| anyhow!("running the {} panicked", tier.name()))??);
        }
        Ok(())
    })?;
    if tier == Tier::Pure && filter.is_empty() {
        println!("-- documentation examples");
        let mut command = workspace.cargo();
        command.args(["test", "--workspace", "--exclude", "xtask", "--doc", "--quiet"]);
        tally.run(&mut command, tier.limit().saturating_sub(started.elapsed()), "documentation examples")?;
    }
    tally.took = started.elapsed();
    Ok(tally)
}

fn command(tier: Tier, program: &OsStr, variables: &[(&str, &OsStr)]) -> Command {
    let mut command = if tier == Tier::Pure {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        command
    } else {
        root::command(program, variables)
    };
    if stdout().is_terminal() {
        command.args(["--color", "always"]);
    }
    command
}

/// What the programs of one tier said.
#[derive(Default)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    ignored: u32,
    /// Programs that ended in another way than by the tests' own verdict.
    broken: Vec<String>,
    took: Duration,
}

impl Tally {
    fn run(&mut self, command: &mut Command, limit: Duration, name: &str) -> Result<()> {
        self.add(&child::run_watched(command, Stream::Out, limit)?, name);
        Ok(())
    }

    fn add(&mut self, ran: &Watched, name: &str) {
        let failed = self.failed;
        ran.said.lines().for_each(|line| self.count(line));
        match ran.status {
            None => self.broken.push(format!("{name} took too long")),
            Some(status) if !status.success() && failed == self.failed => {
                self.broken.push(format!("{name}: {status}"));
            }
            Some(_) => {}
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.broken.extend(other.broken);
    }

    /// `test result: ok. 12 passed; 0 failed; 1 ignored; …`
    pub(crate) fn count(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        // The verdict before the first count ends with a full stop (and perhaps a colour).
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for count in counts.split("; ") {
            let mut words = count.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn is_good(&self) -> bool {
        self.failed == 0 && self.broken.is_empty()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>5} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        for broken in &self.broken {
            write!(f, ", {broken}")?;
        }
        write!(f, "  in {:.1} s", self.took.as_secs_f32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_added_up_in_plain_and_in_colour() {
        let mut tally = Tally::default();
        tally.count(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.count("test result: \u{1b}[31mFAILED\u{1b}[m. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.count("test result_of_something ... ok");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (15, 2, 1));
        assert!(!tally.is_good());
    }

    #[test]
    fn a_program_that_ends_without_a_verdict_is_a_failure() {
        let mut tally = Tally::default();
        tally.run(Command::new("true").arg("x"), Duration::from_secs(60), "good").expect("runs");
        assert!(tally.is_good());
        tally.run(&mut Command::new("false"), Duration::from_secs(60), "bad").expect("runs");
        assert!(!tally.is_good());
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_and_a_failure() {
        let mut tally = Tally::default();
        let started = Instant::now();
        tally.run(Command::new("sleep").arg("60"), Duration::from_millis(50), "slow").expect("runs");
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(tally.broken, ["slow took too long"]);
    }
}
