//! The API server as a source.
//!
//! In: the Pods of this node, the EndpointSlices of namespaces with a draining pod, the Services behind
//! them. Out: the index, by list, put and delete, as with files. Nothing here decides anything: a
//! server that is gone, slow or lying by omission leaves drains to their hooks and their deadlines.
//!
//! | file | in | out |
//! |---|---|---|
//! | `folded` | JSON | records, without an object in between |
//! | `follow` | LIST and WATCH | the index |
//! | `pods`, [`slices`] | what is to be followed | |
//! | [`live`] | a question | the answer of the server itself |
//! | [`health`] | each request's end | whether the server is there |
//! | [`rights`] | | what the agent may ask for, and why |

use std::{path::Path, sync::Arc};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::{Notify, oneshot};

mod folded;
mod follow;
pub mod health;
pub mod live;
mod pods;
pub mod rights;
pub mod slices;

pub use health::Health;
pub use live::Live;
pub use slices::{Draining, Scope};

use super::Cluster;

/// A watch ends after so long and begins anew, so that a connection that died without a word is noticed.
const WATCH_SECONDS: u32 = 120;

/// Why there is no client; nothing of it passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a kubeconfig, or lacks something.
    #[error("--kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong.
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod with a service account.
    #[error("no cluster from here: run in a pod with a service account, or give --kubeconfig or --endpoints")]
    InCluster(#[from] kube::config::InClusterError),
    /// TLS, mostly.
    #[error("cannot make a client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// The API server, as a node's agent uses it.
#[derive(Clone)]
pub struct Api {
    live: Arc<Live>,
    health: Health,
    look: Arc<Notify>,
}

impl Api {
    /// By a kubeconfig, or by the pod's own service account. Does not connect yet.
    pub async fn open(kubeconfig: Option<&Path>, node: &str) -> Result<Self, Error> {
        let config = match kubeconfig {
            Some(path) => {
                let error = |source| Error::Kubeconfig { path: path.display().to_string(), source };
                let file = Kubeconfig::read_from(path).map_err(error)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(error)?
            }
            None => Config::incluster_env()?,
        };
        let health = Health::default();
        let builder = ClientBuilder::try_from(config).map_err(|e| Error::Client(Box::new(e)))?;
        let client: Client = builder.with_layer(&health).build();
        let live = Arc::new(Live::new(client, node.to_owned()));
        Ok(Self { live, health, look: Arc::default() })
    }

    /// Questions to the server itself.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether it answers.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The client, for what is written there.
    pub fn client(&self) -> Client {
        self.live.client()
    }

    /// A drain has begun: its namespace is worth a look.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Follows the pods until the agent ends; the receiver is told when they have been listed.
    pub fn follow_pods(&self, cluster: &Cluster) -> oneshot::Receiver<()> {
        let (listed, told) = oneshot::channel();
        tokio::spawn(pods::run(Arc::clone(&self.live), cluster.clone(), listed));
        told
    }

    /// Follows the slices that matter until the agent ends.
    pub fn follow_slices(&self, cluster: &Cluster, scope: Scope, draining: Draining) {
        let slices = slices::Slices {
            client: self.client(),
            cluster: cluster.clone(),
            scope,
            draining,
            look: Arc::clone(&self.look),
        };
        tokio::spawn(slices.run());
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("node", &self.live.node()).finish_non_exhaustive()
    }
}
