use serde_json::Value;

use super::{CLEAN, inventory, settings};
use crate::check::{self, Finding, Format, Inventory, Problem, command::render};

const BAD: &str = include_str!("../testdata/bad.yaml");

fn bad() -> (Inventory, Vec<Finding>) {
    let inventory = inventory(BAD);
    let findings = check::check(&inventory, &settings());
    (inventory, findings)
}

fn problems() -> Vec<Problem> {
    let problem = |input: &str, line, reason: &str, fatal| Problem {
        input: input.into(),
        line,
        reason: reason.into(),
        fatal,
    };
    vec![
        problem("my deploy/broken.yaml", Some(7), "unclosed bracket", true),
        problem("ingresses", None, "forbidden (403)", false),
    ]
}

fn document(format: Format) -> Value {
    let (inventory, findings) = bad();
    serde_json::from_str(&render(format, &inventory, &findings, &problems()).unwrap()).unwrap()
}

#[test]
fn the_page() {
    let (inventory, findings) = bad();
    insta::assert_snapshot!(render(Format::Text, &inventory, &findings, &[]).unwrap());
    let clean = super::inventory(CLEAN);
    let page = render(Format::Text, &clean, &[], &problems()).unwrap();
    assert_eq!(
        page,
        "1 workload, 1 Service: nothing found (incomplete: 1 of the inputs could not be read)\n"
    );
}

#[test]
fn the_document() {
    let (inventory, findings) = bad();
    insta::assert_snapshot!(render(Format::Json, &inventory, &findings, &problems()).unwrap());
}

#[test]
fn the_sarif_log() {
    let (inventory, findings) = bad();
    let log = render(Format::Sarif, &inventory, &findings, &problems()).unwrap();
    insta::assert_snapshot!(log.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

/// What SARIF 2.1.0 requires of the objects that are used (sections 3.13 to 3.58), and what code hosts need.
#[test]
fn the_sarif_log_is_of_the_standard() {
    let log = document(Format::Sarif);
    assert_eq!(log["version"], "2.1.0");
    keys(&log, &["$schema", "version", "runs"]);
    let run = &log["runs"][0];
    keys(run, &["tool", "invocations", "columnKind", "results"]);
    let driver = &run["tool"]["driver"];
    keys(driver, &["name", "version", "semanticVersion", "informationUri", "rules"]);
    assert!(driver["informationUri"].as_str().unwrap().starts_with("https://"));
    let rules = driver["rules"].as_array().unwrap();
    for rule in rules {
        keys(rule, &["id", "name", "shortDescription", "fullDescription", "help"]);
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(rule[text]["text"].as_str().is_some_and(|text| text.ends_with('.')), "{rule}");
        }
    }
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), bad().1.len());
    for result in results {
        keys(result, &["ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"]);
        let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[rule]["id"], result["ruleId"]);
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()), "{result}");
        keys(&result["message"], &["text", "markdown"]);
        let location = &result["locations"][0];
        keys(location, &["logicalLocations", "physicalLocation"]);
        keys(&location["logicalLocations"][0], &["fullyQualifiedName", "name", "kind"]);
        let place = &location["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "web.yaml");
        assert!(place["region"]["startLine"].as_u64().unwrap() > 0);
        let fingerprints = result["partialFingerprints"].as_object().unwrap();
        assert!(fingerprints.values().all(Value::is_string));
    }
    let fingerprints: Vec<_> =
        results.iter().map(|result| result["partialFingerprints"].to_string()).collect();
    let distinct: std::collections::BTreeSet<_> = fingerprints.iter().collect();
    assert_eq!(distinct.len(), fingerprints.len());
}

/// Exactly these.
fn keys(value: &Value, want: &[&str]) {
    let mut found: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut want = want.to_vec();
    found.sort_unstable();
    want.sort_unstable();
    assert_eq!(found, want, "{value}");
}

#[test]
fn a_files_name_becomes_a_uri() {
    let log = document(Format::Sarif);
    let invocation = &log["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let place = &invocation["toolExecutionNotifications"][0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "my%20deploy/broken.yaml");
    assert_eq!(place["region"]["startLine"], 7);
}
