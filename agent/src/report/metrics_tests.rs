//! The catalogue's rules, and that what is exposed is the catalogue.

use std::{collections::BTreeMap, time::Duration};

use super::{
    catalogue::{self, ALL, Kind},
    labels::{BadRequest, Fallback, Labels, OTHER, Outcome},
    metrics::{MAX_WORKLOADS, Metrics},
    scrape::{ApiReading, ConnectionCounts, HookCalls, Reading},
};
use crate::drain::Announced;

fn shop() -> Labels {
    Labels { namespace: "shop".into(), workload: "Deployment/web".into() }
}

/// One of everything, so that each family has a series.
fn used() -> Metrics {
    let metrics = Metrics::new();
    metrics.read_from(|| Reading {
        drains_in_progress: 2,
        hooks_held: 3,
        connections: ConnectionCounts { in_flight: 4, idle: 5, closing: 6, vanished: 7, doubt: 8 },
        table_entries: 9,
        table_capacity: 10,
        edge_events: 11,
        edge_events_lost: 12,
        hook_calls: HookCalls {
            agent: 13,
            nobody_home: 14,
            passed_through: 15,
            not_the_kubelet: 16,
            no_name: 17,
        },
        announcement_refusals: vec![("upgraded", 19)],
        manifest_problems: 18,
        api: Some(ApiReading { reachable: false, requests: 20, failures: 21 }),
        ebpf_available: true,
    });
    metrics.drain_ended(&shop(), Outcome::Drained, Duration::from_millis(4200));
    metrics.hook_answered(Duration::from_secs(4));
    metrics.settled(Some(2.5), Duration::from_secs(3));
    metrics.propagated(Duration::from_millis(950));
    metrics.late_connections(&shop(), 2);
    metrics.cut_connections(&shop(), 1);
    metrics.corrected(3);
    let left_after = [Duration::from_millis(250), Duration::ZERO];
    metrics.announced(&Announced { told: [7, 2], left: [5, 1], left_after, stayed: 1 });
    metrics.fell_back(Fallback::TableFull);
    metrics.bad_request(BadRequest::Method);
    metrics
}

/// `# TYPE` and `# HELP` lines of a scrape, by name.
fn headers(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            found.entry(name).or_insert(("", "")).0 = kind;
        }
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            found.entry(name).or_insert(("", "")).1 = help;
        }
    }
    found
}

#[test]
fn what_is_exposed_is_the_catalogue() {
    let text = used().text();
    let exposed = headers(&text);
    let catalogue: BTreeMap<_, _> = ALL.iter().map(|m| (m.name, (m.kind.as_str(), m.help))).collect();
    assert_eq!(exposed, catalogue);
}

#[test]
fn labels_are_the_catalogue_s() {
    let text = used().text();
    for metric in ALL {
        let sample = text
            .lines()
            .find(|l| {
                l.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
                    && !l.starts_with(&format!("{}_lost", metric.name))
            })
            .unwrap_or_else(|| panic!("{} has a sample", metric.name));
        let names: Vec<_> = sample
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| labels.split(',').filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect())
            .unwrap_or_default();
        let mut expected: Vec<_> = metric.labels.iter().map(|l| l.name).collect();
        expected.sort_unstable();
        let mut names: Vec<&str> = names.into_iter().filter(|n| *n != "le").collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{sample}");
    }
}

