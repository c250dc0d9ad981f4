//! Other people's servers, which say nothing when they are ready but listen on a port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::netns::Netns;
use crate::process::Process;

/// A virtual machine on a busy computer needs its time.
const START: Duration = Duration::from_secs(60);

/// Starts `program` in `netns` and waits until it listens on `port`; what it says goes to `log`.
pub fn start(
    host: &Host,
    netns: &Netns,
    cgroup: &str,
    program: &[String],
    port: u16,
    log: &Path,
) -> Result<Process> {
    let (name, args) = program.split_first().context("an empty command")?;
    let file = File::options().create(true).append(true).open(log).context("make the log")?;
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let process = host.start(command, netns, cgroup)?;
    let (to, until) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Instant::now() + START);
    // Nothing announces that a port is open, so look again soon, or when the process has ended.
    while netns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1))).is_err() {
        let ended = process.exited_within(Duration::from_millis(20));
        if ended || Instant::now() > until {
            let how = if ended { "ended" } else { "does not listen" };
            bail!("{name} {how}: {}", fs::read_to_string(log).unwrap_or_default().trim());
        }
    }
    Ok(process)
}
