//! The rules, by what they are about. Pure: a [`Case`] in, findings out.
//!
//! A rule that cries wolf is switched off for good: each names its exceptions where it makes them, and is
//! an error only where what it says is certain from the manifests alone.

mod grace;
mod hold;
mod host;
mod last_call;
mod path;
mod rollout;
mod service;

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{
    facts::{Case, Member},
    finding::{Finding, Fix, Severity},
    objects::{Origin, WorkloadKind, namespace_of},
    rule::Rule,
    tree::Path,
};
use crate::hook::identity::{Asked, identify};

/// Everything that is found in one workload and the Services before it.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    rollout::check(case, &mut found);
    hold::check(case, &mut found);
    path::check(case, &mut found);
    host::check(case, &mut found);
    grace::check(case, &mut found);
    service::check(case, &mut found);
    last_call::check(case, &mut found);
    found
}

/// A finding in the making.
struct Draft<'a> {
    rule: Rule,
    severity: Severity,
    member: Option<&'a Member<'a>>,
    path: Path,
    message: String,
    /// Where, and what to set there.
    fix: Option<(Path, Value)>,
}

impl Case<'_> {
    fn finding(&self, draft: Draft<'_>) -> Finding {
        Draft::of(draft, &self.workload.origin)
    }

    fn pod_path(&self, keys: &str) -> Path {
        self.workload.pod_at.down(keys)
    }

    /// What a container's preStop should be, with a path's parameters. `None`: the agent has no form for it.
    fn hook(&self, query: &str) -> Option<Value> {
        let port = self.settings.hook_port;
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        if !self.host_network {
            return Some(json!({ "httpGet": { "path": format!("/drain{query}"), "port": port } }));
        }
        let path = format!("{}{query}", self.host_path()?);
        Some(json!({ "httpGet": { "host": "127.0.0.1", "path": path, "port": port } }))
    }

    /// The path that names the pod, or the workload whose pods have names of their own; if the agent takes it.
    fn host_path(&self) -> Option<String> {
        let name = &self.workload.origin.name;
        let namespace = namespace_of(name);
        let path = match self.workload.kind {
            WorkloadKind::Pod => format!("/drain/{namespace}/{}", name.name),
            _ => format!("/drain/{namespace}/{}/{}", name.kind.to_ascii_lowercase(), name.name),
        };
        taken(&path).then_some(path)
    }
}

/// Whether the agent takes a call to this path on the node's loopback. Its own parser says so, so that
/// nothing is recommended which it refuses.
pub(super) fn taken(path: &str) -> bool {
    let identity = identify(Ipv4Addr::LOCALHOST.into(), path, None, |_| None);
    !matches!(identity.asked, Asked::Refused { .. })
}

impl Draft<'_> {
    fn of(draft: Draft<'_>, origin: &Origin) -> Finding {
        Finding {
            rule: draft.rule,
            severity: draft.severity,
            object: origin.name.clone(),
            container: draft.member.map(|member| member.container.name.clone()),
            place: origin.place(&draft.path),
            path: draft.path,
            message: draft.message,
            fix: draft.fix.map(|(path, value)| Fix::new(origin, &path, value)),
        }
    }
}
