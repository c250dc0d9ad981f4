//! One row under one load: a node, a rolling update, and what it cost.

use std::fmt;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lastcall_tests::clock::now;
use lastcall_tests::load::{Kind, Report};
use lastcall_tests::{Hook, Node, Stop};
use serde::Serialize;

use crate::progress::Progress;

/// The port of the app.
const PORT: u16 = 8080;
/// From the start of the load to the first deletion.
const BEFORE: Duration = Duration::from_secs(3);
/// From one deletion to the next, as a Deployment makes and waits for one new pod at a time.
const BETWEEN: Duration = Duration::from_secs(1);
/// From the end of the second pod to the end of the load.
const AFTER: Duration = Duration::from_secs(2);
/// No pod outlives its grace by more.
const LIMIT: Duration = Duration::from_secs(60);

/// A way to stop a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// No preStop hook.
    None,
    /// `preStop: {sleep: …}`
    Sleep(u32),
    /// The hook that lastcall answers.
    Lastcall,
    /// The same hook when the agent has been killed, with the pods known and the load running.
    AgentAbsent,
}

impl Row {
    pub(crate) const ALL: [Self; 5] =
        [Self::None, Self::Sleep(5), Self::Sleep(20), Self::Lastcall, Self::AgentAbsent];

    pub(crate) fn has_agent(self) -> bool {
        matches!(self, Self::Lastcall | Self::AgentAbsent)
    }

    fn hook(self) -> Hook {
        match self {
            Self::None => Hook::None,
            Self::Sleep(seconds) => Hook::Sleep(seconds),
            Self::Lastcall | Self::AgentAbsent => Hook::http("/drain"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Sleep(seconds) => write!(f, "sleep {seconds}"),
            Self::Lastcall => f.write_str("lastcall"),
            Self::AgentAbsent => f.write_str("agent absent"),
        }
    }
}

impl FromStr for Row {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|row| row.to_string() == text);
        found.with_context(|| format!("the rows are {}", Self::ALL.map(|row| row.to_string()).join(", ")))
    }
}

/// What a row cost under one load; these names are the JSON's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// The row.
    pub(crate) name: String,
    /// The load.
    pub(crate) load: &'static str,
    /// All requests.
    pub(crate) requests: u64,
    /// Those without a complete answer.
    pub(crate) failed: u64,
    /// Those among them that an app had and lost, because it ended with the request in flight.
    pub(crate) cut: u64,
    /// Seconds from a pod's deletion to its end, of the slower pod.
    pub(crate) gone_s: Option<f64>,
    /// Milliseconds from the last thing that the agent waited for to its answer, of the slower pod.
    pub(crate) answer_after_last_close_ms: Option<f64>,
    /// Clients that lastcall told to leave, at both pods.
    pub(crate) told: Option<u64>,
    /// How each pod's hook ended.
    pub(crate) hooks: Vec<String>,
    /// Why there are no numbers.
    pub(crate) error: Option<String>,
}

impl Outcome {
    pub(crate) fn is_broken(&self) -> bool {
        self.error.is_some()
    }
}

/// Runs the row; what goes wrong is part of the outcome.
pub(crate) fn run(row: Row, load: Kind, progress: &Progress) -> Outcome {
    let name = row.to_string();
    match try_run(row, load, &|text| progress.step(load.name(), text)) {
        Ok(outcome) => Outcome { name, load: load.name(), ..outcome },
        Err(error) => {
            progress.step(load.name(), "failed");
            Outcome { name, load: load.name(), error: Some(format!("{error:#}")), ..Outcome::default() }
        }
    }
}

fn try_run(row: Row, load: Kind, step: &dyn Fn(&str)) -> Result<Outcome> {
    step("building a node");
    let node = Node::new()?;
    // As the quick start has it: clients of ports that are called http are told to leave.
    let agent = || {
        let agent = node.agent().flag("--last-call", "auto").flag("--last-call-within", "2s");
        agent.start().context("start the agent")
    };
    let agent = row.has_agent().then(agent).transpose()?;
    let service = node.service("web").port("http", 80, PORT).start()?;
    let pod = |name: &str| node.pod(name).of("web").http(PORT).hook(row.hook()).start();
    let old = [pod("old-0")?, pod("old-1")?];
    node.proxy_synced()?;
    let client = node.client()?;

    step("load starts");
    let running = client.load(load, service.address)?;
    thread::sleep(BEFORE);
    if let (Some(agent), Row::AgentAbsent) = (&agent, row) {
        step("agent killed");
        agent.kill();
    }
    let mut stops = Vec::new();
    for (number, old) in old.iter().enumerate() {
        if number > 0 {
            thread::sleep(BETWEEN);
        }
        pod(&format!("new-{number}"))?;
        step(&format!("pod {} replaced, waiting", number + 1));
        stops.push((now(), node.kubelet().delete(old)?));
    }
    let mut outcome = Outcome::default();
    for (number, (deleted, stop)) in stops.iter().enumerate() {
        let gone = stop.gone_within(LIMIT)? - deleted;
        step(&format!("pod {} gone after {gone:.1} s", number + 1));
        outcome.gone_s = Some(outcome.gone_s.unwrap_or(0.0).max(gone));
        outcome.see_hook(row, stop)?;
    }
    thread::sleep(AFTER);
    let Report { requests, failed, cut, failures } = running.finish()?;
    if let Some(first) = failures.first() {
        step(&format!("{failed} of {requests} requests failed, the first: {}", first.error));
    }
    Ok(Outcome { requests, failed, cut, ..outcome })
}

impl Outcome {
    /// Notes how the hook ended, and that it ended in the way that the row is about.
    fn see_hook(&mut self, row: Row, stop: &Stop) -> Result<()> {
        match row {
            Row::None | Row::Sleep(_) => {}
            Row::Lastcall => {
                let answer = stop.answered_within(Duration::ZERO)?;
                if let Some(millis) = answer.body["last_close_to_answer_ms"].as_f64() {
                    let slower = self.answer_after_last_close_ms.unwrap_or(0.0).max(millis);
                    self.answer_after_last_close_ms = Some(slower);
                }
                if let Some(told) = answer.body["last_call"]["told"].as_u64() {
                    self.told = Some(self.told.unwrap_or(0) + told);
                }
                self.hooks.push(answer.outcome().to_owned());
            }
            Row::AgentAbsent => {
                let (at, error) = stop.failed_within(Duration::ZERO)?;
                let slept = at - stop.started()?;
                if slept < 1.0 {
                    bail!("nobody was home, and the hook was no sleep: {error} after {slept:.3} s");
                }
                self.hooks.push(format!("slept {slept:.1} s"));
            }
        }
        Ok(())
    }
}

/// A row's outcomes in a line.
pub(crate) fn summary(outcomes: &[Outcome]) -> String {
    let each = outcomes.iter().map(|outcome| match (&outcome.error, outcome.gone_s) {
        (None, Some(gone)) => format!("{}: {} failed, gone after {gone:.1} s", outcome.load, outcome.failed),
        _ => format!("{}: did not work", outcome.load),
    });
    each.collect::<Vec<_>>().join(" · ")
}
