//! The objects of a cluster.
//!
//! In: a kubeconfig and a namespace. Out: one [`Inventory`], as if their manifests had been read, and a
//! [`Problem`] for each kind that could not be listed. Only lists are asked for. What a controller made
//! (ReplicaSets' pods, CronJobs' Jobs) is its controller's to mend, and left out.

use std::{fmt::Debug, io, path::Path};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Pod, Service},
        networking::v1::Ingress,
    },
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Inventory, Problem, tree::Node};
use crate::causes;

/// Objects a page: a large namespace in some pages, none of them too large for the API server.
const PAGE: u32 = 500;

/// Reads a namespace, or all of them. An error is the runtime's; the cluster's are problems.
pub(super) fn read(
    namespace: Option<&str>,
    kubeconfig: Option<&Path>,
) -> io::Result<(Inventory, Vec<Problem>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut reader =
        Reader { inventory: Inventory { complete: true, ..Inventory::default() }, problems: vec![] };
    runtime.block_on(async {
        match client(kubeconfig).await {
            Ok(client) => reader.all(&client, namespace).await,
            Err(reason) => reader.problem("cluster", reason, true),
        }
    });
    Ok((reader.inventory, reader.problems))
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| causes(&error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| causes(&error))?
        }
        None => Config::infer().await.map_err(|error| {
            format!("no kubeconfig, and not in a cluster ({error}): give --kubeconfig, or set KUBECONFIG")
        })?,
    };
    Client::try_from(config).map_err(|error| causes(&error))
}

struct Reader {
    inventory: Inventory,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, input: &str, reason: String, fatal: bool) {
        self.problems.push(Problem { input: input.to_owned(), line: None, reason, fatal });
    }

    async fn all(&mut self, client: &Client, namespace: Option<&str>) {
        // The first answer tells whether there is a cluster at all.
        if !self.kind::<Deployment>(client, namespace, true).await {
            return;
        }
        self.kind::<StatefulSet>(client, namespace, true).await;
        self.kind::<DaemonSet>(client, namespace, true).await;
        self.kind::<Service>(client, namespace, true).await;
        // Without these less is known, and all else still holds.
        self.kind::<Pod>(client, namespace, false).await;
        self.kind::<CronJob>(client, namespace, false).await;
        self.kind::<Job>(client, namespace, false).await;
        self.kind::<Ingress>(client, namespace, false).await;
        self.kind::<HorizontalPodAutoscaler>(client, namespace, false).await;
        let namespaces = Api::<Namespace>::all(client.clone());
        let found = match namespace {
            Some(name) => namespaces.get(name).await.map(|found| vec![found]),
            None => list(&namespaces).await,
        };
        self.take("namespaces", found, false);
    }

    /// `false`: nobody answers.
    async fn kind<K>(&mut self, client: &Client, namespace: Option<&str>, needed: bool) -> bool
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let found = list(&api).await;
        let answered = matches!(found, Ok(_) | Err(kube::Error::Api(_)));
        self.take(&K::plural(&()), found, needed);
        answered
    }

    fn take<K: ResourceExt + Serialize>(&mut self, kind: &str, found: kube::Result<Vec<K>>, needed: bool) {
        let found = match found {
            Ok(found) => found,
            Err(kube::Error::Api(status)) => {
                return self.problem(kind, format!("{} ({})", status.message, status.code), needed);
            }
            Err(error) => return self.problem(kind, causes(&error), needed),
        };
        let owned = |object: &K| object.owner_references().iter().any(|owner| owner.controller == Some(true));
        for object in found.iter().filter(|object| !owned(object)) {
            let added = serde_json::to_value(object).map_err(|error| error.to_string()).and_then(|value| {
                self.inventory.add(&Node::from(value), None, 0).map_err(|misfit| misfit.reason)
            });
            if let Err(reason) = added {
                self.problem(&format!("{kind} {}", object.name_any()), reason, needed);
            }
        }
    }
}

/// All pages of a kind.
async fn list<K: Clone + DeserializeOwned + Debug>(api: &Api<K>) -> kube::Result<Vec<K>> {
    let mut all = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}
