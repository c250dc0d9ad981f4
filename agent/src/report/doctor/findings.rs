//! What the doctor found, and how it is told.

use std::{fmt::Write as _, io};

use serde::{Deserialize, Serialize};

use crate::report::table::{clean, count};

/// How well lastcall can do with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// lastcall works with less.
    Degraded,
    /// lastcall is of no use without it.
    Missing,
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Group {
    Kernel,
    Rights,
    Mounts,
    Programs,
    Attaching,
    Sockets,
    Node,
}

/// One thing that was looked at or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it is about.
    pub group: Group,
    /// What was looked at.
    pub name: String,
    /// How well lastcall can do.
    pub verdict: Verdict,
    /// What is there, or how it failed.
    pub found: String,
    /// What lastcall needs it for.
    pub why: String,
    /// What to do; empty where nothing needs to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    /// Nothing found yet.
    pub(super) fn new(group: Group, name: impl Into<String>, why: &str) -> Self {
        Self {
            group,
            name: name.into(),
            verdict: Verdict::Ok,
            found: String::new(),
            why: why.to_owned(),
            remedy: String::new(),
        }
    }

    pub(super) fn ok(self, found: impl Into<String>) -> Self {
        Self { found: found.into(), ..self }
    }

    pub(super) fn degraded(self, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Degraded, found: found.into(), remedy: remedy.into(), ..self }
    }

    pub(super) fn missing(self, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Missing, found: found.into(), remedy: remedy.into(), ..self }
    }

    /// Ok, or what a failure means. A refusal for want of rights has its own remedy: a newer kernel
    /// does not help against it.
    pub(super) fn tried(self, worked: io::Result<impl Into<String>>, bad: Verdict, remedy: &str) -> Self {
        let error = match worked {
            Ok(found) => return self.ok(found),
            Err(error) => error,
        };
        let remedy = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RIGHTS,
            _ => remedy,
        };
        Self { verdict: bad, found: reason(&error), remedy: remedy.to_owned(), ..self }
    }
}

/// What to do when the kernel refuses something that it can do.
const RIGHTS: &str = "hold the rights above; if held: seccomp, SELinux, AppArmor or kernel lockdown";

/// An error as people search for it: its words and its name.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let errno = nix::errno::Errno::from_raw(number);
            format!("{} ({errno:?})", errno.desc())
        }
        None => error.to_string(),
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The worst of the checks.
    pub verdict: Verdict,
    /// All of them, by group.
    pub checks: Vec<Check>,
}

impl Findings {
    /// The worst is the whole's.
    pub(super) fn of(checks: Vec<Check>) -> Self {
        let verdict = checks.iter().map(|c| c.verdict).max().unwrap_or(Verdict::Ok);
        Self { verdict, checks }
    }

    /// 0 when lastcall can work here, 1 when something is missing that it cannot do without.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.verdict == Verdict::Missing)
    }

    /// For people: a line a check; what is wrong is followed by what it is for and what to do.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        let mut group = None;
        // Writing to a String cannot fail, here and below.
        for check in &self.checks {
            if group != Some(check.group) {
                let gap = if group.is_some() { "\n" } else { "" };
                let _ = writeln!(out, "{gap}{}", heading(check.group));
                group = Some(check.group);
            }
            let name = clean(&check.name);
            let line = format!("  {:<8}  {name:<width$}  {}", word(check.verdict), clean(&check.found));
            let _ = writeln!(out, "{}", line.trim_end());
            if check.verdict != Verdict::Ok {
                out.push_str(&wrapped(&format!("needed to {}", clean(&check.why))));
                out.push_str(&wrapped(&format!("remedy: {}", clean(&check.remedy))));
            }
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        let number = |v| self.checks.iter().filter(|c| c.verdict == v).count() as u64;
        let (missing, degraded) = (number(Verdict::Missing), number(Verdict::Degraded));
        let of = count(self.checks.len() as u64, "check");
        match self.verdict {
            Verdict::Ok => format!("lastcall can work here: {of}, all ok."),
            Verdict::Degraded => format!("lastcall can work here, with less: {degraded} of {of} degraded."),
            Verdict::Missing => {
                format!("lastcall cannot work here: {missing} of {of} missing, {degraded} degraded.")
            }
        }
    }
}

