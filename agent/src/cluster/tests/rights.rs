//! The ClusterRole of `deploy/` is the table of rights.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::cluster::api::rights::RIGHTS;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/lastcall/templates/rbac.yaml");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// The rules of the template, without its conditions: all that it can ever give.
fn rules(template: &str) -> Vec<Rule> {
    let role = template.split("---").find(|document| document.contains("kind: ClusterRole\n")).unwrap();
    let (_, rules) = role.split_once("rules:\n").unwrap();
    let plain: Vec<&str> = rules.lines().filter(|line| !line.trim_start().starts_with("{{")).collect();
    serde_saphyr::from_str(&plain.join("\n")).unwrap()
}

#[test]
fn the_chart_gives_what_the_agent_asks_for_and_no_more() {
    let rules = rules(&std::fs::read_to_string(CHART).unwrap());
    let given: BTreeSet<String> = rules
        .iter()
        // A right to OpenShift's own constraint, not to its API.
        .filter(|rule| rule.api_groups != ["security.openshift.io"])
        .flat_map(|rule| {
            assert_eq!((rule.api_groups.len(), rule.resources.len()), (1, 1), "one resource a rule");
            rule.verbs.iter().map(|verb| format!("{verb} {}/{}", rule.api_groups[0], rule.resources[0]))
        })
        .collect();
    let asked: BTreeSet<String> = RIGHTS
        .iter()
        .flat_map(|right| right.verbs.iter().map(|verb| format!("{verb} {}/{}", right.group, right.resource)))
        .collect();
    assert_eq!(given, asked);
}
