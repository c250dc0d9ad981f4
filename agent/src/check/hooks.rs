//! What a container's preStop does.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use crate::contract::{
    Contract,
    parameters::{self, Warning},
};

/// A preStop hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Hook {
    None,
    /// lastcall's, with the target of its request.
    Lastcall {
        target: String,
        injected: bool,
    },
    /// Nothing but a sleep, by a command or by the kubelet's own action.
    Sleep {
        length: String,
        command: Vec<String>,
    },
    /// A sleep, and more.
    SleepAnd(Vec<String>),
    Exec(Vec<String>),
    /// An HTTP call of somebody else's.
    Other,
}

/// Shells that images without one do not have.
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "zsh", "busybox"];

impl Hook {
    pub(super) fn is_lastcall(&self) -> bool {
        matches!(self, Self::Lastcall { .. })
    }

    /// It keeps its container from SIGTERM for a while.
    pub(super) fn holds(&self) -> bool {
        matches!(self, Self::Lastcall { .. } | Self::Sleep { .. } | Self::SleepAnd(_))
    }

    pub(super) fn contract(&self) -> Option<Contract> {
        Some(self.parameters()?.0)
    }

    /// The hook's contract, and what of it was not understood.
    pub(super) fn parameters(&self) -> Option<(Contract, Vec<Warning>)> {
        let Self::Lastcall { target, .. } = self else { return None };
        Some(parameters::read(parameters::split(target).1, &Contract::default()))
    }
}

/// Reads a container's. `lastcalls`: those that the agent takes for its own, by container.
pub(super) fn read(container: &Container, lastcalls: &[(String, String)], inject: bool) -> Hook {
    let written = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let Some(hook) = written else {
        let target = "/drain".to_owned();
        return if inject { Hook::Lastcall { target, injected: true } } else { Hook::None };
    };
    if let Some((_, target)) = lastcalls.iter().find(|(name, _)| *name == container.name) {
        return Hook::Lastcall { target: target.clone(), injected: false };
    }
    if let Some(sleep) = &hook.sleep {
        return Hook::Sleep { length: format!("{}s", sleep.seconds), command: vec![] };
    }
    match &hook.exec {
        Some(exec) => command(exec.command.clone().unwrap_or_default()),
        None => Hook::Other,
    }
}

fn command(command: Vec<String>) -> Hook {
    let words = words(&command);
    let sleep = words.iter().position(|word| base(word) == "sleep");
    let Some(at) = sleep else { return Hook::Exec(command) };
    // `sleep` has to be a command here, not an argument: the first word, or one after a separator.
    if at > 0 && !matches!(words[at - 1].as_str(), ";" | "&&" | "||" | "&") {
        return Hook::Exec(command);
    }
    let Some(length) = words.get(at + 1).cloned() else { return Hook::Exec(command) };
    if words.len() == 2 { Hook::Sleep { length, command } } else { Hook::SleepAnd(command) }
}

/// The words of what runs in the end: those of a shell's script, else the command's own.
fn words(command: &[String]) -> Vec<String> {
    match script(command) {
        Some(script) => {
            let spaced = script.replace("&&", " && ").replace("||", " || ").replace([';', '\n'], " ; ");
            let mut words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
            while words.last().is_some_and(|word| word == ";") {
                words.pop();
            }
            words
        }
        None => command.to_vec(),
    }
}

/// The script of `sh -c SCRIPT`.
pub(super) fn script(command: &[String]) -> Option<&str> {
    let flag = command.iter().position(|word| word.starts_with('-') && word.ends_with('c'))?;
    needs_shell(command).then(|| command.get(flag + 1).map(String::as_str)).flatten()
}

/// A shell is what is run.
pub(super) fn needs_shell(command: &[String]) -> bool {
    command.first().is_some_and(|word| SHELLS.contains(&base(word)))
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// A shell, or the program that comes with one.
pub(super) fn needs_shells_programs(command: &[String]) -> bool {
    needs_shell(command) || command.first().is_some_and(|word| base(word) == "sleep")
}

/// Image names that promise to have no shell.
pub(super) fn has_no_shell(image: &str) -> bool {
    let image = image.to_ascii_lowercase();
    let debug = image.contains(":debug") || image.contains("-debug") || image.ends_with("-dev");
    !debug
        && ["distroless", "cgr.dev/", "/scratch", "-scratch", ":scratch"]
            .iter()
            .any(|word| image.contains(word))
}

/// `30s`, as people and the agent write it.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
