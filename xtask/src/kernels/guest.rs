//! One kernel under QEMU, without KVM: started, listened to line by line, ended in time.
//!
//! The guest's clock counts its instructions, not the host's seconds: on a busy machine a check takes longer, but
//! no timeout in it comes sooner, and a guest that sleeps costs nothing.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    checks::{BEGIN, Check, END, Outcome},
    fetch::Kernel,
};

/// All of a kernel's checks, on a machine that is busy with other things too.
const LIMIT: Duration = Duration::from_secs(2400);
/// An instruction is a nanosecond; where nothing runs, the clock jumps to the next timer. With more than one
/// processor that ends in a boot that does not end (seen with 6.1).
const CLOCK: &str = "shift=0,sleep=off";
const MEMORY: &str = "2048";
/// Nothing that is dear to emulate: `max` takes a quarter more of the host. Random numbers are there from the
/// first instant on.
const PROCESSOR: &str = "qemu64,+rdrand";
/// `oops=panic`, so that a bug in the kernel is no slow test; `no_timer_check`, because an emulated timer on a
/// busy machine is late, and a kernel that checks it gives up.
const PARAMETERS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nokaslr \
                          init_on_alloc=0 random.trust_cpu=on no_timer_check";

/// What one check has shown, and how long it took.
pub(crate) struct Shown {
    /// Good or bad.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// All that it said.
    pub said: String,
}

/// Runs the checks on a kernel; calls `each` as one ends. Those that were not reached have no result.
///
/// `folder` gets what the kernel said (`console`) and what the checks said (`checks.log`).
pub(crate) fn run(
    kernel: &Kernel,
    initrd: &Path,
    folder: &Path,
    checks: &[&Check],
    mut each: impl FnMut(usize, &Shown),
) -> Result<Vec<Shown>> {
    let console = folder.join("console");
    let mut qemu = start(kernel, initrd, &console)?;
    let pipe = qemu.stdout.take().context("QEMU's output is a pipe")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            if sender.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    let mut log = File::create(folder.join("checks.log"))?;
    let mut results = Vec::new();
    let mut running: Option<(usize, Instant, String)> = None;
    let deadline = Instant::now() + LIMIT;
    let ended = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => break false,
            Err(RecvTimeoutError::Disconnected) => break true,
            Ok(line) => {
                writeln!(log, "{line}")?;
                if let Some(number) = line.strip_prefix(BEGIN).and_then(|n| n.parse().ok()) {
                    running = Some((number, Instant::now(), String::new()));
                } else if let Some(status) = line.strip_prefix(END).and_then(|n| n.parse().ok()) {
                    let Some((number, since, said)) = running.take() else { continue };
                    let Some(check) = checks.get(number) else { continue };
                    let result = Shown { outcome: check.read(&said, status), took: since.elapsed(), said };
                    each(number, &result);
                    results.push(result);
                } else if let Some((_, _, said)) = &mut running {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        }
    };
    end(&mut qemu, ended)?;
    // The check in which the kernel died or hung.
    if let Some((number, since, said)) = running {
        let why = if ended { "the kernel ended" } else { "the kernel hung" };
        let outcome = Outcome::Bad(format!("{why}, see {}", console.display()));
        let result = Shown { outcome, took: since.elapsed(), said };
        each(number, &result);
        results.push(result);
    }
    Ok(results)
}

fn start(kernel: &Kernel, initrd: &Path, console: &Path) -> Result<Child> {
    // An old one would be taken for this run's.
    let _ = fs::remove_file(console);
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=single", "-icount", CLOCK, "-rtc", "clock=vm"])
        .args(["-cpu", PROCESSOR, "-smp", "1", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", PARAMETERS])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    qemu.spawn().context("cannot run qemu-system-x86_64")
}

/// QEMU closes its output when the guest switches off, and ends at once then.
fn end(qemu: &mut Child, ended: bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while ended && Instant::now() < until {
        if qemu.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    qemu.kill().context("end QEMU")?;
    qemu.wait().map(drop).context("end QEMU")
}