#[test]
fn names_follow_prometheus() {
    for metric in ALL {
        let name = metric.name;
        assert!(name.starts_with("lastcall_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}: _total is for counters");
        for scaled in ["millis", "_ms", "micro", "nanos", "minutes", "_kb", "kilo", "percent"] {
            assert!(!name.contains(scaled), "{name}: base units only");
        }
        if metric.unit == "seconds" {
            assert!(name.trim_end_matches("_total").ends_with("_seconds"), "{name} names its unit");
        }
        assert!(!name.ends_with("_count") && !name.ends_with("_sum") && !name.ends_with("_bucket"), "{name}");
        assert!(metric.help.ends_with('.') && metric.help.len() < 160, "{name}: {}", metric.help.len());
        assert!(!metric.help.contains('|'), "{name}: the table's own character");
    }
}

#[test]
fn series_can_be_counted_beforehand() {
    for metric in ALL {
        let open: Vec<_> = metric.labels.iter().filter(|l| l.values.is_empty()).map(|l| l.name).collect();
        assert!(
            open.is_empty() || open == ["namespace", "workload"] || open == ["version"],
            "{}: {open:?}",
            metric.name
        );
        for label in metric.labels {
            assert!(
                !["pod", "peer", "client", "address", "ip", "uid"].contains(&label.name),
                "{}",
                metric.name
            );
        }
        if let Kind::Histogram(bounds) = metric.kind {
            assert!(bounds.is_sorted() && bounds.len() <= 16, "{}", metric.name);
            assert!(open.is_empty(), "{}: a histogram for each workload is too many series", metric.name);
        }
    }
}

#[test]
fn what_is_counted_is_shown() {
    let text = used().text();
    for line in [
        "lastcall_drains_in_progress 2",
        "lastcall_hooks_held 3",
        "lastcall_connections{state=\"in_flight\"} 4",
        "lastcall_connections{state=\"idle\"} 5",
        "lastcall_connections{state=\"closing\"} 6",
        "lastcall_connections{state=\"vanished\"} 7",
        "lastcall_connections{state=\"doubt\"} 8",
        "lastcall_table_entries 9",
        "lastcall_table_capacity 10",
        "lastcall_edge_events_total 11",
        "lastcall_edge_events_lost_total 12",
        "lastcall_hook_calls_total{kind=\"agent\"} 13",
        "lastcall_agent_absent_sleeps_total 14",
        "lastcall_hook_calls_total{kind=\"passed_through\"} 15",
        "lastcall_hook_calls_total{kind=\"not_the_kubelet\"} 16",
        "lastcall_hook_calls_total{kind=\"no_name\"} 17",
        "lastcall_manifest_problems 18",
        "lastcall_api_reachable 0",
        "lastcall_api_requests_total 20",
        "lastcall_api_failures_total 21",
        "lastcall_ebpf_available 1",
        "lastcall_drains_total{namespace=\"shop\",outcome=\"drained\",workload=\"Deployment/web\"} 1",
        "lastcall_drain_duration_seconds_sum{outcome=\"drained\"} 4.2",
        "lastcall_drain_duration_seconds_bucket{outcome=\"drained\",le=\"5\"} 1",
        "lastcall_drain_duration_seconds_bucket{outcome=\"drained\",le=\"3\"} 0",
        "lastcall_hook_wait_seconds_sum 4",
        "lastcall_openings_per_second_sum 2.5",
        "lastcall_settle_seconds_sum 3",
        "lastcall_propagation_seconds_sum 0.95",
        "lastcall_late_connections_total{namespace=\"shop\",workload=\"Deployment/web\"} 2",
        "lastcall_cut_connections_total{namespace=\"shop\",workload=\"Deployment/web\"} 1",
        "lastcall_reconcile_corrections_total 3",
        "lastcall_announcements_total{protocol=\"http1\"} 7",
        "lastcall_announcements_total{protocol=\"http2\"} 2",
        "lastcall_announced_left_total{protocol=\"http1\"} 5",
        "lastcall_announced_leaving_seconds_total{protocol=\"http1\"} 0.25",
        "lastcall_announced_stayed_total 1",
        "lastcall_announcement_refusals_total{reason=\"upgraded\"} 19",
        "lastcall_announcement_refusals_total{reason=\"no_boundary\"} 0",
        "lastcall_fallbacks_total{reason=\"table_full\"} 1",
        "lastcall_bad_requests_total{reason=\"method\"} 1",
        concat!("lastcall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn a_closed_set_starts_at_zero() {
    let text = Metrics::new().text();
    for reason in Fallback::ALL {
        let line = format!("lastcall_fallbacks_total{{reason=\"{reason}\"}} 0");
        assert!(text.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn workloads_beyond_the_bound_are_other() {
    let metrics = Metrics::new();
    for n in 0..MAX_WORKLOADS + 50 {
        let job = Labels { namespace: "batch".into(), workload: format!("Job/run-{n}") };
        metrics.cut_connections(&job, 1);
    }
    // A workload that has a series keeps it.
    metrics.cut_connections(&Labels { namespace: "batch".into(), workload: "Job/run-0".into() }, 1);
    let text = metrics.text();
    let series: Vec<_> = text.lines().filter(|l| l.starts_with("lastcall_cut_connections_total{")).collect();
    assert_eq!(series.len(), MAX_WORKLOADS + 1);
    let other = format!("lastcall_cut_connections_total{{namespace=\"{OTHER}\",workload=\"{OTHER}\"}} 50");
    assert!(series.contains(&other.as_str()), "{other}");
    assert!(series.iter().any(|l| l.contains("\"Job/run-0\"") && l.ends_with(" 2")));
}

#[test]
fn a_second_snapshot_changes_nothing() {
    let metrics = used();
    metrics.read_from(Reading::default);
    assert!(metrics.text().contains("lastcall_hooks_held 3\n"));
}

#[test]
fn the_readme_s_table() {
    let table = catalogue::markdown();
    assert!(table.lines().all(|row| row.matches('|').count() == 5), "{table}");
    let readme = include_str!("../../../README.md");
    assert!(
        readme.contains(&table),
        "README.md's table of metrics is not the catalogue's, which is:\n\n{table}"
    );
}
