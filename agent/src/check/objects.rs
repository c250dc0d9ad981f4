//! The objects that rules look at.
//!
//! In: documents as trees ([`Inventory::add`]), from files or from the API server. Out: workloads and
//! Services in their Kubernetes types, and of other kinds the little that counts. An object that is not
//! understood is an error with its line; a kind that says nothing of rollouts is counted and left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Pod, PodSpec, PodTemplateSpec, Service},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde::de::DeserializeOwned;

use super::{
    finding::{ObjectName, Place},
    tree::{Node, Path, Step},
};

/// Where an object came from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) name: ObjectName,
    /// `None`: the API server.
    pub(super) file: Option<Arc<str>>,
    /// Lines of the file before the document.
    pub(super) lines_before: u64,
    pub(super) node: Node,
}

impl Origin {
    pub(super) fn place(&self, path: &Path) -> Option<Place> {
        let file = self.file.as_ref()?;
        Some(Place {
            file: file.to_string(),
            line: (self.lines_before + self.node.line_of(path)).max(self.lines_before + 1),
        })
    }
}

/// How pods are replaced.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rollout {
    /// A few at a time; what the manifest says of how many.
    Rolling {
        unavailable: Option<IntOrString>,
        surge: Option<IntOrString>,
    },
    Recreate,
    /// Not by a controller.
    ByHand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    /// Also CronJob.
    Job,
    Pod,
}

impl WorkloadKind {
    /// Its pods are replaced one after the other when it changes.
    pub(super) fn rolls(self) -> bool {
        matches!(self, Self::Deployment | Self::StatefulSet | Self::DaemonSet)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) kind: WorkloadKind,
    pub(super) origin: Origin,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) pod: PodSpec,
    /// Where the pod's spec is in the object.
    pub(super) pod_at: Path,
    /// Pods are deleted before their successors are made.
    pub(super) rollout: Rollout,
    /// spec.replicas as written.
    pub(super) replicas: Option<i32>,
    /// Rules that its annotation [`IGNORE`] leaves out.
    pub(super) ignored: BTreeSet<String>,
}

/// Annotation of a workload: names of rules, by comma, that it has its reasons to break.
pub(super) const IGNORE: &str = "lastcall.dev/check-ignore";

#[derive(Clone, Debug)]
pub(super) struct ServiceObject {
    pub(super) origin: Origin,
    pub(super) service: Service,
}

/// What was given to look at.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub(super) workloads: Vec<Workload>,
    pub(super) services: Vec<ServiceObject>,
    /// Labels by name.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// HorizontalPodAutoscalers: namespace, kind and name of the target, minReplicas.
    pub(super) autoscalers: Vec<(String, String, String, i64)>,
    /// Services behind an AWS load balancer that targets pods by an Ingress: namespace and name.
    pub(super) balanced: BTreeSet<(String, String)>,
    /// Objects of kinds that no rule looks at.
    pub(super) ignored: usize,
    /// All Services of the namespaces are here: what none selects is reached by none.
    pub(super) complete: bool,
}

/// An object that is not what its kind should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// In the document.
    pub(super) line: u64,
    pub(super) reason: String,
}

/// A namespace, or the one that kubectl takes where a manifest says none.
pub(super) fn namespace_of(name: &ObjectName) -> &str {
    name.namespace.as_deref().unwrap_or("default")
}

impl Inventory {
    /// How many workloads there are.
    pub fn workloads(&self) -> usize {
        self.workloads.len()
    }

    /// Objects, of whatever kind.
    pub(super) fn count(&self) -> usize {
        self.workloads.len()
            + self.services.len()
            + self.namespaces.len()
            + self.autoscalers.len()
            + self.balanced.len()
            + self.ignored
    }

    /// Nothing of Kubernetes at all.
    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Takes what another source gave.
    pub(super) fn extend(&mut self, other: Self) {
        self.workloads.extend(other.workloads);
        self.services.extend(other.services);
        self.namespaces.extend(other.namespaces);
        self.autoscalers.extend(other.autoscalers);
        self.balanced.extend(other.balanced);
        self.ignored += other.ignored;
    }

