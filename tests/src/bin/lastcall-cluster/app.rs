//! Manifests of the app that is rolled, deleted and drained: a Deployment or a Pod, and its Service.

use serde_json::{Value, json};

/// The app's port.
pub(crate) const PORT: u16 = 8080;

/// How a pod waits before it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    None,
    Sleep(u32),
    /// lastcall's, with what its path says beyond `/drain`.
    Drain(&'static str),
    /// lastcall's, for pods that share the node's network: by a host and a path that names the pod.
    ByName(String),
}

impl Hook {
    /// A container's `lifecycle`.
    pub(crate) fn lifecycle(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Sleep(seconds) => json!({ "preStop": { "sleep": { "seconds": seconds } } }),
            Self::Drain(rest) => {
                json!({ "preStop": { "httpGet": { "path": format!("/drain{rest}"), "port": 9902 } } })
            }
            Self::ByName(path) => {
                json!({ "preStop": { "httpGet": { "host": "127.0.0.1", "path": path, "port": 9902 } } })
            }
        }
    }
}

/// A pod's template.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) hook: Hook,
    pub(crate) grace: u32,
    /// Environment of the app: `GRACEFUL`, `IGNORE`, …
    pub(crate) env: Vec<(&'static str, &'static str)>,
    /// Conditions that somebody else sets before the pod counts as ready.
    pub(crate) gates: Vec<&'static str>,
}

impl App {
    pub(crate) fn new(name: &str, hook: Hook) -> Self {
        Self { name: name.to_owned(), hook, grace: 30, env: Vec::new(), gates: Vec::new() }
    }

    /// The app's container; what a scenario adds is merged into it.
    pub(crate) fn container(&self) -> Value {
        let env: Vec<Value> =
            self.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        json!({
            "name": "app",
            "image": "e2e.local/app:1",
            "imagePullPolicy": "IfNotPresent",
            "env": env,
            "ports": [{ "name": "http", "containerPort": PORT }],
            // A second, as it is otherwise, is not much on a machine that has other things to do.
            "readinessProbe": {
                "httpGet": { "path": "/healthz", "port": PORT }, "periodSeconds": 1, "timeoutSeconds": 10,
            },
            "lifecycle": self.hook.lifecycle(),
            // What Pod Security `restricted` asks for.
            "securityContext": {
                "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65534,
                "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
            },
        })
    }

    /// A pod's `spec`.
    pub(crate) fn spec(&self) -> Value {
        let gates: Vec<Value> = self.gates.iter().map(|gate| json!({ "conditionType": gate })).collect();
        json!({
            "terminationGracePeriodSeconds": self.grace,
            "readinessGates": gates,
            "automountServiceAccountToken": false,
            "containers": [self.container()],
        })
    }

    /// The app as a pod of its own.
    pub(crate) fn pod(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": self.name, "labels": { "app": self.name } },
            "spec": self.spec(),
        })
    }

    /// The app as a Deployment that never has fewer pods than it should.
    pub(crate) fn deployment(&self, replicas: u32) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": self.name },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": self.name } },
                "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "template": { "metadata": { "labels": { "app": self.name } }, "spec": self.spec() },
            },
        })
    }

    /// Its Service, of a type and an externalTrafficPolicy where that means something.
    pub(crate) fn service(&self, kind: &str, policy: Option<&str>) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": self.name },
            "spec": {
                "type": kind,
                "externalTrafficPolicy": policy,
                "ipFamilyPolicy": "PreferDualStack",
                "selector": { "app": self.name },
                "ports": [{ "name": "http", "port": 80, "targetPort": PORT }],
            },
        })
    }
}

/// A List of manifests in a namespace.
pub(crate) fn list(namespace: &str, mut items: Vec<Value>) -> String {
    for item in &mut items {
        item["metadata"]["namespace"] = json!(namespace);
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}
