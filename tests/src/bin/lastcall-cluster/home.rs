//! Where the cluster's files are: one folder, which `cargo xtask e2e` fills.

use std::path::{Path, PathBuf};

/// The folder with `bin/`, `images/` and, while a cluster runs, `node/`.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    root: PathBuf,
}

/// Where the cluster's processes see the folder: their own `/tmp`, `/run`, … are not the machine's.
pub(crate) const INSIDE: &str = "/run/e2e";

impl Home {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
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
        self.root.join("node")
    }

    /// The log of a component.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.node().join("log").join(format!("{component}.log"))
    }
}
