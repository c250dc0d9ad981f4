//! Where the agent learns of pods: files, or an API server.
//!
//! Nothing waits for the API server: the agent answers hooks before it has been heard, and while it is
//! away.

use tokio::sync::oneshot;

use crate::{
    cluster::{
        Cluster, Options,
        api::{Api, Draining, Health, Scope},
        manifests::{Manifests, Problems},
    },
    config::{self, Config},
};

/// A source, opened.
pub(super) enum Source {
    Files(Manifests),
    Api { api: Api, scope: Scope },
}

/// What a source says of itself.
#[derive(Clone)]
pub(super) enum Told {
    Files(Problems),
    Api(Health),
}

/// The index that the source will fill.
pub(super) fn cluster(config: &Config) -> Cluster {
    let (node_name, slices_start_drains) = match &config.source {
        config::Source::Files { node, .. } => (node.clone(), true),
        config::Source::Cluster { node, .. } => (Some(node.clone()), false),
    };
    Cluster::new(Options { node_name, hook_port: config.hook_port, slices_start_drains })
}

impl Source {
    /// Files are read; of the API server only the way there is.
    pub(super) async fn open(config: &Config, cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(match &config.source {
            config::Source::Files { path, .. } => Self::Files(Manifests::open(path, cluster.clone())?),
            config::Source::Cluster { kubeconfig, node, slices } => {
                Self::Api { api: Api::open(kubeconfig.as_deref(), node).await?, scope: *slices }
            }
        })
    }

    pub(super) fn told(&self) -> Told {
        match self {
            Self::Files(files) => Told::Files(files.problems()),
            Self::Api { api, .. } => Told::Api(api.health().clone()),
        }
    }

    pub(super) fn api(&self) -> Option<&Api> {
        match self {
            Self::Files(_) => None,
            Self::Api { api, .. } => Some(api),
        }
    }

    /// Follows it until the agent ends. The receiver is told when all pods are known.
    pub(super) fn follow(self, cluster: &Cluster, draining: Draining) -> oneshot::Receiver<()> {
        match self {
            Self::Files(files) => {
                tokio::spawn(files.run());
                let (read, told) = oneshot::channel();
                // Nobody can have dropped the other end.
                let _ = read.send(());
                told
            }
            Self::Api { api, scope } => {
                api.follow_slices(cluster, scope, draining);
                api.follow_pods(cluster)
            }
        }
    }
}

impl Told {
    /// One sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        match self {
            Self::Files(problems) => problems.list().iter().map(ToString::to_string).collect(),
            Self::Api(health) => health.problems(),
        }
    }

    pub(super) fn broken_files(&self) -> u64 {
        match self {
            Self::Files(problems) => problems.list().len() as u64,
            Self::Api(_) => 0,
        }
    }

    pub(super) fn health(&self) -> Option<&Health> {
        match self {
            Self::Files(_) => None,
            Self::Api(health) => Some(health),
        }
    }
}
