//! Findings as SARIF 2.1.0 (OASIS), which code hosts and editors show beside the lines.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use serde_json::{Value, json};

use super::{Finding, Place, Problem, Report, Rule};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn render(report: &Report<'_>) -> Value {
    let used: Vec<Rule> =
        report.findings.iter().map(|finding| finding.rule).collect::<BTreeSet<_>>().into_iter().collect();
    let rules: Vec<Value> = used.iter().map(|rule| descriptor(*rule)).collect();
    let results: Vec<Value> = report.findings.iter().map(|finding| result(finding, &used)).collect();
    let notifications: Vec<Value> = report.problems.iter().map(notification).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "lastcall check",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            }},
            "invocations": [{
                "executionSuccessful": !report.problems.iter().any(|problem| problem.fatal),
                "toolExecutionNotifications": notifications,
            }],
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn descriptor(rule: Rule) -> Value {
    json!({
        "id": rule.id(),
        "name": format!("{rule:?}"),
        "shortDescription": { "text": rule.summary() },
        "fullDescription": { "text": rule.help() },
        "help": { "text": rule.help() },
    })
}

fn result(finding: &Finding, used: &[Rule]) -> Value {
    let mut text = format!("{}: {}", finding.object, finding.message);
    if let Some(container) = &finding.container {
        text = format!("{}, container {container}: {}", finding.object, finding.message);
    }
    let mut markdown = text.clone();
    if let Some(fix) = &finding.fix {
        let verb = if fix.replaces { "Replace" } else { "Add" };
        let _ = write!(text, "\n{verb} in {}:\n{}", fix.at, fix.yaml);
        let _ = write!(markdown, "\n\n{verb} in `{}`:\n\n```yaml\n{}```\n", fix.at, fix.yaml);
    }
    let names = [Some(finding.object.to_string()), finding.container.clone()];
    let logical = json!([{
        "fullyQualifiedName": names.into_iter().flatten().collect::<Vec<_>>().join("/"),
        "name": finding.object.name,
        "kind": "resource",
    }]);
    let mut location = json!({ "logicalLocations": logical });
    if let Some(place) = &finding.place {
        location["physicalLocation"] = physical(place);
    }
    let container = finding.container.as_deref().unwrap_or_default();
    json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": used.iter().position(|rule| *rule == finding.rule),
        "level": finding.severity,
        "message": { "text": text, "markdown": markdown },
        "locations": [location],
        // Lines move; what it is about does not.
        "partialFingerprints": {
            "object/v1": format!("{}/{}/{container}/{}", finding.rule, finding.object, finding.path),
        },
    })
}

fn notification(problem: &Problem) -> Value {
    let level = if problem.fatal { "error" } else { "warning" };
    let mut value = json!({ "level": level, "message": { "text": problem.to_string() } });
    if let Some(line) = problem.line {
        let place = Place { file: problem.input.clone(), line };
        value["locations"] = json!([{ "physicalLocation": physical(&place) }]);
    }
    value
}

fn physical(place: &Place) -> Value {
    json!({
        "artifactLocation": { "uri": uri(&place.file) },
        "region": { "startLine": place.line },
    })
}

/// A relative path as it is, from where the command ran; an absolute one as a file's URI.
fn uri(file: &str) -> String {
    let plain = file.strip_prefix("./").unwrap_or(file);
    let mut uri = if Path::new(plain).is_absolute() { "file://".to_owned() } else { String::new() };
    for byte in plain.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                uri.push(byte.into())
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}
