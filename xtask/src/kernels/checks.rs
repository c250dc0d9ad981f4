//! What is tried on each kernel, and how its words are understood.

use std::fmt::Write as _;

use serde_json::Value;

use super::release::Release;
use crate::tiers::Tally;

/// One thing to try: a command, and how to read it.
pub(crate) struct Check {
    /// Its column in the table.
    pub name: &'static str,
    /// A test program, or `lastcall`.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: &'static [&'static str],
    /// Seconds of the guest's clock, by far more than it should take.
    pub limit: u32,
    /// How to read what it says.
    pub reads: Reads,
    /// The oldest kernel that has to pass it.
    pub since: Release,
}

/// What a command's words mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// The doctor's findings.
    Findings,
    /// Rust's tests.
    Tests,
}

const ONE: &str = "--test-threads=1";

/// All of them, in the order in which they run. To HTTP/2's last call the doctor says no below 6.1.
///
/// One test at a time: a guest that waits costs nothing, and two that work are in each other's way.
const CHECKS: [Check; 8] = [
    Check {
        name: "doctor",
        program: "lastcall",
        arguments: &["doctor", "--output", "json"],
        limit: 30,
        reads: Reads::Findings,
        since: Release::Bullseye,
    },
    Check {
        name: "packets",
        program: "packets",
        arguments: &[ONE, "--quiet"],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "nobody home",
        program: "nobody_home",
        arguments: &[
            ONE,
            "an_absent_agent_is_a_sleep",
            "an_agent_that_comes_back_takes_the_hook_over::ipv4",
            "a_held_hook_outlives_its_agent::ipv6",
            "a_killed_agent_is_a_sleep::ipv4",
        ],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "drains",
        program: "kernel",
        arguments: &[
            ONE,
            "this_kernel_s_own_way_in",
            "clsact_instead_of_tcx::ipv4",
            "a_dead_agent_s_filters_are_taken_over::ipv6",
        ],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "last call",
        program: "last_call",
        arguments: &[ONE, "a_keep_alive_client_is_told_once", "left_alone::ipv4"],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "last call, busy",
        program: "last_call_busy",
        arguments: &[ONE],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "last call, large",
        program: "last_call_large",
        arguments: &[
            ONE,
            "a_large_request_is_read_to_its_end::ipv4",
            "an_answer_before_its_large_request_is_read::ipv4",
            "the_client_of_a_large_request_is_told_at_once_where_the_kernel_tells",
            "a_request_of_many_windows::ipv4",
        ],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bullseye,
    },
    Check {
        name: "last call, h2",
        program: "last_call_http2",
        arguments: &[ONE, "a_grpc_client_is_told_once"],
        limit: 400,
        reads: Reads::Tests,
        since: Release::Bookworm,
    },
];

/// Those that a kernel has to pass; of them those that are named, or all.
pub(crate) fn on(release: Release, only: &[String]) -> Vec<&'static Check> {
    let named = |c: &Check| only.is_empty() || only.iter().any(|name| name == c.name);
    CHECKS.iter().filter(|c| release >= c.since && named(c)).collect()
}

/// Their names, for who asks for some of them.
pub(crate) fn names() -> String {
    CHECKS.map(|c| c.name).join(", ")
}

/// What a check has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should be, in a word: `ok`, `43 passed`.
    Good(String),
    /// Not so, and why.
    Bad(String),
}

impl Check {
    /// Reads the check's output and exit status.
    pub(crate) fn read(&self, said: &str, status: i32) -> Outcome {
        match self.reads {
            // busybox' timeout ends a program by SIGTERM and gives 128 + 15.
            _ if status == 143 => Outcome::Bad(format!("took more than {} s", self.limit)),
            Reads::Findings => findings(said, status),
            Reads::Tests => tests(said, status),
        }
    }
}

fn tests(said: &str, status: i32) -> Outcome {
    let mut counts = Tally::default();
    said.lines().for_each(|line| counts.count(line));
    match (counts.passed, counts.failed) {
        (0, 0) if status == 0 => Outcome::Bad("no test ran".to_owned()),
        (passed, 0) if status == 0 => Outcome::Good(format!("{passed} passed")),
        (_, 0) => Outcome::Bad(format!("ended with {status}")),
        (passed, failed) => Outcome::Bad(format!("{failed} of {} failed", passed + failed)),
    }
}

/// The findings that only a node can have, and a bare kernel cannot.
const OF_A_NODE: [&str; 3] = ["kubelet", "agent", "network namespaces"];

