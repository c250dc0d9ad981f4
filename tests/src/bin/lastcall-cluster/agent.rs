//! lastcall in the cluster: installed as its users install it, from `deploy/` and its image.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::home::INSIDE;
use crate::run::{output, run};

/// Where `deploy/` puts it.
pub(crate) const NAMESPACE: &str = "lastcall";
/// And under which name.
pub(crate) const DAEMONSET: &str = "daemonset/lastcall";
/// From `kubectl apply` to an agent that is ready, on a loaded machine.
const READY: Duration = Duration::from_secs(180);

/// Lowers the memory limit of a process's cgroup until the kernel ends the process. cgroup2 takes any limit, and
/// kills; the first version takes none that is below what cannot be reclaimed, so it is lowered as far as it
/// goes, and the agent is asked for its metrics, which takes memory.
const EXHAUST: &str = r#"
    # It may be gone between the connection and the question.
    trap '' PIPE
    pid=$0
    controller=$(awk -F: '$2 == "memory" {print $3}' "/proc/$pid/cgroup")
    if [ -n "$controller" ]; then
      folder=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ {print $2; exit}' /proc/mounts)$controller
    else
      folder=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)$(awk -F: '$1 == "0" {print $3}' "/proc/$pid/cgroup")
    fi
    for _ in $(seq 300); do
      [ -e "/proc/$pid" ] || exit 0
      if [ -n "$controller" ]; then
        used=$(cat "$folder/memory.usage_in_bytes") || exit 0
        for less in 1048576 131072 0; do
          echo $((used - less)) >"$folder/memory.limit_in_bytes" && break
        done
        exec 3<>/dev/tcp/127.0.0.1/9903 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && timeout 1 cat <&3 || sleep 0.1
        exec 3>&-
      else
        echo 1M >"$folder/memory.max" || exit 0
        sleep 0.1
      fi
    done 2>/dev/null >/dev/null
    [ ! -e "/proc/$pid" ]"#;

/// An installed agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    cluster: Cluster,
    manifests: String,
    past: Arc<Mutex<String>>,
}

impl Agent {
    /// Installs it, and waits until it is ready.
    pub(crate) fn install(cluster: &Cluster) -> Result<Self> {
        let file = manifest()?;
        let manifests = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        if cluster.is_own() {
            let mut import = cluster.node("ctr");
            import.args(["-n", "k8s.io", "images", "import", &format!("{INSIDE}/images/lastcall.tar")]);
            import.stdout(std::process::Stdio::null());
            run(&mut import, READY).context("import the agent's image")?;
        }
        let agent = Self { cluster: cluster.clone(), manifests, past: Arc::default() };
        agent.apply()?;
        Ok(agent)
    }

    /// `kubectl apply -f deploy/lastcall.yaml`, again where it was deleted.
    pub(crate) fn apply(&self) -> Result<()> {
        self.cluster.apply(&self.manifests)?;
        self.ready()
    }

    /// Waits until the DaemonSet's pods are ready.
    pub(crate) fn ready(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", READY.as_secs());
        let words = ["-n", NAMESPACE, "rollout", "status", DAEMONSET, &timeout];
        if let Err(error) = self.cluster.kubectl_with(&words, "", READY + Duration::from_secs(10)) {
            let log = self.log().unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(10).collect();
            return Err(error)
                .with_context(|| format!("the agent does not get ready; its last words: {last:#?}"));
        }
        Ok(())
    }

    /// `kubectl delete` of everything in `deploy/`, to its end.
    pub(crate) fn remove(&self) -> Result<()> {
        self.remember()?;
        let words = ["delete", "--ignore-not-found", "--wait=true", "--timeout=180s", "-f", "-"];
        let removed = self.cluster.kubectl_with(&words, &self.manifests, READY + Duration::from_secs(10));
        removed.map(drop).map_err(|error| error.context(format!("left: {}", self.left())))
    }

    /// A file of `deploy/` beside the one that it was installed by.
    pub(crate) fn beside(&self, name: &str) -> Result<String> {
        let file = manifest()?.with_file_name(name);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// What a removal that does not end waits for, as the API has it.
    fn left(&self) -> String {
        let conditions = "jsonpath=namespace {.status.phase}{\"; \"}{range .status.conditions[*]}{.type}={.status} {.message}{\"; \"}{end}";
        let pods = "jsonpath={range .items[*]}{.metadata.name} {.status.phase}, deleted \
                    {.metadata.deletionTimestamp}{\"; \"}{end}";
        let questions = [
            ["get", "namespace", NAMESPACE, "--ignore-not-found", "-o", conditions],
            ["-n", NAMESPACE, "get", "pods", "-o", pods],
        ];
        let said = questions.map(|words| self.cluster.kubectl(&words).unwrap_or_else(|e| format!("{e:#}")));
        said.join("; ")
    }

    /// SIGKILL of its process.
    pub(crate) fn kill(&self) -> Result<()> {
        self.remember()?;
        run(self.cluster.node("kill").args(["-KILL", &self.pid()?]), READY)
    }

    /// Has the kernel kill it for want of memory, before it had its limit and now has less.
    pub(crate) fn exhaust(&self) -> Result<()> {
        self.remember()?;
        let pid = self.pid()?;
        run(self.cluster.node("bash").args(["-c", EXHAUST, &pid]), READY).context("take the agent's memory")
    }

    /// Another pod of it, where a container of this one has ended already. The kubelet starts the next container
    /// at once; after a second end it rests for 10 to 20 s, and no hook waits for longer.
    pub(crate) fn fresh(&self) -> Result<()> {
        let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
        if self.cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", path])? != "0" {
            return self.renew();
        }
        self.ready()
    }

