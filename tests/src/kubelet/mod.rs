//! The small kubelet: a process of its own on the node, in its own cgroup, that stops pods as the real one
//! does. Here is the handle; the process is `lastcall-kubelet`.

pub mod wire;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::host::Host;
use crate::journal::Journal;
use crate::manifest::Hook;
use crate::pod::Pod;
use crate::process::{Process, binary};
use wire::{Call, Event, Order, Orders, Probe, Target, What};

/// The name of the kubelet's process, and of its cgroup below the node's.
pub const NAME: &str = "kubelet";
/// Where a kubelet serves its own API; an agent finds the kubelet by this port.
pub const API_PORT: u16 = 10250;
/// Nothing in a test lasts longer than this.
const AGES: Duration = Duration::from_secs(120);

/// The kubelet of a node.
#[derive(Debug)]
pub struct Kubelet {
    orders: Mutex<ChildStdin>,
    events: Arc<Journal<Event>>,
    stopping: Arc<Mutex<Vec<(u64, Pod)>>>,
    cluster: Arc<Cluster>,
    cgroup: PathBuf,
    process: Process,
    next: AtomicU64,
    listener: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts a kubelet on `host`, by its name (of the process and of the cgroup) and the port of its API.
    pub(crate) fn start(host: &Host, cluster: &Arc<Cluster>, name: &str, port: u16) -> Result<Self> {
        let mut command = Command::new(binary("lastcall-kubelet")?);
        command.args([name, &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = host.start(command, host.netns(), name)?;
        let mut kubelet = Self {
            orders: Mutex::new(process.stdin()?),
            events: Arc::default(),
            stopping: Arc::default(),
            cluster: Arc::clone(cluster),
            cgroup: host.cgroup().child(name)?,
            next: AtomicU64::new(1),
            listener: None,
            process,
        };
        let mut stdout = BufReader::new(kubelet.process.stdout()?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the kubelet did not start: {line:?}");
        }
        kubelet.listener = Some(kubelet.listen(stdout));
        Ok(kubelet)
    }

    /// Deletes `pod` as `kubectl delete` does: first its deletionTimestamp, then its hooks, then its
    /// endpoints; when it is gone, its sandbox and its object.
    pub fn delete(&self, pod: &Pod) -> Result<Stop> {
        self.delete_with_grace(pod, None)
    }

    /// The same with `--grace-period`.
    pub fn delete_with_grace(&self, pod: &Pod, grace: Option<u32>) -> Result<Stop> {
        self.cluster.mark_deleted(pod.name(), grace)?;
        let stop = self.stop_with_grace(pod, grace)?;
        self.cluster.sync()?;
        Ok(stop)
    }

    /// Runs the hooks and stops the containers without a word to the API: what an eviction, a node
    /// shutdown and a liveness restart look like while it lasts.
    pub fn stop(&self, pod: &Pod) -> Result<Stop> {
        self.stop_with_grace(pod, None)
    }

    fn stop_with_grace(&self, pod: &Pod, grace: Option<u32>) -> Result<Stop> {
        let orders = self.orders(pod, grace)?;
        let id = orders.id;
        self.lock_stopping().push((id, pod.clone()));
        self.send(&Order::Stop(orders))?;
        Ok(Stop { id, events: Arc::clone(&self.events) })
    }

    /// Runs the pod's hooks once more, without stopping anything.
    pub fn call_hook(&self, pod: &Pod) -> Result<Stop> {
        let orders = self.orders(pod, None)?;
        let id = orders.id;
        self.send(&Order::Call(orders))?;
        Ok(Stop { id, events: Arc::clone(&self.events) })
    }

    /// Probes `path` at `target` every `period` from now on, on a new connection each time.
    pub fn probe(&self, target: SocketAddr, path: &str, period: Duration) -> Result<()> {
        let period_ms = period.as_millis() as u64;
        self.send(&Order::Probe(Probe {
            ip: target.ip(),
            port: target.port(),
            path: path.to_owned(),
            period_ms,
        }))
    }

    /// From now on it looks every `seconds` whether whoever holds a hook is still there; usual are 15.
    pub fn keeps_alive_every(&self, seconds: u64) -> Result<()> {
        self.send(&Order::KeepAlive(seconds))
    }

    /// Its cgroup, for `--kubelet-cgroup`.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// What it said last, for a failing test.
    pub fn last_events(&self, n: usize) -> Vec<String> {
        self.events.tail(n).iter().filter_map(|event| serde_json::to_string(event).ok()).collect()
    }

    fn orders(&self, pod: &Pod, grace: Option<u32>) -> Result<Orders> {
        let object = self.cluster.pod(pod.name())?;
        let containers = object.containers.iter().map(|container| {
            let hook = match container.hook.clone() {
                Hook::None => Call::None,
                Hook::Sleep(seconds) => Call::Sleep(seconds.into()),
                Hook::Http { path, port, headers } => Call::Http { path, port, headers },
            };
            Ok(Target { name: container.name.clone(), pid: pod.pid_of(&container.name)?, hook })
        });
        Ok(Orders {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            pod: object.name.clone(),
            ip: *object.ips.first().context("the pod has no address")?,
            grace_seconds: grace.unwrap_or(object.grace).into(),
            containers: containers.collect::<Result<_>>()?,
        })
    }

    fn send(&self, order: &Order) -> Result<()> {
        let mut pipe = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipe, "{}", serde_json::to_string(order)?).context("the kubelet is gone")
    }

    /// Collects the events, and does for a pod that is gone what is left to do, before it says so.
    fn listen(&self, stdout: BufReader<ChildStdout>) -> JoinHandle<()> {
        let (events, stopping, cluster) =
            (Arc::clone(&self.events), Arc::clone(&self.stopping), Arc::clone(&self.cluster));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Event>(&line) else {
                    eprintln!("kubelet: {line}");
                    continue;
                };
                if event.what == What::Gone {
                    let mut stopping = stopping.lock().unwrap_or_else(PoisonError::into_inner);
                    let at = stopping.iter().position(|(id, _)| *id == event.id);
                    let pod = at.map(|at| stopping.swap_remove(at).1);
                    drop(stopping);
                    clean_up(&cluster, pod);
                }
                events.push(event);
            }
        })
    }

    fn lock_stopping(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Pod)>> {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kubelet {
    /// The listener holds pods that are being stopped, and through them the node.
    fn drop(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.listener.take().map(JoinHandle::join);
        self.lock_stopping().clear();
    }
}

/// A deleted pod loses its sandbox and its object; one that was only stopped keeps both.
fn clean_up(cluster: &Cluster, pod: Option<Pod>) {
    let Some(pod) = pod else { return };
    if !cluster.pod(pod.name()).is_ok_and(|object| object.deleted.is_some()) {
        return;
    }
    let result = pod.tear_down().and_then(|()| cluster.remove_pod(pod.name()));
    if let Err(error) = result {
        eprintln!("clean up after {}: {error:#}", pod.name());
    }
}

/// A pod on its way out: what the kubelet does to it, and when.
#[derive(Clone, Debug)]
pub struct Stop {
    id: u64,
    events: Arc<Journal<Event>>,
}

/// The answer that a hook got.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The container whose hook it was.
    pub container: String,
    /// When it was there in full, by [`crate::clock::now`].
    pub at: f64,
    /// How long the hook took.
    pub waited: Duration,
    /// The HTTP status.
    pub status: u16,
    /// The body; `Null` where it is no JSON.
    pub body: Value,
}

