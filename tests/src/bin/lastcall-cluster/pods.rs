//! What a watch says of the cluster's pods, with the time of each change: events to wait for.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lastcall_tests::clock::now;
use lastcall_tests::process::Process;
use serde_json::Value;

use crate::cluster::Cluster;

/// One pod, from its first to its last sight. Times are [`now`]'s.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The value of its label `app`.
    pub(crate) app: String,
    pub(crate) deleting: Option<f64>,
    pub(crate) gone: Option<f64>,
    /// The last state of the object.
    pub(crate) object: Value,
}

impl Seen {
    pub(crate) fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array();
        let is = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        self.gone.is_none() && self.deleting.is_none() && conditions.is_some_and(|all| all.iter().any(is))
    }

    pub(crate) fn ip(&self) -> Option<&str> {
        self.object["status"]["podIP"].as_str()
    }

    pub(crate) fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

/// All pods that were ever seen, by UID.
pub(crate) type All = BTreeMap<String, Seen>;

/// A watch that goes on until it is dropped, through restarts of the API server.
#[derive(Debug)]
pub(crate) struct Pods {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<All>,
    changed: Condvar,
    watch: Mutex<Option<Arc<Process>>>,
    over: std::sync::atomic::AtomicBool,
}

impl Pods {
    pub(crate) fn watch(cluster: &Cluster) -> Self {
        let shared = Arc::new(Shared::default());
        let (cluster, of) = (cluster.clone(), Arc::clone(&shared));
        thread::spawn(move || {
            while !of.over.load(std::sync::atomic::Ordering::Relaxed) {
                // An API server that is away is part of some scenarios.
                let _ = of.follow(&cluster);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self { shared }
    }

    /// Waits until `look` finds something in the pods; `what` is for the error.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&All) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        let mut all = self.shared.all();
        loop {
            if let Some(found) = look(&all) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            all = self.shared.changed.wait_timeout(all, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All pods as they are known now.
    pub(crate) fn all(&self) -> All {
        self.shared.all().clone()
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.shared.over.store(true, std::sync::atomic::Ordering::Relaxed);
        self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Shared {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went while nobody watched is gone. To be called when the watch has begun: between a list before it
    /// and its own first one a pod could go without a word.
    fn relist(&self, cluster: &Cluster) -> Result<()> {
        let text = cluster.kubectl(&["get", "pods", "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let there: Vec<&str> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| pod["metadata"]["uid"].as_str())
            .collect();
        for (uid, seen) in self.all().iter_mut() {
            if seen.gone.is_none() && !there.contains(&uid.as_str()) {
                seen.gone = Some(now());
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    fn follow(&self, cluster: &Cluster) -> Result<()> {
        let mut command = cluster.node("kubectl");
        command.args(["get", "pods", "-A", "--watch", "--output-watch-events", "-o", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let process = Arc::new(Process::new(command.spawn()?)?);
        let stdout = BufReader::new(process.stdout()?);
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        for (number, event) in serde_json::Deserializer::from_reader(stdout).into_iter::<Value>().enumerate()
        {
            if number == 0 {
                self.relist(cluster)?;
            }
            self.note(event?);
        }
        Ok(())
    }

    fn note(&self, mut event: Value) {
        let mut object = event["object"].take();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&object["metadata"]["uid"]);
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let mut all = self.all();
        let seen = all.entry(uid).or_default();
        seen.namespace = text(&object["metadata"]["namespace"]);
        seen.name = text(&object["metadata"]["name"]);
        seen.app = text(&object["metadata"]["labels"]["app"]);
        if object["metadata"]["deletionTimestamp"].is_string() && seen.deleting.is_none() {
            seen.deleting = Some(now());
        }
        if event["type"] == "DELETED" {
            seen.gone = Some(now());
        }
        seen.object = object;
        drop(all);
        self.changed.notify_all();
    }
}
