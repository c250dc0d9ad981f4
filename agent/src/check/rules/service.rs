//! What stands before the pods, and how slowly it turns away from them.

use std::time::Duration;

use serde_json::json;

use super::{Case, Draft, Finding, Rule, Severity, path::join};
use crate::{
    check::{
        hooks::{Hook, seconds},
        objects::{Rollout, ServiceObject, WorkloadKind},
        reach::{Balancer, targets_pods},
        tree::Path,
    },
    contract::parameters,
};

/// How long an AWS load balancer may go on sending to a target that it is told to leave: about 15 s, and two
/// minutes and more (kubernetes-sigs/aws-load-balancer-controller#2366).
const ALB: Duration = Duration::from_secs(30);
const NLB: Duration = Duration::from_secs(120);

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    for service in &case.services {
        local(case, service, found);
    }
    let balanced =
        case.services.iter().filter_map(|object| Some((object, targets_pods(object, case.inventory)?)));
    // The slowest counts.
    if let Some((service, balancer)) = balanced.max_by_key(|(_, balancer)| *balancer == Balancer::Nlb) {
        balancer_targets(case, service, balancer, found);
    }
}

/// Exceptions: a DaemonSet, of which every node has one; a rollout that has downtime anyway.
fn local(case: &Case<'_>, service: &ServiceObject, found: &mut Vec<Finding>) {
    let spec = service.service.spec.as_ref();
    let local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
    let outside = spec.and_then(|spec| spec.type_.as_deref()).is_some_and(|kind| kind != "ClusterIP");
    let external = outside && local(spec.and_then(|spec| spec.external_traffic_policy.as_ref()));
    let internal = local(spec.and_then(|spec| spec.internal_traffic_policy.as_ref()));
    let field = match (external, internal) {
        (true, _) => "externalTrafficPolicy",
        (false, true) => "internalTrafficPolicy",
        (false, false) => return,
    };
    let replicated = matches!(case.workload.kind, WorkloadKind::Deployment | WorkloadKind::StatefulSet);
    let rolling = matches!(case.workload.rollout, Rollout::Rolling { .. });
    let few = case.replicas().unwrap_or(1) == 1;
    if !replicated
        || !rolling
        || !few
        || (internal && !external && case.workload.kind == WorkloadKind::StatefulSet)
    {
        return;
    }
    found.push(case.finding(Draft {
        rule: Rule::LocalPolicyOneReplica,
        severity: Severity::Warning,
        member: None,
        path: Path::of("spec.replicas"),
        message: format!(
            "{} has {field} Local, and one replica: each update moves the only endpoint to another node, where \
             traffic arrives only when what stands before the nodes has noticed",
            service.origin.name
        ),
        fix: Some((Path::of("spec.replicas"), json!(2))),
    }));
}

/// Exceptions: readiness gates tell the agent of an ALB; `settle=` is somebody's own answer.
fn balancer_targets(case: &Case<'_>, service: &ServiceObject, balancer: Balancer, found: &mut Vec<Finding>) {
    let Some(contract) = case.contract() else { return };
    if contract.settle.is_some() || (balancer == Balancer::Alb && case.gated) {
        return;
    }
    let (settle, what) = match balancer {
        Balancer::Alb => (ALB, "an ALB"),
        Balancer::Nlb => (NLB, "an NLB"),
    };
    let Some(member) = case.members.iter().find(|member| member.hook.is_lastcall()) else { return };
    let Hook::Lastcall { target, injected } = &member.hook else { return };
    let (path, query) = parameters::split(target);
    let wanted = format!("settle={}s", settle.as_secs());
    let query = if query.is_empty() { wanted } else { format!("{query}&{wanted}") };
    let (at, value) = match injected {
        true => (member.path.down("lifecycle.preStop"), case.hook(&query)),
        false => (member.path.down("lifecycle.preStop.httpGet.path"), Some(json!(join(path, &query)))),
    };
    found.push(case.finding(Draft {
        rule: Rule::LoadBalancerWithoutSettle,
        severity: Severity::Warning,
        member: Some(member),
        path: at.clone(),
        message: format!(
            "{} is {what} that targets pods, which goes on sending to a pod for up to {} after it was taken \
             out: say so by settle=, with a terminationGracePeriodSeconds of at least {}",
            service.origin.name,
            seconds(settle),
            (settle + contract.reserve).as_secs(),
        ),
        fix: value.map(|value| (at, value)),
    }));
}
