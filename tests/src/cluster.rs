//! The API server of a node, as far as an agent with `--endpoints DIR` sees one: a directory of manifests.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::api::ApiServer;
use crate::manifest::{PodObject, ServiceObject};
use crate::proxy::Proxy;

/// Pods and Services, written to files as they change. EndpointSlices and the proxy's rules follow from
/// them when [`Cluster::sync`] says so, because in a real cluster they follow later.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    proxy: Proxy,
    api: OnceLock<Arc<ApiServer>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<PodObject>,
    services: Vec<ServiceObject>,
    masquerade: bool,
}

impl Cluster {
    /// An empty cluster whose manifests go to `dir`.
    pub fn new(dir: PathBuf, proxy: Proxy) -> Self {
        Self { dir, proxy, api: OnceLock::new(), state: Mutex::default() }
    }

    /// From now on all that is written goes to `api` as well; what was written already, at once.
    pub fn mirror(&self, api: Arc<ApiServer>) -> Result<()> {
        for file in fs::read_dir(&self.dir)? {
            tell(&api, &fs::read_to_string(file?.path())?)?;
        }
        self.api.set(api).ok().context("there is a mirror already")
    }

    /// Creates or replaces a pod.
    pub fn put_pod(&self, pod: PodObject) -> Result<()> {
        self.write(&file_of(&pod.name), &pod.yaml())?;
        let mut state = self.state();
        state.pods.retain(|other| other.name != pod.name);
        state.pods.push(pod);
        Ok(())
    }

    /// Changes the pod's object and writes it.
    pub fn update_pod(&self, name: &str, change: impl FnOnce(&mut PodObject)) -> Result<()> {
        let mut pod = self.pod(name)?;
        change(&mut pod);
        self.put_pod(pod)
    }

    /// What a DELETE does: the pod stays, with a deletionTimestamp, until the kubelet is done.
    pub fn mark_deleted(&self, name: &str, grace: Option<u32>) -> Result<()> {
        self.update_pod(name, |pod| pod.deleted = Some((Timestamp::now(), grace.unwrap_or(pod.grace))))
    }

    /// Removes the pod's object, and the pod from its slices.
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        self.state().pods.retain(|pod| pod.name != name);
        self.remove(&file_of(name))?;
        self.sync()
    }

    /// The pod's object.
    pub fn pod(&self, name: &str) -> Result<PodObject> {
        self.state()
            .pods
            .iter()
            .find(|pod| pod.name == name)
            .cloned()
            .with_context(|| format!("no pod {name}"))
    }

    /// Creates or replaces a Service.
    pub fn put_service(&self, service: ServiceObject) -> Result<()> {
        self.write(&format!("service-{}.yaml", service.name), &service.yaml())?;
        let mut state = self.state();
        state.services.retain(|other| other.name != service.name);
        state.services.push(service);
        drop(state);
        self.sync()
    }

    /// From now on connections through a Service come from the node's address, not from the client's.
    pub fn masquerade(&self) -> Result<()> {
        self.state().masquerade = true;
        self.sync()
    }

    /// Writes the EndpointSlices, and lets the proxy know.
    pub fn sync(&self) -> Result<()> {
        let state = self.state();
        for service in &state.services {
            for (family, ipv6) in [("ipv4", false), ("ipv6", true)] {
                self.write(
                    &format!("slice-{}-{family}.yaml", service.name),
                    &service.slice_yaml(&state.pods, ipv6),
                )?;
            }
        }
        self.proxy.update(&state.services, &state.pods, state.masquerade);
        Ok(())
    }

    /// The proxy, to wait for its rules.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Writes a manifest by hand; it appears whole or not at all.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let (hidden, path) = (self.dir.join(format!(".{file}.tmp")), self.dir.join(file));
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &path))
            .with_context(|| format!("write {}", path.display()))?;
        self.api.get().map_or(Ok(()), |api| tell(api, text))
    }

    /// Removes a manifest by hand.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.dir.join(file);
        if let Some(api) = self.api.get() {
            let object = parse(&fs::read_to_string(&path)?)?;
            api.remove(&object);
        }
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(yaml: &str) -> Result<Value> {
    serde_saphyr::from_str(yaml).context("a manifest of the tests' own")
}

fn tell(api: &ApiServer, yaml: &str) -> Result<()> {
    api.put(parse(yaml)?)
}

fn file_of(pod: &str) -> String {
    format!("pod-{pod}.yaml")
}
