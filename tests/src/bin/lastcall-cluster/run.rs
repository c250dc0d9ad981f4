//! Commands, bounded in time.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lastcall_tests::process::Process;
use nix::sys::signal::Signal;

/// Runs a command with its words shown; fails if it does, or takes longer than `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let what = shown(command);
    let process = Process::new(command.stdin(Stdio::null()).spawn().with_context(|| format!("run {what}"))?)?;
    match process.exit_code_within(limit) {
        Some(0) => Ok(()),
        Some(code) => bail!("{what}: exit code {code}"),
        None if process.has_exited() => bail!("{what}: ended by a signal"),
        None => {
            process.signal(Signal::SIGTERM);
            process.exited_within(Duration::from_secs(5));
            bail!("{what}: not done after {} s", limit.as_secs())
        }
    }
}

/// Runs a command and returns what it said, whatever its exit code.
pub(crate) fn output(command: &mut Command, input: &str, limit: Duration) -> Result<Output> {
    let what = shown(command);
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {what}"))?;
    let process = Process::new(child)?;
    let (stdin, input) = (process.stdin()?, input.to_owned());
    // Who does not read its input to the end need not.
    thread::spawn(move || std::io::Write::write_all(&mut { stdin }, input.as_bytes()));
    let (stdout, stderr) = (process.stdout()?, process.stderr()?);
    let readers = [reader(stdout), reader(stderr)];
    let code = process.exit_code_within(limit);
    if code.is_none() && process.has_exited() {
        bail!("{what}: ended by a signal");
    }
    if code.is_none() {
        process.signal(Signal::SIGKILL);
        process.exited_within(Duration::from_secs(5));
        bail!("{what}: not done after {} s", limit.as_secs());
    }
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap_or_default());
    let status = std::os::unix::process::ExitStatusExt::from_raw(code.unwrap_or(1) << 8);
    Ok(Output { status, stdout, stderr })
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    // How a command comes into the cluster is of no interest.
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let from = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    words[from..].join(" ")
}