impl Answer {
    /// `outcome` of the body: `drained`, `busy`, `deadline`, …
    pub fn outcome(&self) -> &str {
        self.body["outcome"].as_str().unwrap_or_default()
    }
}

impl Stop {
    /// Waits for all of `during`, and says whether the hook is still held then.
    pub fn still_held_after(&self, during: Duration) -> bool {
        self.started().is_ok() && self.hook_end("", during).is_none()
    }

    /// The answer to the pod's only (or first) hook; an error if it does not come in time, or if the hook
    /// ends in another way.
    pub fn answered_within(&self, timeout: Duration) -> Result<Answer> {
        self.container_answered_within("", timeout)
    }

    /// The answer to the hook of one container.
    pub fn container_answered_within(&self, container: &str, timeout: Duration) -> Result<Answer> {
        let end =
            self.hook_end(container, timeout).with_context(|| format!("no answer within {timeout:?}"))?;
        match end.what {
            What::HookAnswered { status, body } => {
                let waited = Duration::from_secs_f64((end.at - self.started()?).max(0.0));
                let body = serde_json::from_str(&body).unwrap_or(Value::Null);
                Ok(Answer { container: end.container, at: end.at, waited, status, body })
            }
            other => bail!("the hook was not answered: {other:?}"),
        }
    }

    /// What a `FailedPreStopHook` was about; an error if the hook does not fail in time.
    pub fn failed_within(&self, timeout: Duration) -> Result<(f64, String)> {
        let end = self.hook_end("", timeout).with_context(|| format!("no failure within {timeout:?}"))?;
        match end.what {
            What::HookFailed { error } => Ok((end.at, error)),
            other => bail!("the hook did not fail: {other:?}"),
        }
    }

    /// When the first hook started.
    pub fn started(&self) -> Result<f64> {
        self.when(AGES, |what| *what == What::HookStarted).context("no hook started")
    }

    /// When the first SIGTERM went out.
    pub fn terminated_within(&self, timeout: Duration) -> Result<f64> {
        let when = self.when(timeout, |what| matches!(what, What::Terminated { .. }));
        when.with_context(|| format!("no SIGTERM within {timeout:?}"))
    }

    /// When the last container had ended.
    pub fn gone_within(&self, timeout: Duration) -> Result<f64> {
        self.when(timeout, |what| *what == What::Gone).with_context(|| format!("not gone within {timeout:?}"))
    }

    /// Whether a container had to be killed, up to now.
    pub fn was_killed(&self) -> bool {
        self.when(Duration::ZERO, |what| *what == What::Killed).is_some()
    }

    fn hook_end(&self, container: &str, timeout: Duration) -> Option<Event> {
        self.events.wait(timeout, |event| {
            let ended = matches!(
                event.what,
                What::HookAnswered { .. } | What::HookFailed { .. } | What::HookTimedOut | What::HookSlept
            );
            let ours = event.id == self.id && (container.is_empty() || event.container == container);
            (ours && ended).then(|| event.clone())
        })
    }

    fn when(&self, timeout: Duration, which: impl Fn(&What) -> bool) -> Option<f64> {
        self.events.wait(timeout, |event| (event.id == self.id && which(&event.what)).then_some(event.at))
    }
}
