//! Whether the hook says what its author meant.

use serde_json::json;

use super::{Case, Draft, Finding, Member, Rule, Severity};
use crate::{
    check::hooks::Hook,
    contract::{
        Contract,
        parameters::{self, Warning},
    },
};

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    for member in &case.members {
        let Hook::Lastcall { target, injected: false } = &member.hook else { continue };
        let (path, query) = parameters::split(target);
        let (_, warnings) = parameters::read(query, &Contract::default());
        if !warnings.is_empty() {
            misread(case, member, path, query, &warnings, found);
        }
        scheme(case, member, found);
        if !case.host_network && host_of(member).is_none() && path.trim_end_matches('/') != "/drain" {
            found.push(case.finding(Draft {
                rule: Rule::HookPath,
                severity: Severity::Warning,
                member: Some(member),
                path: member.path.down("lifecycle.preStop.httpGet.path"),
                message: format!(
                    "{path} is taken for /drain: the hook's own pod drains, whatever the path names"
                ),
                fix: Some((member.path.down("lifecycle.preStop.httpGet.path"), json!(join("/drain", query)))),
            }));
        }
    }
    // The hook's port is the pod's own only where the call goes to the pod's address.
    let by_address = |member: &&Member<'_>| member.hook.is_lastcall() && host_of(member).is_none();
    if case.hook_port_taken
        && !case.host_network
        && let Some(member) = case.members.iter().find(by_address)
    {
        taken(case, member, found);
    }
}

/// `host` of the hook, where it says one.
pub(super) fn host_of<'a>(member: &'a Member<'_>) -> Option<&'a str> {
    let get = member.container.lifecycle.as_ref()?.pre_stop.as_ref()?.http_get.as_ref()?;
    get.host.as_deref().filter(|host| !host.is_empty())
}

pub(super) fn join(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn misread(
    case: &Case<'_>,
    member: &Member<'_>,
    path: &str,
    query: &str,
    warnings: &[Warning],
    found: &mut Vec<Finding>,
) {
    // What is right by itself stays; a parameter given twice goes, since nobody knows which was meant.
    let name = |part: &str| part.split('=').next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    let good = parts.iter().filter(|part| {
        let twice = parts.iter().filter(|other| name(other) == name(part)).count() > 1;
        !twice && parameters::read(part, &Contract::default()).1.is_empty()
    });
    let good: Vec<&str> = good.copied().collect();
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let at = member.path.down("lifecycle.preStop.httpGet.path");
    found.push(case.finding(Draft {
        rule: Rule::HookParameters,
        severity: Severity::Error,
        member: Some(member),
        message: said.join("; "),
        fix: Some((at.clone(), json!(join(path, &good.join("&"))))),
        path: at,
    }));
}

fn scheme(case: &Case<'_>, member: &Member<'_>, found: &mut Vec<Finding>) {
    let lifecycle = member.container.lifecycle.as_ref();
    let get = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()?.http_get.as_ref());
    if !get.and_then(|get| get.scheme.as_deref()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return;
    }
    let at = member.path.down("lifecycle.preStop.httpGet.scheme");
    found.push(
        case.finding(Draft {
            rule: Rule::HookScheme,
            severity: Severity::Error,
            member: Some(member),
            message:
                "the agent answers plain HTTP: the kubelet's TLS handshake fails, and SIGTERM comes at once"
                    .into(),
            fix: Some((at.clone(), json!("HTTP"))),
            path: at,
        }),
    );
}

fn taken(case: &Case<'_>, member: &Member<'_>, found: &mut Vec<Finding>) {
    let port = i32::from(case.settings.hook_port);
    let owner = case
        .members
        .iter()
        .find(|member| member.container.ports.iter().flatten().any(|p| p.container_port == port));
    let fix = owner.map(|owner| {
        let others = owner.container.ports.iter().flatten().filter(|p| p.container_port != port);
        (owner.path.key("ports"), json!(others.collect::<Vec<_>>()))
    });
    let at = owner.map_or_else(|| member.path.clone(), |owner| owner.path.key("ports"));
    found.push(case.finding(Draft {
        rule: Rule::HookPortTaken,
        severity: Severity::Error,
        member: Some(owner.unwrap_or(member)),
        path: at,
        message: format!(
            "port {port} is the pod's own by its containerPorts or probes, so the hook's call goes to the app \
             and not to the agent. The hook needs no containerPort; an app that really listens there needs \
             agents with another --hook-port"
        ),
        fix,
    }));
}