    /// Another pod of it, whatever became of this one.
    pub(crate) fn renew(&self) -> Result<()> {
        self.remember()?;
        let words = ["-n", NAMESPACE, "delete", "pods", "--all", "--wait=true", "--timeout=180s"];
        self.cluster.kubectl_with(&words, "", READY + Duration::from_secs(10))?;
        self.ready()
    }

    /// Its process, as the node's processes see it.
    pub(crate) fn pid(&self) -> Result<String> {
        // The oldest: `lastcall status` may run beside it.
        let pid = output(self.cluster.node("pgrep").args(["-o", "-x", "lastcall"]), "", READY)?.stdout;
        let pid = String::from_utf8_lossy(&pid).trim().to_owned();
        ensure!(!pid.is_empty(), "no agent runs");
        Ok(pid)
    }

    /// What this installation's agents have logged, those of before a restart included.
    pub(crate) fn log(&self) -> Result<String> {
        if !self.cluster.is_own() {
            return self.cluster.kubectl(&["-n", NAMESPACE, "logs", DAEMONSET, "--tail=-1"]);
        }
        // The kubelet's own files, which do not need the API server.
        let mut text = self.past().clone();
        for folder in
            fs::read_dir(self.cluster.home().node().join("podlogs")).context("logs of pods")?.flatten()
        {
            if !folder.file_name().to_string_lossy().starts_with(&format!("{NAMESPACE}_")) {
                continue;
            }
            for file in fs::read_dir(folder.path().join("agent")).into_iter().flatten().flatten() {
                text += &fs::read_to_string(file.path()).unwrap_or_default();
            }
        }
        Ok(text)
    }

    /// Keeps what was logged, with the logs of the node's components too: a pod's log goes with the pod.
    pub(crate) fn remember(&self) -> Result<()> {
        let log = self.log()?;
        if self.cluster.is_own() {
            fs::write(self.cluster.home().log("lastcall"), &log)?;
        }
        *self.past() = log;
        Ok(())
    }

    fn past(&self) -> MutexGuard<'_, String> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the drains of these pods ended, as the agent logged it.
    pub(crate) fn outcomes(&self, pods: &[String]) -> Vec<String> {
        let said = self.said().unwrap_or_default();
        let end = |pod: &String| {
            // The first: the object may be Terminating for longer than the pod lives.
            let line = said.iter().find(|line| line.ends() && line.pod.ends_with(&format!("/{pod}")))?;
            Some(format!("{} {:.1} s", line.outcome.as_deref()?, line.seconds?))
        };
        pods.iter().map(|pod| end(pod).unwrap_or_else(|| "no word of it".to_owned())).collect()
    }

    /// How the drain of a pod (`namespace/name`) ended.
    pub(crate) fn outcome(&self, pod: &str, limit: Duration) -> Result<String> {
        self.hear(&format!("the end of the drain of {pod}"), limit, |line| {
            if line.ends() && line.pod == pod { line.outcome.clone() } else { None }
        })
    }

    /// Waits until a pod's drain has begun.
    pub(crate) fn begins(&self, pod: &str, limit: Duration) -> Result<()> {
        self.hear(&format!("the drain of {pod}"), limit, |line| {
            (line.message == "drain begins" && line.pod == pod).then_some(())
        })
    }

    fn hear<T>(&self, what: &str, limit: Duration, look: impl Fn(&Line) -> Option<T>) -> Result<T> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(heard) = self.said()?.iter().find_map(&look) {
                return Ok(heard);
            }
            // A file has no event to wait for.
            thread::sleep(Duration::from_millis(200));
        }
        bail!("the agent has not logged {what} within {} s", limit.as_secs())
    }

    fn said(&self) -> Result<Vec<Line>> {
        let log = self.log()?;
        // Before the JSON stand the runtime's time and stream.
        let lines = log.lines().filter_map(|line| serde_json::from_str(line.get(line.find('{')?..)?).ok());
        Ok(lines.map(|line: Value| Line::of(&line)).collect())
    }
}

/// `deploy/lastcall.yaml`, as its users have it.
fn manifest() -> Result<PathBuf> {
    env::var_os("LASTCALL_E2E_MANIFEST").map(PathBuf::from).context("LASTCALL_E2E_MANIFEST is not set")
}

/// What the tests want to know of a line of the agent's log.
#[derive(Clone, Debug)]
struct Line {
    message: String,
    pod: String,
    outcome: Option<String>,
    seconds: Option<f64>,
}

impl Line {
    fn of(line: &Value) -> Self {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        Self {
            message: text("message").unwrap_or_default(),
            pod: text("pod").unwrap_or_default(),
            outcome: text("outcome"),
            seconds: line["seconds"].as_f64(),
        }
    }

    fn ends(&self) -> bool {
        self.message.starts_with("drain ends")
    }
}
