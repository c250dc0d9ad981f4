//! Whether the grace has room for the shortest drain that is safe.

use std::time::Duration;

use serde_json::json;

use super::{Case, Draft, Finding, Rule, Severity};
use crate::{check::hooks::seconds, cluster::Exposure, contract::Contract, drain::policy};

/// Exception: no hook of lastcall's, nothing to fit in.
pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    let Some(contract) = case.contract() else { return };
    if case.runs_to_its_end() {
        return;
    }
    let total = case.grace();
    let reserve = policy::reserve(contract.reserve, total);
    let floor = contract.settle.unwrap_or(policy::floor(case.exposure));
    let least = least(floor, contract.reserve);
    let path = case.pod_path("terminationGracePeriodSeconds");
    let message = if total - reserve < floor {
        format!(
            "a grace of {} may end before routing has turned away from the pod: {} takes {}, and {} of the grace \
             are left to the app. Write at least {}, and more where requests take long",
            seconds(total),
            why(case.exposure, &contract),
            seconds(floor),
            seconds(reserve),
            seconds(least),
        )
    } else if floor + contract.reserve > total || asked_for_more(&contract, reserve) {
        format!(
            "a grace of {} leaves the app {} after the drain, not {}: the reserve is at most a quarter of the \
             grace. Write at least {}",
            seconds(total),
            seconds(reserve),
            seconds(contract.reserve),
            seconds(least),
        )
    } else {
        return;
    };
    // Where the traffic is loud, its silence proves sooner that an ordinary Service has turned away; and the
    // kind of a Service that is not here is a guess.
    let certain = match (case.exposure, contract.settle) {
        (Exposure::Unknown, None) => false,
        (Exposure::Cluster, None) => total - reserve < policy::floor(Exposure::None),
        _ => total - reserve < floor,
    };
    found.push(case.finding(Draft {
        rule: Rule::GraceTooShort,
        severity: if certain { Severity::Error } else { Severity::Warning },
        member: None,
        fix: Some((path.clone(), json!(least.as_secs()))),
        path,
        message,
    }));
}

/// `reserve=` on a hook, which the grace does not grant.
fn asked_for_more(contract: &Contract, granted: Duration) -> bool {
    contract.reserve > Contract::default().reserve && granted < contract.reserve
}

/// Whole seconds in which both fit; a reserve that somebody asked for fits only where it is a quarter.
fn least(floor: Duration, reserve: Duration) -> Duration {
    let sum = floor + reserve;
    let quarter = if reserve > Contract::default().reserve { reserve * 4 } else { Duration::ZERO };
    Duration::from_secs(sum.max(quarter).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

fn why(exposure: Exposure, contract: &Contract) -> &'static str {
    if contract.settle.is_some() {
        return "settle= on the hook";
    }
    match exposure {
        Exposure::None => "a pod without a Service",
        Exposure::Cluster => "a Service with few new connections",
        Exposure::Unknown => "a Service that is not among the input",
        Exposure::LocalLast => "traffic policy Local, where the node itself has to be taken out,",
        Exposure::Headless => "a headless Service, whose clients hold its DNS answers,",
        Exposure::LoadBalancerIp => "a load balancer that targets pods",
    }
}
