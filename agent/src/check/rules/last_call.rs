//! Hints about the last call: what would let busy clients go.

use serde_json::json;

use super::{Case, Draft, Finding, Rule, Severity, path::join};
use crate::{
    check::hooks::Hook,
    cluster::AppProtocol,
    contract::{LastCall, Until, parameters},
};

/// Exceptions: `until=settled` says that the app drains by itself; `last-call=` that somebody has decided;
/// parameters that are not understood are to be mended first.
pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    let Some(contract) = case.contract() else { return };
    if contract.until == Until::Settled || contract.last_call == LastCall::Off {
        return;
    }
    let Some(member) =
        case.members.iter().filter(|member| member.hook.is_lastcall()).max_by_key(|member| member.serves)
    else {
        return;
    };
    let Hook::Lastcall { target, injected } = &member.hook else { return };
    let speaks = |protocol| matches!(protocol, AppProtocol::Http | AppProtocol::Http2);
    let numbers = |tls| {
        let ports = case.ports.iter().filter(|port| port.tls == tls && (tls || speaks(port.protocol)));
        ports.map(|port| port.port.to_string()).collect::<Vec<_>>()
    };
    let (clear, tls) = (numbers(false), numbers(true));
    let (path, query) = parameters::split(target);
    let understood = member.hook.parameters().is_some_and(|(_, warnings)| warnings.is_empty());
    if understood && contract.last_call == LastCall::Default && !clear.is_empty() {
        let query =
            if query.is_empty() { "last-call=http".into() } else { format!("{query}&last-call=http") };
        let (at, value) = match injected {
            true => (member.path.down("lifecycle.preStop"), case.hook(&query)),
            false => (member.path.down("lifecycle.preStop.httpGet.path"), Some(json!(join(path, &query)))),
        };
        found.push(case.finding(Draft {
            rule: Rule::LastCallOff,
            severity: Severity::Note,
            member: Some(member),
            path: at.clone(),
            message: format!(
                "clients of port {} that always have a request in flight never leave by themselves: with \
                 last-call=http they are told to (or run the agents with --last-call=auto)",
                clear.join(", ")
            ),
            fix: value.map(|value| (at, value)),
        }));
    }
    if !tls.is_empty() {
        found.push(case.finding(Draft {
            rule: Rule::TlsPort,
            severity: Severity::Note,
            member: Some(member),
            path: member.path.clone(),
            message: format!(
                "port {} is TLS, where nobody but the app can tell its clients to leave: those that are never \
                 idle are cut when the drain ends as busy, unless the app closes its connections on SIGTERM",
                tls.join(", ")
            ),
            fix: None,
        }));
    }
}