fn findings(said: &str, status: i32) -> Outcome {
    let Some(Value::Object(findings)) = said.find('{').and_then(|at| document(&said[at..])) else {
        return Outcome::Bad(format!("no findings, and ended with {status}"));
    };
    let mut lacking = (String::new(), String::new());
    for check in findings.get("checks").and_then(Value::as_array).into_iter().flatten() {
        let name = check["name"].as_str().unwrap_or_default();
        let found = check["found"].as_str().unwrap_or_default();
        let list = match check["verdict"].as_str() {
            Some("missing") => &mut lacking.0,
            Some("degraded") if !OF_A_NODE.contains(&name) => &mut lacking.1,
            _ => continue,
        };
        // Writing to a String cannot fail.
        let _ = write!(list, "{}{name} ({found})", if list.is_empty() { "" } else { ", " });
    }
    match lacking {
        (missing, _) if !missing.is_empty() => Outcome::Bad(format!("missing: {missing}")),
        _ if status != 0 => Outcome::Bad(format!("ended with {status}")),
        (_, less) if !less.is_empty() => Outcome::Good(format!("ok, without {less}")),
        _ => Outcome::Good("ok".to_owned()),
    }
}

/// The first JSON document of a text.
fn document(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

/// The guest's commands: each check between two lines that say which it is and how it ended.
pub(crate) fn script(checks: &[&Check]) -> String {
    let mut text = String::from(
        "# Written by `cargo xtask kernels`.\n\
         export LASTCALL_BIN=/programs/lastcall LASTCALL_TEST_EMULATED=1\n",
    );
    for (number, check) in checks.iter().enumerate() {
        let words: Vec<String> = check.arguments.iter().map(|a| format!("'{a}'")).collect();
        let (limit, program, words) = (check.limit, check.program, words.join(" "));
        let _ = write!(
            text,
            "printf '\\n{BEGIN}{number}\\n'\n\
             timeout {limit} {program} {words}\n\
             printf '\\n{END}%s\\n' $?\n"
        );
    }
    text
}

/// Before a check's number, on a line of its own.
pub(crate) const BEGIN: &str = "== check ";
/// Before its exit status.
pub(crate) const END: &str = "== ended ";

#[cfg(test)]
mod tests_of_checks {
    use super::*;

    const GOOD: &str = "test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";

    #[test]
    fn tests_are_good_only_if_some_ran_and_all_passed() {
        assert_eq!(tests(GOOD, 0), Outcome::Good("6 passed".to_owned()));
        let failed = GOOD.replace("0 failed", "2 failed");
        assert_eq!(tests(&failed, 101), Outcome::Bad("2 of 8 failed".to_owned()));
        assert_eq!(tests(&GOOD.replace('6', "0"), 0), Outcome::Bad("no test ran".to_owned()));
        assert_eq!(tests("", 139), Outcome::Bad("ended with 139".to_owned()));
        assert_eq!(tests(GOOD, 139), Outcome::Bad("ended with 139".to_owned()));
    }

    #[test]
    fn a_check_that_takes_too_long_is_bad() {
        assert!(matches!(CHECKS[1].read(GOOD, 143), Outcome::Bad(why) if why.contains("400 s")));
    }

    #[test]
    fn the_doctor_s_word_counts() {
        let findings = |verdict: &str, name: &str| {
            format!(
                r#"warning: {{"checks": [{{"name": "{name}", "verdict": "{verdict}", "found": "EINVAL"}}]}} and more"#
            )
        };
        let read = |verdict, name, status| CHECKS[0].read(&findings(verdict, name), status);
        assert_eq!(read("ok", "TCX link", 0), Outcome::Good("ok".to_owned()));
        assert_eq!(
            read("degraded", "TCX link", 0),
            Outcome::Good("ok, without TCX link (EINVAL)".to_owned())
        );
        assert_eq!(read("degraded", "kubelet", 0), Outcome::Good("ok".to_owned()));
        assert_eq!(read("missing", "sock_diag", 1), Outcome::Bad("missing: sock_diag (EINVAL)".to_owned()));
        assert!(matches!(read("ok", "", 1), Outcome::Bad(_)));
        assert!(matches!(CHECKS[0].read("lastcall: no", 2), Outcome::Bad(_)));
    }

    #[test]
    fn a_kernel_has_to_pass_what_is_promised_of_it() {
        let has = |release, name| on(release, &[]).iter().any(|c| c.name == name);
        assert!(!has(Release::Bullseye, "last call, h2") && has(Release::Bullseye, "last call, busy"));
        assert!(has(Release::Bookworm, "last call, h2") && has(Release::Sid, "last call, h2"));
        assert_eq!(on(Release::Sid, &["doctor".to_owned()]).len(), 1);
    }

    #[test]
    fn the_script_runs_each_check_under_its_limit() {
        let text = script(&on(Release::Bullseye, &[]));
        assert!(text.contains("timeout 30 lastcall 'doctor' '--output' 'json'\n"), "{text}");
        assert!(text.contains("'\\n== check 0\\n'") && text.contains("'\\n== ended %s\\n' $?"), "{text}");
    }
}