    /// Takes a document, or each item of a List. `false`: it is no Kubernetes object.
    pub(super) fn add(
        &mut self,
        node: &Node,
        file: Option<&Arc<str>>,
        lines_before: u64,
    ) -> Result<bool, Misfit> {
        self.add_item(node, None, file, lines_before)
    }

    fn add_item(
        &mut self,
        node: &Node,
        default: Option<(&str, &str)>,
        file: Option<&Arc<str>>,
        lines_before: u64,
    ) -> Result<bool, Misfit> {
        let said = |key| node.find(key).and_then(Node::text).filter(|text| !text.is_empty());
        let (Some(version), Some(kind)) = (
            said("apiVersion").or(default.map(|(version, _)| version)),
            said("kind").or(default.map(|(_, kind)| kind)),
        ) else {
            return Ok(false);
        };
        let list = node.find("items").filter(|_| kind.ends_with("List"));
        if let Some(items) = list {
            let of = kind.strip_suffix("List").filter(|kind| !kind.is_empty()).map(|kind| (version, kind));
            for item in items.items() {
                self.add_item(item, of, file, lines_before)?;
            }
            return Ok(true);
        }
        let name = ObjectName {
            kind: kind.to_owned(),
            namespace: said("metadata.namespace").map(str::to_owned),
            name: said("metadata.name")
                .map(str::to_owned)
                .or_else(|| said("metadata.generateName").map(|name| format!("{name}…")))
                .unwrap_or_default(),
        };
        let origin = || Origin { name: name.clone(), file: file.cloned(), lines_before, node: node.clone() };
        match (version, kind) {
            ("apps/v1", "Deployment") => {
                let object: Deployment = typed(node)?;
                let Some(spec) = object.spec else { return Err(without("spec", node)) };
                let strategy = spec.strategy.unwrap_or_default();
                let rolling = strategy.rolling_update.unwrap_or_default();
                let rollout = match strategy.type_.as_deref() {
                    Some("Recreate") => Rollout::Recreate,
                    _ => Rollout::Rolling { unavailable: rolling.max_unavailable, surge: rolling.max_surge },
                };
                let kind = WorkloadKind::Deployment;
                self.workload(kind, origin(), spec.template, "spec.template", rollout, spec.replicas)?;
            }
            ("apps/v1", "StatefulSet") => {
                let object: StatefulSet = typed(node)?;
                let Some(spec) = object.spec else { return Err(without("spec", node)) };
                let strategy = spec.update_strategy.unwrap_or_default();
                let rolling = strategy.rolling_update.unwrap_or_default();
                let rollout = match strategy.type_.as_deref() {
                    Some("OnDelete") => Rollout::ByHand,
                    _ => Rollout::Rolling { unavailable: rolling.max_unavailable, surge: None },
                };
                let kind = WorkloadKind::StatefulSet;
                self.workload(kind, origin(), spec.template, "spec.template", rollout, spec.replicas)?;
            }
            ("apps/v1", "DaemonSet") => {
                let object: DaemonSet = typed(node)?;
                let Some(spec) = object.spec else { return Err(without("spec", node)) };
                let strategy = spec.update_strategy.unwrap_or_default();
                let rolling = strategy.rolling_update.unwrap_or_default();
                let rollout = match strategy.type_.as_deref() {
                    Some("OnDelete") => Rollout::ByHand,
                    _ => Rollout::Rolling { unavailable: rolling.max_unavailable, surge: rolling.max_surge },
                };
                self.workload(
                    WorkloadKind::DaemonSet,
                    origin(),
                    spec.template,
                    "spec.template",
                    rollout,
                    None,
                )?;
            }
            ("batch/v1", "Job") => {
                let object: Job = typed(node)?;
                let Some(spec) = object.spec else { return Err(without("spec", node)) };
                let rollout = Rollout::ByHand;
                self.workload(WorkloadKind::Job, origin(), spec.template, "spec.template", rollout, None)?;
            }
            ("batch/v1", "CronJob") => {
                let object: CronJob = typed(node)?;
                let Some(spec) = object.spec.and_then(|spec| spec.job_template.spec) else {
                    return Err(without("spec.jobTemplate.spec", node));
                };
                let (at, rollout) = ("spec.jobTemplate.spec.template", Rollout::ByHand);
                self.workload(WorkloadKind::Job, origin(), spec.template, at, rollout, None)?;
            }
            ("v1", "Pod") => {
                let Pod { metadata, spec, .. } = typed(node)?;
                let template = PodTemplateSpec { metadata: Some(metadata), spec };
                self.workload(WorkloadKind::Pod, origin(), template, "", Rollout::ByHand, None)?;
            }
            ("v1", "Service") => {
                self.services.push(ServiceObject { service: typed(node)?, origin: origin() });
            }
            ("v1", "Namespace") => {
                self.namespaces.insert(name.name.clone(), texts(node, "metadata.labels"));
            }
            (version, "HorizontalPodAutoscaler") if version.starts_with("autoscaling/") => {
                let text = |key| node.find(key).and_then(Node::text).unwrap_or_default().to_owned();
                let least = node.find("spec.minReplicas").and_then(Node::integer).unwrap_or(1);
                self.autoscalers.push((
                    namespace_of(&name).to_owned(),
                    text("spec.scaleTargetRef.kind"),
                    text("spec.scaleTargetRef.name"),
                    least,
                ));
            }
            ("networking.k8s.io/v1", "Ingress") => self.ingress(node, namespace_of(&name)),
            _ => self.ignored += 1,
        }
        Ok(true)
    }

