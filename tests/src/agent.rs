//! The agent under test: the real binary, on the node, known by its flags, its output and its two ports.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::conn::Conn;
use crate::host::{BPF_DIR, Host, MANIFESTS_DIR, NETNS_DIR};
use crate::journal::Journal;
use crate::kubelet::Kubelet;
use crate::pod::Pod;
use crate::process::{Process, binary, collect};

/// Where hooks end up, and `/status` is.
pub const HOOK_PORT: u16 = 9902;
/// Where `/readyz` and `/metrics` are.
pub const METRICS_PORT: u16 = 9903;
/// An agent that is not ready by then never will be.
pub(crate) const START: Duration = Duration::from_secs(120);

/// The agent's binary: `LASTCALL_BIN`, or the one that cargo built beside the tests.
pub fn agent_binary() -> Result<PathBuf> {
    match env::var_os("LASTCALL_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => binary("lastcall"),
    }
}

/// A running agent; it is killed when its handle goes away.
#[derive(Debug)]
pub struct Agent {
    host: Arc<Host>,
    process: Process,
    log: Arc<Journal<String>>,
}

/// An agent in the making; see [`crate::Node::agent`].
#[derive(Debug)]
#[must_use]
pub struct AgentBuilder {
    host: Arc<Host>,
    args: Vec<String>,
    under: Vec<String>,
    variables: Vec<(String, String)>,
}

impl AgentBuilder {
    pub(crate) fn new(host: &Arc<Host>, kubelet: &Kubelet) -> Self {
        let args = vec!["agent".to_owned()];
        let builder = Self { host: Arc::clone(host), args, under: Vec::new(), variables: Vec::new() };
        builder
            .flag("--endpoints", MANIFESTS_DIR)
            .flag("--netns-dir", NETNS_DIR)
            .flag("--bpf-dir", BPF_DIR)
            .flag("--cgroup-root", &host.cgroup().path().to_string_lossy())
            .flag("--kubelet-cgroup", &kubelet.cgroup().to_string_lossy())
            .flag("--hook-port", &HOOK_PORT.to_string())
            // Most tests look at the next answer, whichever client's it is.
            .flag("--last-call-within", "0s")
            .flag("--metrics-address", &format!("127.0.0.1:{METRICS_PORT}"))
            .flags_of_the_run()
    }

    /// Flags that a whole run of the tests is done with: `LASTCALL_TEST_FLAGS="--attach clsact"`.
    fn flags_of_the_run(mut self) -> Self {
        let flags = env::var("LASTCALL_TEST_FLAGS").unwrap_or_default();
        let mut words = flags.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            self = self.flag(name, value);
        }
        self
    }

    /// Sets a flag; one that is set already gets the new value.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        match self.args.iter().position(|arg| arg == name) {
            Some(at) => value.clone_into(&mut self.args[at + 1]),
            None => self.args.extend([name.to_owned(), value.to_owned()]),
        }
        self
    }

    /// Takes a flag away again.
    pub fn without(mut self, name: &str) -> Self {
        if let Some(at) = self.args.iter().position(|arg| arg == name) {
            self.args.drain(at..at + 2);
        }
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has it executed by another program, such as `setpriv` with its flags.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts it and does not wait.
    pub fn start_unready(self) -> Result<Arc<Agent>> {
        let mut command = match self.under.split_first() {
            None => Command::new(agent_binary()?),
            Some((program, flags)) => {
                let mut command = Command::new(program);
                command.args(flags).arg(agent_binary()?);
                command
            }
        };
        command.envs(self.variables);
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = self.host.start(command, self.host.netns(), "agent")?;
        let log = Arc::new(Journal::default());
        let echo = env::var_os("LASTCALL_LOG").map(|_| format!("agent {}", process.pid()));
        collect(process.stdout()?, Arc::clone(&log), echo.clone());
        collect(process.stderr()?, Arc::clone(&log), echo);
        Ok(Arc::new(Agent { host: self.host, process, log }))
    }
}

