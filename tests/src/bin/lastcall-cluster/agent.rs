//! lastcall in the cluster: installed as its users install it, from `deploy/` and its image.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::home::INSIDE;
use crate::run::run;

/// Where `deploy/` puts it.
pub(crate) const NAMESPACE: &str = "lastcall";
const DAEMONSET: &str = "daemonset/lastcall";
/// From `kubectl apply` to an agent that is ready, on a loaded machine.
const READY: Duration = Duration::from_secs(120);

/// An installed agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    cluster: Cluster,
    manifests: String,
}

impl Agent {
    /// Installs it, and waits until it is ready.
    pub(crate) fn install(cluster: &Cluster) -> Result<Self> {
        let file = env::var_os("LASTCALL_E2E_MANIFEST")
            .map(PathBuf::from)
            .context("LASTCALL_E2E_MANIFEST is not set")?;
        let manifests = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        if cluster.is_own() {
            let mut import = cluster.node("ctr");
            import.args(["-n", "k8s.io", "images", "import", &format!("{INSIDE}/images/lastcall.tar")]);
            import.stdout(std::process::Stdio::null());
            run(&mut import, READY).context("import the agent's image")?;
        }
        let agent = Self { cluster: cluster.clone(), manifests };
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
        let words = ["delete", "--ignore-not-found", "--wait=true", "--timeout=80s", "-f", "-"];
        self.cluster.kubectl_with(&words, &self.manifests, Duration::from_secs(100)).map(drop)
    }

    /// What the running agent has logged.
    pub(crate) fn log(&self) -> Result<String> {
        self.cluster.kubectl(&["-n", NAMESPACE, "logs", DAEMONSET, "--tail=-1"])
    }

    /// How the drains of these pods ended, as the running agent logged it.
    pub(crate) fn outcomes(&self, pods: &[String]) -> Vec<String> {
        let ends = self.ends();
        pods.iter().map(|pod| ends.get(pod).cloned().unwrap_or_else(|| "no word of it".to_owned())).collect()
    }

    /// By pod's name.
    fn ends(&self) -> BTreeMap<String, String> {
        let log = self.log().unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ends = lines.filter_map(|line| {
            let fields = &line["fields"];
            let name = fields["pod"].as_str()?.rsplit('/').next()?.to_owned();
            let outcome = fields["outcome"].as_str()?.to_owned();
            let ends = fields["message"] == "drain ends";
            ends.then(|| {
                (name, fields["seconds"].as_f64().map_or(outcome.clone(), |s| format!("{outcome} {s:.1} s")))
            })
        });
        ends.collect()
    }
}
