//! The dashboard and the alerts in `deploy/monitoring` ask for metrics that there are.

use super::catalogue::{self, Kind};

const DASHBOARD: &str = include_str!("../../../deploy/monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../../deploy/monitoring/alerts.yaml");

/// Every name that looks like one of ours.
fn named(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.starts_with("lastcall_")).collect()
}

/// Whether the agent exposes a series of this name.
fn is_exposed(series: &str) -> bool {
    catalogue::ALL.iter().any(|metric| match metric.kind {
        Kind::Histogram(_) => {
            let part = series.strip_prefix(metric.name);
            part.is_some_and(|p| ["_bucket", "_sum", "_count"].contains(&p))
        }
        _ => series == metric.name,
    })
}

#[test]
fn every_series_exists() {
    for (file, text) in [("dashboard.json", DASHBOARD), ("alerts.yaml", ALERTS)] {
        let series = named(text);
        assert!(series.len() > 5, "{file} asks for next to nothing");
        for name in series {
            assert!(is_exposed(name), "{file} asks for {name}, which the agent does not expose");
        }
    }
}

/// A regular expression that names none would never match, and nobody would notice.
#[test]
fn every_outcome_that_is_asked_for_exists() {
    for (file, text) in [("dashboard.json", DASHBOARD), ("alerts.yaml", ALERTS)] {
        for asked in text.split("outcome=~").skip(1) {
            let value = asked.trim_start_matches(['\\', '"']).split(['\\', '"']).next().unwrap_or_default();
            for outcome in value.split('|') {
                assert!(super::labels::Outcome::ALL.contains(&outcome), "{file}: no outcome {outcome:?}");
            }
        }
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_every_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(
            targets.iter().all(|t| t["expr"].as_str().is_some_and(|e| e.contains("lastcall_"))),
            "{panel}"
        );
    }
}
