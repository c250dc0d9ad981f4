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
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clock;
use crate::cluster::Cluster;
use crate::host::Host;
use crate::journal::Journal;
use crate::manifest::Hook;
use crate::pace::Since;
use crate::pod::Pod;
use crate::process::{Process, binary};
use wire::{Call, Event, Order, Orders, Probe, Target, What};

/// The name of the kubelet's process, and of its cgroup below the node's.
pub const NAME: &str = "kubelet";
/// Where a kubelet serves its own API; an agent finds the kubelet by this port.
pub const API_PORT: u16 = 10250;
/// Nothing in a test lasts longer than this.
const AGES: Duration = Duration::from_secs(120);
/// The most that a bound gets wider because the machine is busy with something else.
const MOST_LOST: Duration = Duration::from_secs(60);

/// The kubelet of a node.
#[derive(Debug)]
pub struct Kubelet {
    orders: Mutex<ChildStdin>,
    events: Arc<Journal<Event>>,
    stopping: Arc<Mutex<Vec<(u64, Pod)>>>,
    cluster: Arc<Cluster>,
    cgroup: PathBuf,
    node: PathBuf,
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
            node: host.cgroup().path().to_owned(),
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
        let ordered = clock::now();
        self.cluster.mark_deleted(pod.name(), grace)?;
        let stop = self.stop_with_grace(pod, grace)?;
        self.cluster.sync()?;
        Ok(Stop { ordered, ..stop })
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
        let stop = self.ordered(id);
        self.send(&Order::Stop(orders))?;
        Ok(stop)
    }

    /// Runs the pod's hooks once more, without stopping anything.
    pub fn call_hook(&self, pod: &Pod) -> Result<Stop> {
        let orders = self.orders(pod, None)?;
        let stop = self.ordered(orders.id);
        self.send(&Order::Call(orders))?;
        Ok(stop)
    }

    fn ordered(&self, id: u64) -> Stop {
        Stop { id, ordered: clock::now(), since: Since::now(&self.node), events: Arc::clone(&self.events) }
    }

    /// Probes `path` at `target` every `period` from now on, on a new connection each time, and gives up
    /// after a second, as is usual.
    pub fn probe(&self, target: SocketAddr, path: &str, period: Duration) -> Result<()> {
        self.probe_patiently(target, path, period, Duration::from_secs(1))
    }

    /// The same with another `timeoutSeconds`.
    pub fn probe_patiently(
        &self,
        target: SocketAddr,
        path: &str,
        period: Duration,
        timeout: Duration,
    ) -> Result<()> {
        self.send(&Order::Probe(Probe {
            ip: target.ip(),
            port: target.port(),
            path: path.to_owned(),
            period_ms: period.as_millis() as u64,
            timeout_ms: timeout.as_millis() as u64,
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
    /// Before anybody was told, by [`crate::clock::now`].
    ordered: f64,
    since: Since,
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
    /// The same from before the deletion was written (or the hook was ordered): nobody can have known of it
    /// for longer, and so it is what lower bounds are of.
    pub since_order: Duration,
    /// What the machine kept from the node in all that time.
    pub lost: Duration,
    /// The same for as long as the answer was waited for.
    pub lost_at_last: Duration,
    /// Since when that was, by [`crate::clock::now`].
    pub awaited_from: f64,
    /// The HTTP status.
    pub status: u16,
    /// The body; `Null` where it is no JSON.
    pub body: Value,
}

impl Answer {
    /// Whether the hook took no longer than this, but for what the machine kept from the node.
    pub fn took_less_than(&self, bound: Duration) -> bool {
        self.waited < bound + self.lost
    }

    /// The last connection was closed right before the answer was waited for: an event, no poll, brought it. By
    /// the agent's own measure it came within `bound`; where a dump was just under way and saw the end before
    /// the event was looked at, so that there is none, within `unmeasured` by the clock. What the machine kept
    /// from the node meanwhile is added to both.
    pub fn follows_the_last_close(&self, bound: Duration, unmeasured: Duration) -> Result<()> {
        let own = self.body["last_close_to_answer_ms"].as_f64().map(|ms| ms / 1e3);
        let (took, bound) = match own {
            Some(took) => (took, bound),
            None => (self.at - self.awaited_from, unmeasured),
        };
        let bound = (bound + self.lost_at_last).as_secs_f64();
        ensure!(took < bound, "{took} s after the last close, not {bound}: {self:?}");
        Ok(())
    }

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
    /// ends in another way. Time that the machine keeps from the node is added to `timeout`, here and below.
    pub fn answered_within(&self, timeout: Duration) -> Result<Answer> {
        self.container_answered_within("", timeout)
    }

    /// The answer to the hook of one container.
    pub fn container_answered_within(&self, container: &str, timeout: Duration) -> Result<Answer> {
        let awaited_from = clock::now();
        let (end, lost_at_last) = self.in_time(timeout, |timeout| self.hook_end(container, timeout));
        let end = end.with_context(|| format!("no answer within {timeout:?} and {lost_at_last:?}"))?;
        match end.what {
            What::HookAnswered { status, body } => {
                let from = |moment: f64| Duration::from_secs_f64((end.at - moment).max(0.0));
                let (waited, since_order) = (from(self.started()?), from(self.ordered));
                let body = serde_json::from_str(&body).unwrap_or(Value::Null);
                let (container, at, lost) = (end.container, end.at, self.lost());
                Ok(Answer {
                    container,
                    at,
                    waited,
                    since_order,
                    lost,
                    lost_at_last,
                    awaited_from,
                    status,
                    body,
                })
            }
            other => bail!("the hook was not answered: {other:?}"),
        }
    }

    /// What a `FailedPreStopHook` was about; an error if the hook does not fail in time.
    pub fn failed_within(&self, timeout: Duration) -> Result<(f64, String)> {
        let (end, lost) = self.in_time(timeout, |timeout| self.hook_end("", timeout));
        let end = end.with_context(|| format!("no failure within {timeout:?} and {lost:?}"))?;
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
        let terminated = |what: &What| matches!(what, What::Terminated { .. });
        let (when, lost) = self.in_time(timeout, |timeout| self.when(timeout, terminated));
        when.with_context(|| format!("no SIGTERM within {timeout:?} and {lost:?}"))
    }

    /// When the last container had ended.
    pub fn gone_within(&self, timeout: Duration) -> Result<f64> {
        let (when, lost) = self.in_time(timeout, |timeout| self.when(timeout, |what| *what == What::Gone));
        when.with_context(|| format!("not gone within {timeout:?} and {lost:?}"))
    }

    /// What the machine has kept from the node since all this began.
    pub fn lost(&self) -> Duration {
        self.since.lost()
    }

    /// Waits for something in time, which gets longer by what the machine keeps from the node meanwhile;
    /// and how much that was.
    fn in_time<T>(&self, timeout: Duration, wait: impl Fn(Duration) -> Option<T>) -> (Option<T>, Duration) {
        let (since, began) = (self.since.again(), Instant::now());
        let mut left = timeout;
        loop {
            let found = wait(left);
            let lost = since.lost().min(MOST_LOST);
            left = (timeout + lost).saturating_sub(began.elapsed());
            if found.is_some() || left.is_zero() {
                return (found, lost);
            }
        }
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