/// Lines of at most 100 characters, indented below what was found.
fn wrapped(text: &str) -> String {
    const INDENT: &str = "            ";
    let mut out = String::new();
    let mut line = INDENT.to_owned();
    for word in text.split(' ') {
        if line.len() > INDENT.len() && line.chars().count() + 1 + word.chars().count() > 100 {
            out.push_str(&line);
            out.push('\n');
            line = format!("{INDENT}  ");
        } else if line.len() > INDENT.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out + &line + "\n"
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "MISSING",
    }
}

fn heading(group: Group) -> &'static str {
    match group {
        Group::Kernel => "Kernel",
        Group::Rights => "Rights",
        Group::Mounts => "Mounts",
        Group::Programs => "eBPF programs and maps",
        Group::Attaching => "Attaching them",
        Group::Sockets => "Sockets and namespaces",
        Group::Node => "Node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::new(Group::Kernel, "release", "tell").ok("6.18.0"),
            Check::new(Group::Mounts, "bpf file system", "let hooks sleep while the agent is away")
                .degraded("/sys/fs/bpf is a sysfs", "mount -t bpf bpf /sys/fs/bpf"),
        ]
    }

    #[test]
    fn what_is_wrong_says_why_it_matters_and_what_to_do() {
        let findings = Findings::of(checks());
        assert_eq!(
            findings.text(),
            "Kernel\n\
             \x20 ok        release          6.18.0\n\
             \n\
             Mounts\n\
             \x20 degraded  bpf file system  /sys/fs/bpf is a sysfs\n\
             \x20           needed to let hooks sleep while the agent is away\n\
             \x20           remedy: mount -t bpf bpf /sys/fs/bpf\n\
             \n\
             lastcall can work here, with less: 1 of 2 checks degraded.\n"
        );
        assert_eq!(findings.exit_code(), 0);
    }

    #[test]
    fn one_thing_missing_is_enough() {
        let mut all = checks();
        all.push(Check::new(Group::Rights, "CAP_NET_ADMIN", "attach").missing("not held", "add it"));
        let findings = Findings::of(all);
        assert_eq!((findings.verdict, findings.exit_code()), (Verdict::Missing, 1));
        let text = findings.text();
        assert!(text.contains("\n  MISSING   CAP_NET_ADMIN    not held\n"), "{text}");
        assert!(text.ends_with("lastcall cannot work here: 1 of 3 checks missing, 1 degraded.\n"), "{text}");
    }

    #[test]
    fn all_well() {
        let findings = Findings::of(checks().into_iter().take(1).collect());
        assert!(findings.text().ends_with("\nlastcall can work here: 1 check, all ok.\n"));
        assert_eq!(findings.exit_code(), 0);
    }

    #[test]
    fn long_remedies_are_wrapped() {
        let text = wrapped(&"remedy: ".repeat(30));
        assert!(
            text.lines().all(|l| l.chars().count() <= 100 && l.starts_with("            remedy:")
                || l.starts_with("              remedy:")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3);
        assert_eq!(text.split_whitespace().count(), 30);
    }

    #[test]
    fn want_of_rights_has_its_own_remedy() {
        let tried = |errno| {
            let failed = Err::<&str, _>(io::Error::from_raw_os_error(errno));
            Check::new(Group::Programs, "", "").tried(failed, Verdict::Missing, "a newer kernel").remedy
        };
        assert_eq!(tried(libc::EINVAL), "a newer kernel");
        assert!(tried(libc::EPERM).starts_with("hold the rights above"));
    }

    #[test]
    fn errors_have_their_name() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(reason(&error), "Operation not permitted (EPERM)");
    }

    #[test]
    fn json_there_and_back() {
        let findings = Findings::of(checks());
        let text = serde_json::to_string(&findings).unwrap();
        assert!(text.contains(r#""verdict":"degraded""#) && text.contains(r#""group":"mounts""#), "{text}");
        assert_eq!(serde_json::from_str::<Findings>(&text).unwrap(), findings);
    }
}
