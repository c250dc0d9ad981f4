//! Findings for programs. Fields are added, never renamed; a change of meaning is another `version`.

use serde_json::{Value, json};

use super::{Finding, Report, Severity};

const VERSION: u32 = 1;

pub(super) fn render(report: &Report<'_>) -> Value {
    json!({
        "version": VERSION,
        "summary": {
            "workloads": report.workloads,
            "services": report.services,
            "errors": report.count(Severity::Error),
            "warnings": report.count(Severity::Warning),
            "notes": report.count(Severity::Note),
        },
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "problems": report.problems,
    })
}

fn finding(finding: &Finding) -> Value {
    let mut value = json!({
        "rule": finding.rule.id(),
        "severity": finding.severity,
        "object": finding.object,
        "path": finding.path.to_string(),
        "message": finding.message,
    });
    if let Some(container) = &finding.container {
        value["container"] = json!(container);
    }
    if let Some(place) = &finding.place {
        value["file"] = json!(place.file);
        value["line"] = json!(place.line);
    }
    if let Some(fix) = &finding.fix {
        value["fix"] = json!({
            "at": fix.at.to_string(),
            "set": fix.set,
            "yaml": fix.yaml,
            "replaces": fix.replaces,
        });
    }
    value
}