impl Agent {
    /// Waits for 200 from `/readyz`.
    pub fn ready_within(&self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        loop {
            let answer = match self.get(METRICS_PORT, "/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("/readyz said {status} {}", body.trim()),
                Err(error) => format!("/readyz: {error:#}"),
            };
            // Nothing announces that a port is open, so look again soon, or when the process has ended.
            if self.process.exited_within(Duration::from_millis(20)) {
                bail!("the agent ended{}", self.last_words());
            }
            if Instant::now() > until {
                bail!("the agent was not ready within {timeout:?}, {answer}{}", self.last_words());
            }
        }
    }

    /// The end of its log, to complete a sentence.
    fn last_words(&self) -> String {
        // Its output may still be on the way.
        let _ = self.log.wait(Duration::from_millis(100), |_| None::<()>);
        let lines = self.log_tail(20);
        if lines.is_empty() { " without a word".to_owned() } else { format!(":\n{}", lines.join("\n")) }
    }

    /// `GET /status` as JSON.
    pub fn status(&self) -> Result<Value> {
        let (status, body) = self.get(HOOK_PORT, "/status")?;
        if status != 200 {
            bail!("/status answered {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("/status is no JSON: {body:?}"))
    }

    /// What it knows of each connection of each pod that drains, from the kernel's table and the sockets.
    pub fn tables(&self) -> Vec<(String, String)> {
        let status = self.status().unwrap_or_default();
        let drains = status["drains"].as_array().cloned().unwrap_or_default();
        let name =
            |drain: &Value| Some(format!("{}/{}", drain["namespace"].as_str()?, drain["name"].as_str()?));
        let table = |pod: String| {
            let page = self.get(HOOK_PORT, &format!("/connections/{pod}"));
            let page = page.map_or_else(|error| format!("{error:#}"), |(_, body)| body);
            let parsed: Option<Value> = serde_json::from_str(&page).ok();
            let rows = parsed.and_then(|page| page["connections"].as_array().cloned()).unwrap_or_default();
            (pod, rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"))
        };
        drains.iter().filter_map(name).map(table).collect()
    }

    /// Waits until it watches the links of `pod`, which drains, and has dumped its sockets: what comes
    /// now is newer than the attach.
    pub fn watches(&self, pod: &Pod) -> Result<()> {
        let until = Instant::now() + START;
        while Instant::now() < until {
            let status = self.status()?;
            let drains = status["drains"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = drains.iter().find(|drain| drain["name"] == pod.name());
            if ours.is_some_and(|drain| drain["waiting_for"].as_str().is_some_and(|what| !what.is_empty())) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} does not drain", pod.name())
    }

    /// `GET /metrics` as text.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.get(METRICS_PORT, "/metrics")?.1)
    }

    /// The value of a metric without labels, or of one with exactly these (`name{label="value"}`).
    pub fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.metrics()?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
    }

    /// Waits until a metric has a value: something may be counted a moment after it can be seen elsewhere.
    pub fn counts(&self, name: &str, value: f64) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            let found = self.metric(name)?;
            if found == value {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{name} is {found}, not {value}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// GETs a path from the node's loopback.
    pub fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = self.host.netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))?;
        let mut conn = Conn::new(stream)?;
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"))?;
        let (head, body) = conn.response()?;
        Ok((head.status().context("no status")?, String::from_utf8_lossy(&body).into_owned()))
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.process.exited_within(START);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether the process ends within `timeout`.
    pub fn exited_within(&self, timeout: Duration) -> bool {
        self.process.exited_within(timeout)
    }

    /// The exit code, if it ends within `timeout` and not by a signal.
    pub fn exit_code_within(&self, timeout: Duration) -> Option<i32> {
        self.process.exit_code_within(timeout)
    }

    /// Resident memory in bytes: now, and the most that it ever was.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Waits for a line of the log that contains `text`.
    pub fn logs(&self, text: &str, timeout: Duration) -> Result<String> {
        let line = self.log.wait(timeout, |line| line.contains(text).then(|| line.clone()));
        line.with_context(|| format!("the agent did not log {text:?} within {timeout:?}"))
    }

    /// The last lines of its log.
    pub fn log_tail(&self, n: usize) -> Vec<String> {
        self.log.tail(n)
    }
}
