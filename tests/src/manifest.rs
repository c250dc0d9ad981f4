//! Pods, EndpointSlices and Services as text, the way `kubectl get -o yaml` prints them. No I/O.

use std::fmt::Write;
use std::net::IpAddr;

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};

/// All that a test says about a pod's preStop hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// No hook: SIGTERM at once.
    None,
    /// `preStop: {sleep: {seconds: N}}`
    Sleep(u32),
    /// `preStop: {httpGet: {path, port}}`, without `host`, with headers as the spec has them.
    Http {
        /// With the parameters of the drain.
        path: String,
        /// 9902, where an agent answers.
        port: u16,
        /// Sent literally; a tenant can set `Host` here.
        headers: Vec<(String, String)>,
    },
}

impl Hook {
    /// The hook of a workload that uses lastcall: `GET <path>` at port 9902 of the pod.
    pub fn http(path: &str) -> Self {
        Self::Http { path: path.to_owned(), port: 9902, headers: Vec::new() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    fn lifecycle(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Sleep(seconds) => {
                format!("    lifecycle:\n      preStop:\n        sleep:\n          seconds: {seconds}\n")
            }
            Self::Http { path, port, headers } => {
                let mut yaml = String::from("    lifecycle:\n      preStop:\n        httpGet:\n");
                if !headers.is_empty() {
                    yaml += "          httpHeaders:\n";
                    for (name, value) in headers {
                        let _ = writeln!(yaml, "          - name: {name}\n            value: {value:?}");
                    }
                }
                yaml + &format!("          path: {path:?}\n          port: {port}\n          scheme: HTTP\n")
            }
        }
    }
}

/// A port of a container, and of the EndpointSlice in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name says the protocol when `app_protocol` does not.
    pub name: String,
    /// The port number in the pod.
    pub number: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The slice's `appProtocol`.
    pub app_protocol: Option<String>,
}

/// A container: its name, its hook, its ports.
#[derive(Clone, Debug)]
pub struct Container {
    /// Unique in the pod.
    pub name: String,
    /// Its preStop hook.
    pub hook: Hook,
    /// Its containerPorts.
    pub ports: Vec<Port>,
    /// Path and port of its readinessProbe.
    pub readiness: Option<(String, u16)>,
}

/// What the API server would hold about a pod.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID, which differs between two pods of the same name.
    pub uid: String,
    /// The `app` label, which Services select by.
    pub app: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// terminationGracePeriodSeconds.
    pub grace: u32,
    /// The condition types of its readinessGates.
    pub readiness_gates: Vec<String>,
    /// The Ready condition.
    pub ready: bool,
    /// When it was deleted, and with which grace; kubectl shows the sum as deletionTimestamp.
    pub deleted: Option<(Timestamp, u32)>,
}

impl PodObject {
    /// The pod as YAML.
    pub fn yaml(&self) -> String {
        let mut yaml = String::from("apiVersion: v1\nkind: Pod\nmetadata:\n");
        yaml += "  creationTimestamp: \"2026-11-20T08:00:00Z\"\n";
        if let Some((at, grace)) = self.deleted {
            let deadline = at + SignedDuration::from_secs(grace.into());
            let _ = writeln!(yaml, "  deletionGracePeriodSeconds: {grace}");
            let _ = writeln!(yaml, "  deletionTimestamp: {:?}", second(deadline));
        }
        let _ = writeln!(yaml, "  labels:\n    app: {}\n  name: {}", self.app, self.name);
        let _ = writeln!(yaml, "  namespace: {}\n  uid: {}", self.namespace, self.uid);
        yaml += "spec:\n  containers:\n";
        for container in &self.containers {
            let _ = writeln!(yaml, "  - image: example/{}:1\n    name: {0}", container.name);
            yaml += &container.hook.lifecycle();
            if !container.ports.is_empty() {
                yaml += "    ports:\n";
            }
            for port in &container.ports {
                let _ = writeln!(yaml, "    - containerPort: {}\n      name: {}", port.number, port.name);
                let _ = writeln!(yaml, "      protocol: {}", port.protocol);
            }
            if let Some((path, port)) = &container.readiness {
                let _ = writeln!(yaml, "    readinessProbe:\n      httpGet:\n        path: {path:?}");
                let _ = writeln!(yaml, "        port: {port}\n        scheme: HTTP\n      periodSeconds: 10");
            }
        }
        let _ = writeln!(yaml, "  nodeName: {}", self.node);
        if !self.readiness_gates.is_empty() {
            yaml += "  readinessGates:\n";
        }
        for gate in &self.readiness_gates {
            let _ = writeln!(yaml, "  - conditionType: {gate}");
        }
        yaml += "  restartPolicy: Always\n";
        let _ = writeln!(yaml, "  terminationGracePeriodSeconds: {}", self.grace);
        let ready = if self.ready { "True" } else { "False" };
        let _ = writeln!(yaml, "status:\n  conditions:\n  - status: {ready:?}\n    type: Ready");
        yaml += "  phase: Running\n";
        if let Some(primary) = self.ips.first() {
            let _ = writeln!(yaml, "  podIP: {primary}\n  podIPs:");
            for ip in &self.ips {
                let _ = writeln!(yaml, "  - ip: {ip}");
            }
        }
        yaml
    }

