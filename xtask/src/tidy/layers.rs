//! The agent's modules in the order in which the data flows: each may use those above it, never
//! those below; `run` alone wires them.

use std::{collections::BTreeSet, path::Path};

use super::Source;

/// From the top; modules on one line are siblings, which do not use each other either.
const LAYERS: [&[&str]; 11] = [
    &["causes", "contract", "moment"],
    &["kernel", "sockets"],
    &["cluster"],
    &["ledger"],
    &["drain"],
    &["last_call"],
    &["hook"],
    &["report", "check"],
    &["cli"],
    &["config"],
    &["run"],
];

/// Crates that reach outside, and the only modules that may use them.
const REACHING: [(&str, &[&str]); 2] =
    [("aya", &["kernel", "sockets", "last_call"]), ("kube", &["cluster", "report"])];

/// Folders that may reach outside all the same, each with its reason.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("agent/src/check/live.rs", "a command reads a cluster once, for a person"),
    ("agent/src/hook/held", "held hooks outlive the agent in a pinned map"),
    ("agent/src/report/doctor", "the doctor tries for itself what the agent will need"),
];

/// Breaches, one a line.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for source in sources {
        let Some(module) = module(&source.path) else { continue };
        let Some(own) = layer(&module) else {
            breaches.push(format!("{}: `{module}` is not in tidy/layers.rs", source.path.display()));
            continue;
        };
        let code = code(&source.text);
        for used in used(&code).into_iter().filter(|u| *u != module) {
            if layer(&used).is_some_and(|theirs| theirs >= own) {
                breaches
                    .push(format!("{}: uses `{used}`, which is not above `{module}`", source.path.display()));
            }
        }
        if EXCEPTIONS.iter().any(|(folder, _)| source.path.starts_with(folder)) {
            continue;
        }
        for (reaching, by) in REACHING {
            if !by.contains(&module.as_str()) && mentions(&code, reaching) {
                breaches.push(format!(
                    "{}: uses `{reaching}`, which only {} may",
                    source.path.display(),
                    by.join(", ")
                ));
            }
        }
    }
    breaches
}

/// `agent/src/hook/held.rs` → `hook`; nothing for what is no module of the agent.
fn module(path: &Path) -> Option<String> {
    let mut parts = path.strip_prefix("agent/src").ok()?.iter().map(|p| p.to_string_lossy());
    let first = parts.next()?;
    let name = first.strip_suffix(".rs").unwrap_or(&first);
    (path.extension()? == "rs" && !matches!(name, "lib" | "main" | "bin")).then(|| name.to_owned())
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

/// The text without comments and without the tests at its end, which may look anywhere.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let end =
        lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod "));
    lines[..end.unwrap_or(lines.len())].join("\n")
}

/// The modules named by `crate::x` and `crate::{x, y::z}`.
fn used(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            None => modules.extend(first_word(rest)),
            Some(group) => modules.extend(items(group).filter_map(first_word)),
        }
    }
    modules
}

/// The items of a group, up to its closing brace; groups inside groups belong to their item.
fn items(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1_u32;
    let mut starts = vec![0];
    let mut end = group.len();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts.push(at + 1),
            _ => {}
        }
        if depth == 0 {
            end = at;
            break;
        }
    }
    starts.into_iter().map(move |start| &group[start..end])
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// Whether the code names a crate: `aya::`, or `use aya;` and the like.
fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') && after.starts_with("::")
    })
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn the_modules_that_a_text_uses() {
        let text = "use crate::{\n    kernel::{Table, edge},\n    moment::Moment, drain};\nlet x = crate::hook::y();";
        let found: Vec<String> = used(text).into_iter().collect();
        assert_eq!(found, ["drain", "hook", "kernel", "moment"]);
    }

    #[test]
    fn looking_down_or_sideways_is_a_breach() {
        let at = |path: &str, text: &str| check(&[source(path, text)]).len();
        assert_eq!(
            at("agent/src/drain/task.rs", "use crate::{moment::Moment, ledger::Ledger, drain::x};"),
            0
        );
        assert_eq!(at("agent/src/drain/task.rs", "use crate::hook::Hook;"), 1);
        assert_eq!(at("agent/src/kernel/mod.rs", "use crate::sockets::Dump;"), 1);
        assert_eq!(at("agent/src/run.rs", "use crate::{config::Config, report, hook};"), 0);
        assert_eq!(at("agent/src/lib.rs", "use crate::run;"), 0);
        assert_eq!(at("tests/src/lib.rs", "use crate::run;"), 0);
        assert_eq!(at("agent/src/attic.rs", ""), 1);
    }

    #[test]
    fn comments_and_tests_may_look_anywhere() {
        let text = "//! See [`crate::hook`].\n#[cfg(test)]\nmod tests {\n use crate::hook; use aya::Ebpf; }";
        assert_eq!(check(&[source("agent/src/drain/mod.rs", text)]).len(), 0);
    }

    #[test]
    fn the_kernel_is_reached_in_its_own_modules_only() {
        let at = |path: &str| check(&[source(path, "use aya::maps::HashMap;")]).len();
        assert_eq!((at("agent/src/kernel/table.rs"), at("agent/src/hook/mod.rs")), (0, 1));
        assert_eq!(at("agent/src/report/doctor/bpf.rs"), 0);
    }
}
