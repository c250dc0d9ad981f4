//! The alerts and the dashboard, judged by Prometheus' own promtool.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::go_tools;
use crate::{child, workspace::Workspace};

const FOLDER: &str = "deploy/monitoring";

/// Fails where an alert does not fire when it should, or a panel's query is none.
pub(crate) fn judge(workspace: &Workspace) -> Result<()> {
    let promtool = go_tools::promtool(workspace)?;
    let folder = workspace.root.join(FOLDER);
    // As a rule each query is judged like an alert's.
    let rules = workspace.target.join("deploy/dashboard-rules.json");
    let queries = queries(&folder.join("dashboard.json"))?;
    ensure!(!queries.is_empty(), "the dashboard asks for nothing");
    fs::create_dir_all(rules.parent().context("a file has a folder")?)?;
    let group = json!({ "groups": [{ "name": "dashboard", "rules": queries }] });
    fs::write(&rules, group.to_string()).with_context(|| format!("cannot write {}", rules.display()))?;
    let limit = Duration::from_secs(60);
    let mut check = Command::new(&promtool);
    child::run(check.args(["check", "rules"]).arg(folder.join("alerts.yaml")).arg(&rules), limit)?;
    let mut test = Command::new(&promtool);
    child::run(test.args(["test", "rules"]).arg(folder.join("alerts-test.yaml")), limit)?;
    println!("the alerts fire when they should, and {} queries of the dashboard can be asked", queries.len());
    Ok(())
}

/// The panels' queries, as rules.
fn queries(dashboard: &Path) -> Result<Vec<Value>> {
    let text = fs::read(dashboard).with_context(|| format!("cannot read {}", dashboard.display()))?;
    let dashboard: Value = serde_json::from_slice(&text)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.filter_map(|target| target["expr"].as_str()).enumerate();
    // Grafana's own variable, as Grafana fills it in.
    let rule = |(number, query): (usize, &str)| json!({ "record": format!("dashboard:query{number}"), "expr": query.replace("$__rate_interval", "1m0s") });
    Ok(queries.map(rule).collect())
}