    /// Ready, and not on its way out.
    pub fn takes_traffic(&self) -> bool {
        self.ready && self.deleted.is_none()
    }
}

/// What stands before the pods, as far as it changes what happens to packets or how long a drain lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A virtual address.
    ClusterIp,
    /// No address: clients have the pods' own from DNS.
    Headless,
    /// A port on every node; `local` is externalTrafficPolicy Local.
    NodePort {
        /// externalTrafficPolicy: Local
        local: bool,
    },
}

/// What the API server would hold about a Service.
#[derive(Clone, Debug)]
pub struct ServiceObject {
    /// The Service's name; it selects the pods whose `app` label is this.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What it does.
    pub kind: ServiceKind,
    /// Its virtual addresses.
    pub ips: Vec<IpAddr>,
    /// Pairs of the Service's port and the pods'.
    pub ports: Vec<(u16, Port)>,
    /// The port on the node, when it has one.
    pub node_port: Option<u16>,
}

impl ServiceObject {
    /// The Service as YAML.
    pub fn yaml(&self) -> String {
        let mut yaml = format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n", self.name);
        let _ = writeln!(yaml, "  namespace: {}\nspec:", self.namespace);
        let ips: Vec<String> = match self.kind {
            ServiceKind::Headless => vec!["None".to_owned()],
            _ => self.ips.iter().map(IpAddr::to_string).collect(),
        };
        if let Some(first) = ips.first() {
            let _ = writeln!(yaml, "  clusterIP: {first}\n  clusterIPs:");
            for ip in ips {
                let _ = writeln!(yaml, "  - {ip}");
            }
        }
        if let ServiceKind::NodePort { local } = self.kind {
            let _ = writeln!(yaml, "  externalTrafficPolicy: {}", if local { "Local" } else { "Cluster" });
        }
        yaml += "  ports:\n";
        for (number, port) in &self.ports {
            let _ = writeln!(
                yaml,
                "  - name: {}\n    port: {number}\n    protocol: {}",
                port.name, port.protocol
            );
            let _ = writeln!(yaml, "    targetPort: {}", port.number);
            if let Some(protocol) = &port.app_protocol {
                let _ = writeln!(yaml, "    appProtocol: {protocol}");
            }
            if let Some(node_port) = self.node_port {
                let _ = writeln!(yaml, "    nodePort: {node_port}");
            }
        }
        let kind = if matches!(self.kind, ServiceKind::NodePort { .. }) { "NodePort" } else { "ClusterIP" };
        yaml + &format!("  selector:\n    app: {}\n  type: {kind}\n", self.name)
    }

    /// Whether the Service selects `pod`.
    pub fn selects(&self, pod: &PodObject) -> bool {
        pod.namespace == self.namespace && pod.app == self.name
    }

    /// The EndpointSlice of one address family, as the controller keeps it.
    pub fn slice_yaml(&self, pods: &[PodObject], ipv6: bool) -> String {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let mut yaml = format!("addressType: {family}\napiVersion: discovery.k8s.io/v1\nendpoints:");
        let mut any = false;
        for pod in pods.iter().filter(|pod| self.selects(pod)) {
            for ip in pod.ips.iter().filter(|ip| ip.is_ipv6() == ipv6) {
                let _ = write!(yaml, "\n- addresses:\n  - {ip}\n  conditions:\n");
                let _ = writeln!(yaml, "    ready: {}\n    serving: {}", pod.takes_traffic(), pod.ready);
                let _ = writeln!(yaml, "    terminating: {}", pod.deleted.is_some());
                let _ = writeln!(
                    yaml,
                    "  nodeName: {}\n  targetRef:\n    kind: Pod\n    name: {}",
                    pod.node, pod.name
                );
                let _ = write!(yaml, "    namespace: {}\n    uid: {}", pod.namespace, pod.uid);
                any = true;
            }
        }
        yaml += if any { "\n" } else { " []\n" };
        let _ = writeln!(
            yaml,
            "kind: EndpointSlice\nmetadata:\n  labels:\n    kubernetes.io/service-name: {}",
            self.name
        );
        let _ = writeln!(yaml, "  name: {}-{}", self.name, family.to_lowercase());
        let _ = writeln!(yaml, "  namespace: {}\nports:", self.namespace);
        for (_, port) in &self.ports {
            let _ = writeln!(
                yaml,
                "- name: {}\n  port: {}\n  protocol: {}",
                port.name, port.number, port.protocol
            );
            if let Some(protocol) = &port.app_protocol {
                let _ = writeln!(yaml, "  appProtocol: {protocol}");
            }
        }
        yaml
    }
}

/// Kubernetes' times have whole seconds.
fn second(at: Timestamp) -> String {
    let down = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    at.round(down).unwrap_or(at).to_string()
}
