//! Rules as tables: what is changed in a clean example, and what is then found. Every fix is tried: with
//! its lines the finding is gone.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hold;
mod hooks;
mod input;
mod live;
mod output;
mod rollout;
mod service;

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    Finding, Inventory, Settings,
    input::parse,
    tree::{Path, Step},
};

/// A Service and a Deployment of which there is nothing to say.
pub(super) const CLEAN: &str = include_str!("../testdata/clean.yaml");

pub(super) fn settings() -> Settings {
    Settings { hook_port: 9902, injected: false, ignore: BTreeSet::new() }
}

pub(super) fn inventory(text: &str) -> Inventory {
    let mut inventory = Inventory::default();
    parse(text.as_bytes(), &Arc::from("web.yaml"), &mut inventory)
        .unwrap_or_else(|error| panic!("{error:?} in {text}"));
    inventory
}

/// The objects of the example, with changes: `spec.replicas` of the Deployment, `service:spec.type` of the
/// Service, `pod:hostNetwork` of the pod's spec, `app:ports` of its container. A value is YAML; `-` removes
/// the key. `+` appends a document.
#[derive(Clone, Debug)]
pub(super) struct Manifests(pub(super) Vec<Value>);

impl Manifests {
    pub(super) fn new(changes: &[(&str, &str)]) -> Self {
        let mut manifests = Self(vec![]);
        for document in CLEAN.split("---\n") {
            manifests.0.push(serde_saphyr::from_str(document).unwrap());
        }
        for (at, value) in changes {
            manifests.change(at, value);
        }
        manifests
    }

    fn change(&mut self, at: &str, text: &str) {
        let value = || -> Value { serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")) };
        if at == "+" {
            return self.0.push(value());
        }
        let (document, path) = match at.split_once(':') {
            None => (1, Path::of(at)),
            Some(("service", keys)) => (0, Path::of(keys)),
            Some(("pod", keys)) => (1, Path::of("spec.template.spec").down(keys)),
            Some(("app", keys)) => (1, Path::of("spec.template.spec.containers").at(0).down(keys)),
            Some(other) => panic!("{other:?}"),
        };
        let (Some(Step::Key(key)), above) = (path.0.last().cloned(), &path.0[..path.0.len() - 1]) else {
            panic!("{at}")
        };
        let parent = descend(&mut self.0[document], above).as_object_mut().unwrap();
        match text {
            "-" => drop(parent.remove(&key)),
            _ => drop(parent.insert(key, value())),
        }
    }

    pub(super) fn text(&self) -> String {
        let documents = self.0.iter().map(|document| serde_saphyr::to_string(document).unwrap());
        documents.collect::<Vec<_>>().join("---\n")
    }

    pub(super) fn findings(&self, settings: &Settings) -> Vec<Finding> {
        super::check(&inventory(&self.text()), settings)
    }

    /// With a finding's lines.
    fn mended(&self, finding: &Finding) -> Option<Self> {
        let fix = finding.fix.as_ref()?;
        // What is printed is what is meant.
        assert_eq!(
            serde_saphyr::from_str::<Value>(&fix.yaml).unwrap(),
            Value::Object(fix.set.clone()),
            "{}",
            fix.yaml
        );
        let mut mended = self.clone();
        let document = mended.0.iter_mut().find(|document| {
            document["kind"] == *finding.object.kind && document["metadata"]["name"] == *finding.object.name
        });
        let mut at = document.unwrap();
        for step in &fix.at.0 {
            at = match step {
                Step::Key(key) => at.get_mut(key),
                Step::Index(index) => at.get_mut(index),
            }
            .unwrap_or_else(|| panic!("{finding:?}"));
        }
        let mapping = at.as_object_mut().unwrap();
        let there = fix.set.keys().any(|key| mapping.get(key).is_some_and(|value| !value.is_null()));
        assert_eq!(there, fix.replaces, "{finding:?}");
        mapping.extend(fix.set.clone());
        Some(mended)
    }
}

/// Down to a mapping, which is made where it is missing.
fn descend<'v>(mut value: &'v mut Value, path: &[Step]) -> &'v mut Value {
    for step in path {
        value = match step {
            Step::Index(index) => &mut value[*index],
            Step::Key(key) => {
                if value[key.as_str()].is_null() {
                    value[key.as_str()] = Value::Object(Default::default());
                }
                &mut value[key.as_str()]
            }
        };
    }
    value
}

/// A finding in short: `error no-hook app`.
pub(super) fn short(finding: &Finding) -> String {
    let container = finding.container.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    format!("{} {}{container}", finding.severity, finding.rule)
}

pub(super) type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

/// Each row's changes give exactly these findings, and each fix does away with its own.
pub(super) fn table(rows: &[Row<'_>]) {
    table_with(&settings(), rows);
}

pub(super) fn table_with(settings: &Settings, rows: &[Row<'_>]) {
    for (changes, want) in rows {
        let manifests = Manifests::new(changes);
        let findings = manifests.findings(settings);
        let mut found: Vec<String> = findings.iter().map(short).collect();
        let mut want: Vec<String> = want.iter().map(|&finding| finding.to_owned()).collect();
        found.sort();
        want.sort();
        assert_eq!(found, want, "{changes:?}\n{}\n{findings:?}", manifests.text());
        for finding in &findings {
            let Some(mended) = manifests.mended(finding) else { continue };
            let still = mended.findings(settings);
            let same = |other: &Finding| {
                (other.rule, &other.container, &other.object)
                    == (finding.rule, &finding.container, &finding.object)
            };
            assert!(
                !still.iter().any(same),
                "{changes:?}: still {} with\n{}\n{}",
                short(finding),
                finding.fix.as_ref().unwrap().yaml,
                mended.text()
            );
        }
    }
}

#[test]
fn the_example_is_clean() {
    table(&[(&[], &[])]);
    assert_eq!(super::check(&inventory(CLEAN), &settings()), []);
}
