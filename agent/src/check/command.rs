//! The command: reads, checks, prints, and says how the process should end.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use serde_json::Value;

use super::{Finding, Inventory, Problem, Report, Settings, Severity, input, json, live, sarif, text};

/// `EX_DATAERR` of sysexits(3): an input cannot be read or understood.
const BAD_INPUT: u8 = 65;
/// `EX_UNAVAILABLE`: the cluster does not answer.
const UNAVAILABLE: u8 = 69;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files and directories; `-` is standard input.
    Files(Vec<PathBuf>),
    /// A cluster.
    Cluster {
        /// One namespace; `None`: all.
        namespace: Option<String>,
        /// A kubeconfig; else as kubectl finds one, or the pod's own account.
        kubeconfig: Option<PathBuf>,
    },
}

/// How to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One document for programs.
    Json,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to look at.
    pub source: Source,
    /// How to judge it.
    pub settings: Settings,
    /// The least that fails; `None`: nothing does.
    pub fail_on: Option<Severity>,
    /// How to print it.
    pub format: Format,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output. A closed pipe (`| head`) is no error.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// The JSON writer.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

/// Checks, prints, and gives the exit code: 0 when nothing at or above `fail_on` was found, 1 when
/// something was, 65 when an input could not be read or understood, 69 when the cluster does not answer.
pub fn run(plan: &Plan) -> Result<u8, Error> {
    let (inventory, problems, failure) = match &plan.source {
        Source::Files(inputs) => {
            let (inventory, problems) = input::read(inputs);
            (inventory, problems, BAD_INPUT)
        }
        Source::Cluster { namespace, kubeconfig } => {
            let (inventory, problems) = live::read(namespace.as_deref(), kubeconfig.as_deref())?;
            (inventory, problems, UNAVAILABLE)
        }
    };
    let findings = super::check(&inventory, &plan.settings);
    let output = render(plan.format, &inventory, &findings, &problems)?;
    for problem in &problems {
        eprintln!("lastcall: {problem}");
    }
    let mut out = io::stdout().lock();
    let written = out.write_all(output.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    Ok(code(&findings, &problems, plan.fail_on, failure))
}

/// The output as text.
pub(super) fn render(
    format: Format,
    inventory: &Inventory,
    findings: &[Finding],
    problems: &[Problem],
) -> Result<String, Error> {
    let (workloads, services) = (inventory.workloads.len(), inventory.services.len());
    let report = Report { findings, problems, workloads, services };
    let pretty = |value: Value| serde_json::to_string_pretty(&value).map(|text| text + "\n");
    Ok(match format {
        Format::Text => text::render(&report),
        Format::Json => pretty(json::render(&report))?,
        Format::Sarif => pretty(sarif::render(&report))?,
    })
}

/// What could not be looked at weighs more than what was found: the answer is incomplete.
fn code(findings: &[Finding], problems: &[Problem], fail_on: Option<Severity>, failure: u8) -> u8 {
    let failed = |fail_on| findings.iter().any(|finding| finding.severity >= fail_on);
    match fail_on {
        _ if problems.iter().any(|problem| problem.fatal) => failure,
        Some(severity) if failed(severity) => 1,
        _ => 0,
    }
}
