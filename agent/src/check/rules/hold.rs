//! Whether something holds each container that serves.

use super::{Case, Draft, Finding, Member, Rule, Severity};
use crate::check::{
    facts::Served,
    hooks::{Hook, has_no_shell, needs_shell, needs_shells_programs, script},
};

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Finding>) {
    if case.injection_asked && !case.injectable() {
        skipped(case, found);
    }
    without(case, found);
    for member in &case.members {
        match &member.hook {
            Hook::Sleep { length, command } => {
                if command.is_empty() || runnable(case, member, command, found) {
                    sleep(case, member, length, found);
                }
            }
            Hook::SleepAnd(command) => {
                if runnable(case, member, command, found) {
                    sleep_and(case, member, found);
                }
            }
            Hook::Exec(command) => {
                let fine = runnable(case, member, command, found);
                if fine && calls_agent(case, member, command, found) {
                    other(case, member, found);
                }
            }
            Hook::Other => other(case, member, found),
            Hook::None | Hook::Lastcall { .. } => {}
        }
    }
}

/// The whole pod's hook, in place of what is there.
fn mend(case: &Case<'_>, member: &Member<'_>) -> Option<(crate::check::tree::Path, serde_json::Value)> {
    Some((member.path.down("lifecycle.preStop"), case.hook("")?))
}

fn skipped(case: &Case<'_>, found: &mut Vec<Finding>) {
    // Where all have hooks of their own there is nothing to inject.
    let Some(member) = case.members.iter().find(|member| !member.sidecar && member.hook == Hook::None) else {
        return;
    };
    let why = match case.host_network {
        true => "it leaves hostNetwork pods alone, whose hook has to name them",
        false => "it leaves pods alone whose grace is 2 s or less",
    };
    // What the grace allows is another rule's to say, once there is a hook.
    found.push(case.finding(Draft {
        rule: Rule::InjectionSkipped,
        severity: Severity::Error,
        member: Some(member),
        path: member.path.clone(),
        message: format!(
            "{} asks for the hook, but the injection gives none: {why}",
            crate::check::facts::INJECT
        ),
        fix: mend(case, member),
    }));
}

/// Exceptions: Jobs run to their end; native sidecars outlive the others; workloads that nobody connects
/// to have nothing to drain.
fn without(case: &Case<'_>, found: &mut Vec<Finding>) {
    if case.runs_to_its_end() {
        return;
    }
    let held = case.members.iter().any(|member| member.hook.is_lastcall())
        || (case.served != Served::No && case.members.iter().any(|member| member.hook.holds()));
    let bare: Vec<_> =
        case.members.iter().filter(|member| !member.sidecar && member.hook == Hook::None).collect();
    // One finding says that nothing holds the pod: where it serves.
    let own = case.members.iter().any(|member| member.serves && member.hook != Hook::None);
    let first = match held || own || case.served == Served::No {
        true => None,
        false => bare.iter().position(|member| member.serves),
    };
    let said_already = case.injection_asked && !case.injectable();
    if let Some(member) = first.map(|i| bare[i])
        && !said_already
    {
        let (severity, of) = match case.served {
            Served::ByService => (Severity::Error, "its Service"),
            _ => (Severity::Warning, "whatever leads to its port"),
        };
        found.push(case.finding(Draft {
            rule: Rule::NoHook,
            severity,
            member: Some(member),
            path: member.path.clone(),
            message: format!(
                "nothing holds it while {of} still sends new connections and requests are in flight: SIGTERM \
                 comes at once"
            ),
            fix: mend(case, member),
        }));
    }
    if !held && first.is_none() {
        return;
    }
    for (i, member) in bare.iter().enumerate() {
        if Some(i) == first || (said_already && first.is_none() && i == 0) {
            continue;
        }
        found.push(case.finding(Draft {
            rule: Rule::ContainerWithoutHook,
            severity: if member.serves { Severity::Error } else { Severity::Warning },
            member: Some(member),
            path: member.path.clone(),
            message: "it gets SIGTERM at once, while the pod's other containers are held and still serve: each \
                      container needs the hook (they share one drain)"
                .into(),
            fix: mend(case, member),
        }));
    }
}