    fn workload(
        &mut self,
        kind: WorkloadKind,
        origin: Origin,
        template: PodTemplateSpec,
        template_at: &str,
        rollout: Rollout,
        replicas: Option<i32>,
    ) -> Result<(), Misfit> {
        let pod_at = Path::of(template_at).down("spec");
        let Some(pod) = template.spec else { return Err(without(&pod_at.to_string(), &origin.node)) };
        let ObjectMeta { labels, .. } = template.metadata.unwrap_or_default();
        let annotations = origin.node.find("metadata.annotations");
        let ignored = annotations
            .and_then(|annotations| annotations.get(&Step::Key(IGNORE.to_owned())))
            .and_then(Node::text)
            .map(|text| text.split(',').map(|rule| rule.trim().to_owned()).collect())
            .unwrap_or_default();
        let labels = labels.unwrap_or_default();
        self.workloads.push(Workload { kind, origin, labels, pod, pod_at, rollout, replicas, ignored });
        Ok(())
    }

    /// An AWS load balancer (ALB) with pods as its targets; its other mode goes by nodes.
    fn ingress(&mut self, node: &Node, namespace: &str) {
        let annotations = texts(node, "metadata.annotations");
        if annotations.get("alb.ingress.kubernetes.io/target-type").map(String::as_str) != Some("ip") {
            self.ignored += 1;
            return;
        }
        let mut backends = Vec::from_iter(node.find("spec.defaultBackend"));
        for rule in node.find("spec.rules").map(Node::items).unwrap_or_default() {
            let paths = rule.find("http.paths").map(Node::items).unwrap_or_default();
            backends.extend(paths.iter().filter_map(|path| path.find("backend")));
        }
        let names = backends.iter().filter_map(|backend| backend.find("service.name")?.text());
        self.balanced.extend(names.map(|name| (namespace.to_owned(), name.to_owned())));
    }
}

/// A mapping of texts, such as labels.
fn texts(node: &Node, keys: &str) -> BTreeMap<String, String> {
    let entries = node.find(keys).into_iter().flat_map(Node::entries);
    entries.filter_map(|(key, node)| Some((key.to_owned(), node.text()?.to_owned()))).collect()
}

fn typed<T: DeserializeOwned>(node: &Node) -> Result<T, Misfit> {
    serde_path_to_error::deserialize(node.json()).map_err(|error| {
        let path = Path(
            error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
                    serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
                    _ => None,
                })
                .collect(),
        );
        let reason =
            if path.0.is_empty() { error.inner().to_string() } else { format!("{path}: {}", error.inner()) };
        Misfit { line: node.line_of(&path), reason }
    })
}

fn without(what: &str, node: &Node) -> Misfit {
    Misfit { line: node.line, reason: format!("it has no {what}") }
}
