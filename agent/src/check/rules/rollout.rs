//! Whether a rollout always leaves somebody who serves.

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::{Case, Draft, Finding, Rule, Severity};
use crate::check::{
    facts::Served,
    objects::{Rollout, WorkloadKind},
    tree::Path,
};

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    if case.served == Served::No || !case.workload.kind.rolls() {
        return;
    }
    readiness(case, found);
    match &case.workload.rollout {
        Rollout::Recreate => recreate(case, found),
        Rollout::Rolling { unavailable, surge } => {
            last_pod(case, unavailable.as_ref(), surge.as_ref(), found)
        }
        Rollout::ByHand => {}
    }
}

/// An error where a Service is known to lead to the container.
fn severity(case: &Case<'_>) -> Severity {
    if case.served == Served::ByService { Severity::Error } else { Severity::Warning }
}

/// Exceptions: a startup probe keeps the pod from being ready as well; where it cannot be told which
/// container serves, any container's probe will do.
fn readiness(case: &Case<'_>, found: &mut Vec<Finding>) {
    let gated = |c: &Container| c.readiness_probe.is_some() || c.startup_probe.is_some();
    let serving: Vec<_> = case.members.iter().filter(|member| member.serves).collect();
    let declared = serving.iter().any(|member| member.container.ports.iter().flatten().next().is_some());
    if !declared && case.members.iter().any(|member| gated(member.container)) {
        return;
    }
    for member in serving.into_iter().filter(|member| !gated(member.container)) {
        found.push(
            case.finding(Draft {
                rule: Rule::NoReadinessProbe,
                severity: severity(case),
                member: Some(member),
                path: member.path.clone(),
                message:
                    "no readiness probe: a new pod counts as ready before it can serve, and the rollout goes \
                      on to stop an old one. Probe what answers only when the app can serve"
                        .into(),
                fix: probe(member.container, case).map(|probe| (member.path.key("readinessProbe"), probe)),
            }),
        );
    }
}

/// A probe that is valid as it stands: of the first TCP port that is declared, or that a Service leads to.
fn probe(container: &Container, case: &Case<'_>) -> Option<Value> {
    let declared = container.ports.iter().flatten();
    let tcp = |port: &&ContainerPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let first = declared.clone().find(tcp);
    let (port, name) = match first {
        Some(ContainerPort { name: Some(name), .. }) => (json!(name), name.as_str()),
        Some(port) => (json!(port.container_port), ""),
        None => (json!(case.ports.first()?.port), ""),
    };
    let period = 5;
    Some(if name.starts_with("http") && !name.starts_with("http2") {
        let mut get = json!({ "path": "/", "port": port });
        if name.starts_with("https") {
            get["scheme"] = json!("HTTPS");
        }
        json!({ "httpGet": get, "periodSeconds": period })
    } else {
        json!({ "tcpSocket": { "port": port }, "periodSeconds": period })
    })
}

/// Exception: a volume of the pod's own often can be mounted by one pod only; then it is a warning.
fn recreate(case: &Case<'_>, found: &mut Vec<Finding>) {
    let mut volumes = case.workload.pod.volumes.iter().flatten();
    let claims = volumes.any(|volume| volume.persistent_volume_claim.is_some());
    let (severity, why) = match claims {
        true => (Severity::Warning, " (a volume that several pods can mount would allow RollingUpdate)"),
        false => (severity(case), ""),
    };
    found.push(case.finding(Draft {
        rule: Rule::Recreate,
        severity,
        member: None,
        path: Path::of("spec.strategy"),
        message: format!(
            "strategy Recreate: all old pods stop before the first new one starts, and nothing serves in \
             between{why}"
        ),
        fix: (!claims).then(|| {
            let rolling = json!({ "maxSurge": 1, "maxUnavailable": 0 });
            (Path::of("spec.strategy"), json!({ "type": "RollingUpdate", "rollingUpdate": rolling }))
        }),
    }));
}

fn last_pod(
    case: &Case<'_>,
    unavailable: Option<&IntOrString>,
    surge: Option<&IntOrString>,
    found: &mut Vec<Finding>,
) {
    let kind = case.workload.kind;
    let replicas = case.replicas();
    // What the API server fills in; scaled to zero, there is nothing to lose.
    let count = replicas.unwrap_or(1);
    if count <= 0 {
        return;
    }
    let (message, path, value) = match kind {
        WorkloadKind::Deployment => {
            let quarter = IntOrString::String("25%".into());
            let mut gone = absolute(unavailable.unwrap_or(&quarter), count, false);
            let extra = absolute(surge.unwrap_or(&quarter), count, true);
            if gone == 0 && extra == 0 {
                // The controller resolves a rollout that could not begin (deployment/util `ResolveFenceposts`).
                gone = 1;
            }
            if gone < count {
                return;
            }
            let pods = if count == 1 { "the only pod".to_owned() } else { format!("all {count} pods") };
            let path = Path::of("spec.strategy");
            let rolling = json!({ "maxSurge": 1, "maxUnavailable": 0 });
            let value = json!({ "type": "RollingUpdate", "rollingUpdate": rolling });
            (format!("the rollout may stop {pods} before a new one serves"), path, value)
        }
        // A StatefulSet's pod is deleted before its successor is made, and its name is its identity.
        WorkloadKind::StatefulSet if count == 1 => (
            "one replica: each update stops it before its successor starts".to_owned(),
            Path::of("spec.replicas"),
            json!(2),
        ),
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
            let all = match unavailable {
                Some(IntOrString::String(text)) => text.trim() == "100%",
                Some(IntOrString::Int(pods)) => {
                    kind == WorkloadKind::StatefulSet && i64::from(*pods) >= count
                }
                None => false,
            };
            if !all {
                return;
            }
            let path = Path::of("spec.updateStrategy.rollingUpdate.maxUnavailable");
            ("the rollout may stop all pods at once".to_owned(), path, json!(1))
        }
        WorkloadKind::Job | WorkloadKind::Pod => return,
    };
    // Without replicas somebody else may set them, and a StatefulSet of one cannot do otherwise.
    let certain = replicas.is_some() && !(kind == WorkloadKind::StatefulSet && count == 1);
    let severity = if certain { severity(case) } else { Severity::Warning };
    found.push(case.finding(Draft {
        rule: Rule::LastPodMayGo,
        severity,
        member: None,
        path: path.clone(),
        message,
        fix: Some((path, value)),
    }));
}

/// Percentages of replicas: maxSurge is rounded up, maxUnavailable down (`intstr.GetScaledValueFromIntOrPercent`).
fn absolute(value: &IntOrString, count: i64, up: bool) -> i64 {
    match value {
        IntOrString::Int(pods) => i64::from(*pods),
        IntOrString::String(text) => {
            let percent: i64 = text.trim().trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent.saturating_mul(count);
            if up { scaled.saturating_add(99) / 100 } else { scaled / 100 }
        }
    }
}
