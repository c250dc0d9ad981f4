//! `lastcall check`: what would break a zero-downtime rolling update, before it does.
//!
//! In: manifests, or the objects of a cluster. Out: findings, each with a stable rule, a severity, a place
//! and the lines to add. Nothing is changed anywhere.
//!
//! | file | in | out |
//! |---|---|---|
//! | `input`, `live` | files; an API server | trees of documents, what could not be read |
//! | `tree` | a document | values and their lines by path |
//! | `objects` | trees | workloads, Services, and what counts of other kinds |
//! | `facts`, `hooks`, `reach` | a workload and its Services | what rules ask for |
//! | `pod` | the same | what the agent would know of such a pod, by its own index |
//! | `rules` | those facts | findings (pure) |
//! | `text`, `json`, `sarif` | findings | a page, a document |
//! | `command` | what was asked for | the output and an exit code |

mod command;
mod facts;
mod finding;
mod hooks;
mod input;
mod json;
mod live;
mod objects;
mod pod;
mod reach;
mod rule;
mod rules;
mod sarif;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use std::collections::BTreeSet;

pub use command::{Error, Format, Plan, Source, run};
pub use finding::{Finding, Fix, ObjectName, Place, Severity};
pub use input::{Problem, read};
pub use objects::Inventory;
pub use rule::Rule;
pub use tree::{Path, Step};

/// How the input is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The port that hooks call.
    pub hook_port: u16,
    /// Namespaces that are not among the input have the injection label.
    pub injected: bool,
    /// Rules to leave out.
    pub ignore: BTreeSet<Rule>,
}

/// Everything that is found, by workload in the order of the input, the worst first.
pub fn check(inventory: &Inventory, settings: &Settings) -> Vec<Finding> {
    let mut all = Vec::new();
    for workload in &inventory.workloads {
        let case = facts::Case::new(workload, inventory, settings);
        let mut found = rules::check(&case);
        found.retain(|finding| {
            !settings.ignore.contains(&finding.rule) && !workload.ignored.contains(finding.rule.id())
        });
        found.sort_by_key(|finding| {
            let line = finding.place.as_ref().map(|place| place.line);
            (std::cmp::Reverse(finding.severity), line, finding.rule)
        });
        all.extend(found);
    }
    all
}

/// Everything that there is to print.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) findings: &'a [Finding],
    pub(crate) problems: &'a [Problem],
    pub(crate) workloads: usize,
    pub(crate) services: usize,
}

impl Report<'_> {
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}