/// Exception: in a workload that nobody connects to, the sleep is for something else.
fn sleep(case: &Case<'_>, member: &Member<'_>, length: &str, found: &mut Vec<Finding>) {
    let beside = case.members.iter().any(|other| other.hook.is_lastcall());
    if case.runs_to_its_end() || (case.served == Served::No && !beside) {
        return;
    }
    let message = if beside {
        format!(
            "sleep {length} beside a container with the hook: this one stops when its sleep ends, while the \
             pod still drains, or keeps it waiting when it has drained"
        )
    } else {
        format!(
            "sleep {length} is a guess: too short when routing is slow or a request long, too long on all \
             other days. The hook ends when the pod has drained, and is a sleep where no agent answers"
        )
    };
    found.push(case.finding(Draft {
        rule: Rule::LeftoverSleep,
        severity: Severity::Warning,
        member: Some(member),
        path: member.path.down("lifecycle.preStop"),
        message,
        fix: mend(case, member),
    }));
}

/// What follows the sleep has its reason, which the hook cannot take over.
fn sleep_and(case: &Case<'_>, member: &Member<'_>, found: &mut Vec<Finding>) {
    if case.served == Served::No || case.runs_to_its_end() {
        return;
    }
    found.push(
        case.finding(Draft {
            rule: Rule::LeftoverSleep,
            severity: Severity::Note,
            member: Some(member),
            path: member.path.down("lifecycle.preStop"),
            message:
                "a sleep, and more: the hook can replace the sleep where SIGTERM does the rest (a container \
                  has one preStop)"
                    .into(),
            fix: None,
        }),
    );
}

/// Whether the command can be run at all.
fn runnable(case: &Case<'_>, member: &Member<'_>, command: &[String], found: &mut Vec<Finding>) -> bool {
    let draft = |severity, message| Draft {
        rule: Rule::ExecHook,
        severity,
        member: Some(member),
        path: member.path.down("lifecycle.preStop.exec.command"),
        message,
        fix: mend(case, member).filter(|_| case.served != Served::No),
    };
    let image = member.container.image.as_deref().unwrap_or_default();
    match command {
        [] => found.push(case.finding(draft(Severity::Error, "an exec hook without a command".into()))),
        [line] if line.contains(' ') => found.push(case.finding(draft(
            Severity::Error,
            format!("{line:?} is looked for as one program's name: each word is an item of the list"),
        ))),
        _ if needs_shells_programs(command) && has_no_shell(image) => found.push(case.finding(draft(
            Severity::Error,
            format!("the image {image} has no shell and no sleep by its name: the hook fails, and SIGTERM comes at once"),
        ))),
        _ => {
            if needs_shell(command) && matches!(member.hook, Hook::Exec(_)) {
                let message =
                    "it needs a shell in the image; a distroless one has none, and the hook would fail";
                found.push(case.finding(Draft { fix: None, ..draft(Severity::Note, message.into()) }));
            }
            return true;
        }
    }
    false
}

/// Whether the command is somebody else's business.
fn calls_agent(case: &Case<'_>, member: &Member<'_>, command: &[String], found: &mut Vec<Finding>) -> bool {
    let text = script(command).map_or_else(|| command.join(" "), str::to_owned);
    if !text.contains(&format!(":{}", case.settings.hook_port)) {
        return true;
    }
    found.push(
        case.finding(Draft {
            rule: Rule::ExecCallsAgent,
            severity: Severity::Error,
            member: Some(member),
            path: member.path.down("lifecycle.preStop.exec.command"),
            message:
                "from inside the pod nothing answers on the hook's port: the kubelet has to call it (httpGet)"
                    .into(),
            fix: mend(case, member),
        }),
    );
    false
}

fn other(case: &Case<'_>, member: &Member<'_>, found: &mut Vec<Finding>) {
    if !member.serves || case.runs_to_its_end() {
        return;
    }
    found.push(
        case.finding(Draft {
            rule: Rule::OtherHook,
            severity: Severity::Note,
            member: Some(member),
            path: member.path.down("lifecycle.preStop"),
            message:
                "a preStop of its own, and so nobody holds it: right if that waits until clients have gone, \
                  and else a cut. A container has one preStop"
                    .into(),
            fix: None,
        }),
    );
}
