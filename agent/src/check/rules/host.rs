//! `host` in a hook: where it has to be, and where it must not.

use serde_json::{Value, json};

use super::{
    Case, Draft, Finding, Member, Rule, Severity,
    path::{host_of, join},
    taken,
};
use crate::{
    check::{
        hooks::Hook,
        objects::{WorkloadKind, namespace_of},
    },
    contract::parameters,
};

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    let refused = refused(case);
    for member in &case.members {
        let Hook::Lastcall { target, injected: false } = &member.hook else { continue };
        let host = host_of(member);
        match (case.host_network, host) {
            (true, None) => without(case, member, target, found),
            (true, Some(_)) => named(case, member, target, found),
            (false, Some(_)) if refused.is_none() => not_needed(case, member, target, found),
            _ => {}
        }
        if let (Some(level), Some(host)) = (&refused, host) {
            under_pod_security(case, member, target, level, host, found);
        }
    }
}

/// The whole call as it should be, with the parameters that it has.
fn call(case: &Case<'_>, target: &str) -> Option<Value> {
    let query = parameters::split(target).1;
    Some(case.hook(query)?["httpGet"].clone())
}

/// What to say where there is nothing to write.
fn no_form(case: &Case<'_>) -> &'static str {
    match case.host_path() {
        Some(_) => "",
        None => ". This version of the agent takes no path for pods whose names a controller makes up",
    }
}

fn without(case: &Case<'_>, member: &Member<'_>, target: &str, found: &mut Vec<Finding>) {
    let at = member.path.down("lifecycle.preStop.httpGet");
    let guess = match (&case.workload.origin.name.namespace, case.host_path()) {
        (_, None) => no_form(case),
        (Some(_), _) => "",
        (None, _) => ". The manifest says no namespace: write the one it is applied to for `default`",
    };
    found.push(case.finding(Draft {
        rule: Rule::HostNetworkWithoutHost,
        severity: Severity::Error,
        member: Some(member),
        message: format!(
            "a hostNetwork pod has the node's address, and the call to it fails: on 127.0.0.1 the agent \
                 takes it, with a path that says whose it is{guess}"
        ),
        fix: call(case, target).map(|call| (at.clone(), call)),
        path: at,
    }));
}

/// Whether the path names this pod or this workload.
fn named(case: &Case<'_>, member: &Member<'_>, target: &str, found: &mut Vec<Finding>) {
    let (path, query) = parameters::split(target);
    let name = &case.workload.origin.name;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    // A manifest without a namespace may be applied to any.
    let ours = |namespace: &str| name.namespace.is_none() || namespace == namespace_of(name);
    let stateful = case.workload.kind == WorkloadKind::StatefulSet;
    let numbered = |pod: &str| {
        let number = pod.strip_prefix(&name.name).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let wrong = match parts[..] {
        ["drain", namespace, pod] if case.workload.kind == WorkloadKind::Pod => {
            !ours(namespace) || pod != name.name
        }
        // The only pod of a StatefulSet has a name that its template can know.
        ["drain", namespace, pod] if stateful && case.replicas() == Some(1) => {
            !ours(namespace) || !numbered(pod)
        }
        ["drain", namespace, kind, workload] => {
            !ours(namespace) || !kind.eq_ignore_ascii_case(&name.kind) || workload != name.name
        }
        _ => true,
    };
    if !wrong && taken(path) {
        return;
    }
    let at = member.path.down("lifecycle.preStop.httpGet.path");
    found.push(case.finding(Draft {
        rule: Rule::HookPath,
        severity: Severity::Error,
        member: Some(member),
        message: format!(
            "on 127.0.0.1 the path has to say whose call it is, and {path} does not name {name}: the call is \
             refused, or another's, and SIGTERM comes at once{}",
            no_form(case)
        ),
        fix: case.host_path().map(|right| (at.clone(), json!(join(&right, query)))),
        path: at,
    }));
}

fn not_needed(case: &Case<'_>, member: &Member<'_>, target: &str, found: &mut Vec<Finding>) {
    let (severity, message) = match taken(parameters::split(target).0) {
        false => (
            Severity::Error,
            "on 127.0.0.1 the path has to say whose call it is, and the agent refuses this one: leave `host` \
             out, and the kubelet's call says it",
        ),
        true => (
            Severity::Warning,
            "a pod with a network of its own needs no `host`, and Pod Security baseline refuses it",
        ),
    };
    let at = member.path.down("lifecycle.preStop.httpGet");
    found.push(case.finding(Draft {
        rule: Rule::HostNotNeeded,
        severity,
        member: Some(member),
        path: at.key("host"),
        message: message.into(),
        fix: call(case, target).map(|call| (at, call)),
    }));
}

fn under_pod_security(
    case: &Case<'_>,
    member: &Member<'_>,
    target: &str,
    level: &str,
    host: &str,
    found: &mut Vec<Finding>,
) {
    let at = member.path.down("lifecycle.preStop.httpGet");
    let also = if case.host_network { ", as it does hostNetwork itself" } else { ": leave it out" };
    found.push(case.finding(Draft {
        rule: Rule::HostUnderPodSecurity,
        severity: Severity::Error,
        member: Some(member),
        path: at.key("host"),
        message: format!(
            "the namespace enforces Pod Security {level}, which refuses `host: {host}` from Kubernetes 1.34 on{also}"
        ),
        fix: call(case, target).filter(|_| !case.host_network).map(|call| (at, call)),
    }));
}

/// The level that refuses `host`, where the namespace is among the input. Exception: a level pinned to a
/// version before 1.34.
fn refused(case: &Case<'_>) -> Option<String> {
    let labels = case.inventory.namespaces.get(namespace_of(&case.workload.origin.name))?;
    let level = labels.get("pod-security.kubernetes.io/enforce")?;
    let version = labels.get("pod-security.kubernetes.io/enforce-version").map(String::as_str);
    let minor = version.and_then(|version| version.strip_prefix("v1.")?.parse::<u32>().ok());
    let counts = matches!(level.as_str(), "baseline" | "restricted") && minor.is_none_or(|minor| minor >= 34);
    counts.then(|| level.clone())
}
