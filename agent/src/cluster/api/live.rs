//! Questions to the API server that its caches do not answer.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use crate::cluster::PodName;

/// Nobody waits longer for an answer: what it would change is decided without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server does not answer, or answers with an error of its own. Retried by whoever asks again.
    #[error("the API server does not answer")]
    Unreachable(#[source] Option<Box<kube::Error>>),
    /// The agent lacks the right.
    #[error("the API server refuses")]
    Refused(#[source] Box<kube::Error>),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Refused(Box::new(error)),
            _ => Self::Unreachable(Some(Box::new(error))),
        }
    }
}

/// Asks the API server about this node and its pods.
pub struct Live {
    client: Client,
    node: String,
}

impl Live {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// There is no such pod any more: no object, or another under its name.
    pub(super) async fn is_gone(&self, name: &PodName, uid: &str) -> Result<bool, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client(), &name.namespace);
        let pod = soon(pods.get_opt(&name.name)).await?;
        Ok(pod.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid)))
    }
}

pub(super) async fn soon<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Unreachable(None)),
    }
}
