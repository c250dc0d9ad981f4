//! Findings for people: by object, the worst first, each with the lines to add.

use std::fmt::Write as _;

use super::{Finding, Report, Severity};

/// Columns of a sentence.
const WIDTH: usize = 92;
/// Under the severity.
const INDENT: &str = "           ";

pub(super) fn render(report: &Report<'_>) -> String {
    let mut out = String::new();
    let mut last = None;
    for finding in report.findings {
        let file = finding.place.as_ref().map(|place| &place.file);
        if last != Some((&finding.object, file)) {
            let place = file.map(|file| format!("  {file}")).unwrap_or_default();
            let _ = writeln!(out, "{}{place}", finding.object);
            last = Some((&finding.object, file));
        }
        one(&mut out, finding);
    }
    let counted = |severity, one: &str| match report.count(severity) {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let workloads = match report.workloads {
        0 => "no workload".to_owned(),
        1 => "1 workload".to_owned(),
        n => format!("{n} workloads"),
    };
    let services = match report.services {
        0 => "no Service".to_owned(),
        1 => "1 Service".to_owned(),
        n => format!("{n} Services"),
    };
    let counts = match report.findings.len() {
        0 => "nothing found".to_owned(),
        _ => format!(
            "{}, {}, {}",
            counted(Severity::Error, "error"),
            counted(Severity::Warning, "warning"),
            counted(Severity::Note, "note")
        ),
    };
    let fatal = report.problems.iter().filter(|problem| problem.fatal).count();
    let incomplete = match fatal {
        0 => String::new(),
        n => format!(" (incomplete: {n} of the inputs could not be read)"),
    };
    let _ = writeln!(out, "{workloads}, {services}: {counts}{incomplete}");
    out
}

fn one(out: &mut String, finding: &Finding) {
    let severity = finding.severity.to_string();
    let container = finding.container.as_ref().map(|name| format!("  container {name}")).unwrap_or_default();
    let line = finding.place.as_ref().map(|place| format!("  line {}", place.line)).unwrap_or_default();
    let _ = writeln!(out, "  {severity:<7}  {}{container}{line}", finding.rule);
    for line in wrapped(&finding.message) {
        let _ = writeln!(out, "{INDENT}{line}");
    }
    if let Some(fix) = &finding.fix {
        let verb = if fix.replaces { "replace" } else { "add" };
        let _ = writeln!(
            out,
            "{INDENT}{verb} in {}:",
            if fix.at.0.is_empty() { "it".into() } else { fix.at.to_string() }
        );
        for line in fix.yaml.lines() {
            let _ = writeln!(out, "{INDENT}  {line}");
        }
    }
    out.push('\n');
}

fn wrapped(sentence: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
