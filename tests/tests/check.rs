//! `lastcall check` as CI sees it: exit codes, and what goes to which stream. It needs no node.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lastcall_tests::agent::agent_binary;
use serde_json::Value;

const BAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/check/testdata/bad.yaml");
const CLEAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/check/testdata/clean.yaml");
/// sysexits(3): `EX_DATAERR`, `EX_UNAVAILABLE`.
const BAD_INPUT: i32 = 65;
const UNAVAILABLE: i32 = 69;
/// What clap says.
const USAGE: i32 = 2;

fn check(args: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new(agent_binary()?)
        .arg("check")
        .args(args)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Who reads no input closes the pipe.
    let _ = child.stdin.take().context("its input")?.write_all(input.as_bytes());
    Ok(child.wait_with_output()?)
}

/// Its exit code, and words of both streams.
#[test]
fn exit_codes_are_for_ci() -> Result<()> {
    let broken = "kind: Deployment\napiVersion: apps/v1\nspec: {\n";
    let note = std::fs::read_to_string(CLEAN)?.replace("?last-call=http", "");
    let rows: &[(&[&str], &str, i32, &str, &str)] = &[
        (&[CLEAN], "", 0, "nothing found", ""),
        (&[BAD], "", 1, "5 errors, 3 warnings, 1 note", ""),
        (&[BAD, CLEAN], "", 1, "3 workloads", ""),
        (&["--fail-on", "never", BAD], "", 0, "5 errors", ""),
        (&["-"], &note, 0, "0 errors, 0 warnings, 1 note", ""),
        (&["--fail-on", "warning", "-"], &note, 0, "1 note", ""),
        (&["--fail-on", "note", "-"], &note, 1, "1 note", ""),
        (&["--fail-on", "note", "--ignore", "last-call-off,tls-port", "-"], &note, 0, "nothing found", ""),
        // What was understood is still told.
        (&[BAD, "-"], broken, BAD_INPUT, "5 errors", "<stdin>:3: "),
        (&["/nonexistent.yaml"], "", BAD_INPUT, "incomplete", "/nonexistent.yaml: No such file"),
        (&["-"], "", BAD_INPUT, "", "<stdin>: it holds no Kubernetes object"),
        (&["-n", "shop", "--kubeconfig", "/nonexistent"], "", UNAVAILABLE, "", "/nonexistent"),
        (&["-A"], "", UNAVAILABLE, "", "give --kubeconfig"),
        (&[], "", USAGE, "", "<FILE>"),
        (&["-n", "shop", CLEAN], "", USAGE, "", "cannot be used with"),
        (&["-n", "shop", "-A"], "", USAGE, "", "cannot be used with"),
        (&["--ignore", "no-such-rule", CLEAN], "", USAGE, "", "no-such-rule"),
        (&["-o", "xml", CLEAN], "", USAGE, "", "sarif"),
    ];
    for (args, input, code, out, err) in rows {
        let output = check(args, input)?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.code() == Some(*code), "{args:?}: {:?}\n{stdout}\n{stderr}", output.status);
        ensure!(stdout.contains(out) && stderr.contains(err), "{args:?}:\n{stdout}\n{stderr}");
        ensure!(!err.is_empty() || stderr.is_empty(), "{args:?}: {stderr}");
    }
    Ok(())
}

/// Each format is one document on standard output, also where an input is broken.
#[test]
fn documents_are_whole() -> Result<()> {
    for (format, version) in [("json", Value::from(1)), ("sarif", Value::from("2.1.0"))] {
        let output = check(&["-o", format, BAD, "-"], "[")?;
        ensure!(output.status.code() == Some(BAD_INPUT));
        let document: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(document["version"] == version, "{document}");
        let text = document.to_string();
        ensure!(text.contains("<stdin>") && text.contains("no-readiness-probe"), "{text}");
    }
    Ok(())
}
