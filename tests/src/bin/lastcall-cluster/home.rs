//! Where the clusters' files are: one folder, which `cargo xtask e2e` fills.

use std::path::{Path, PathBuf};

/// The folder with `bin/`, `images/` and, while a cluster runs, `node/`; the second cluster's is `node-2/`.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    root: PathBuf,
    number: usize,
}

/// Where the cluster's processes see the folder: their own `/tmp`, `/run`, … are not the machine's. `node`
/// there is the cluster's own, whichever it is.
pub(crate) const INSIDE: &str = "/run/e2e";
/// Clusters that there may be on a machine.
pub(crate) const MOST: usize = 4;

impl Home {
    /// The usual cluster's.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, number: 1 }
    }

    /// Those of so many clusters, this one's first.
    pub(crate) fn and_others(&self, count: usize) -> Vec<Self> {
        (1..=count.clamp(1, MOST)).map(|number| Self { number, ..self.clone() }).collect()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A program that was built for the cluster.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// What belongs to one life of the cluster: logs, certificates, data.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join(self.numbered("node"))
    }

    /// The log of a component.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.node().join("log").join(format!("{component}.log"))
    }

    /// Its folder in each of the machine's cgroup hierarchies.
    pub(crate) fn cgroup(&self) -> String {
        self.numbered("lastcall-e2e")
    }

    /// Locked for as long as there is this cluster on the machine, whoever's folder it lives in.
    pub(crate) fn lock(&self) -> PathBuf {
        Path::new("/run/lock").join(format!("{}.lock", self.cgroup()))
    }

    /// What is said before the lines of a cluster that has others beside it.
    pub(crate) fn label(&self) -> String {
        self.numbered("node")
    }

    fn numbered(&self, name: &str) -> String {
        if self.number == 1 { name.to_owned() } else { format!("{name}-{}", self.number) }
    }
}
