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

use serde_json::{Value, json};

use super::{
    facts::{Case, Member},
    finding::{Finding, Fix, Severity},
    objects::{Origin, WorkloadKind, namespace_of},
    rule::Rule,
    tree::Path,
};

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

    /// What a container's preStop should be, with a path's parameters.
    fn hook(&self, query: &str) -> Value {
        let port = self.settings.hook_port;
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        if !self.host_network {
            return json!({ "httpGet": { "path": format!("/drain{query}"), "port": port } });
        }
        let path = format!("{}{query}", self.host_path());
        json!({ "httpGet": { "host": "127.0.0.1", "path": path, "port": port } })
    }

    /// The path that names the pod, or the workload whose pods have names of their own.
    fn host_path(&self) -> String {
        let name = &self.workload.origin.name;
        let namespace = namespace_of(name);
        match self.workload.kind {
            WorkloadKind::Pod => format!("/drain/{namespace}/{}", name.name),
            _ => format!("/drain/{namespace}/{}/{}", name.kind.to_ascii_lowercase(), name.name),
        }
    }
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
