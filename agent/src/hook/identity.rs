//! Who is asking, and for which pod. Pure.
//!
//! In: the address that the caller reached ([`getsockname`][1]), the request's path and `Host`. Out:
//! what is [`Asked`]. The kernel's word decides: a dialled connection ends at `240.x.y.z` (or `127.x.y.z`,
//! where those do not get through), and `xyz` names the pod that the kubelet dialled. Path and `Host` are
//! the tenant's to write, so they change nothing of that.
//!
//! [1]: https://man7.org/linux/man-pages/man2/getsockname.2.html

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::StatusCode;

use super::fault::Fault;
use crate::cluster::{PodFacts, PodName};

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The hook of the pod that was dialled.
    Dialled {
        /// The key in the map of dials.
        bits: u32,
        /// The address that was dialled; `None` where the map has forgotten it.
        pod: Option<IpAddr>,
    },
    /// A hook or a person on the node's own loopback, naming a pod by its path.
    Named(PodName),
    /// The same, naming the workload: what a template of hostNetwork pods can say.
    Workload(Workload),
    /// A status page.
    Status(Page),
    /// Neither; no drain is touched.
    Refused {
        /// 4xx.
        status: StatusCode,
        /// One sentence.
        why: &'static str,
    },
}

/// A workload, as a hook's path names it: `/drain/NAMESPACE/KIND/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// metadata.namespace of its pods.
    pub namespace: String,
    /// In lower case: `deployment`, `daemonset`, `statefulset`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// Whether the pod is one of it. A Deployment's pods are of it by way of their ReplicaSet.
    pub fn has(&self, pod: &PodFacts) -> bool {
        pod.name.namespace == self.namespace
            && pod
                .workload
                .split_once('/')
                .is_some_and(|(kind, name)| kind.eq_ignore_ascii_case(&self.kind) && name == self.name)
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/status`: every drain of this node.
    Node,
    /// `/status/NAMESPACE/NAME`: one pod's drain.
    Pod(PodName),
    /// `/connections/NAMESPACE/NAME`: one pod's connections, one by one.
    Connections(PodName),
}

/// What is asked for, and what about it was odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What.
    pub asked: Asked,
    /// For log and answer; nothing is decided by them.
    pub warnings: Vec<(Fault, String)>,
}

/// Where the caller arrived.
enum Door {
    /// 127.0.0.1, or 240.0.0.1, to which the kubelet's calls of it are led: a direct call.
    Direct,
    /// 240.x.y.z or 127.x.y.z: a dial that the connect program sent here.
    Dialled(u32),
    /// An address of the node itself, over `lo`.
    Astray,
}

fn door(local: IpAddr) -> Door {
    match local.to_canonical() {
        IpAddr::V4(v4) if matches!(v4.octets()[0], 127 | 240) => match v4.to_bits() & 0x00ff_ffff {
            1 => Door::Direct,
            bits => Door::Dialled(bits),
        },
        _ => Door::Astray,
    }
}

/// Reads a request. `dialled` looks the 24 bits up.
pub fn identify(
    local: IpAddr,
    path: &str,
    host: Option<&str>,
    dialled: impl FnOnce(u32) -> Option<IpAddr>,
) -> Identity {
    let mut warnings = Vec::new();
    let asked = match (door(local), Path::parse(path)) {
        (Door::Astray, _) => refused(
            StatusCode::MISDIRECTED_REQUEST,
            "this is the node's own address: a hook without `host` reaches the agent from a pod with its own \
             network; a hostNetwork pod needs `host: 127.0.0.1` and `path: /drain/NAMESPACE/NAME`, or \
             /drain/NAMESPACE/KIND/NAME in a workload's template",
        ),
        // Whatever the path: it is the kubelet's call for this pod, and a refusal would be SIGTERM at once
        // for a slip of the pen.
        (Door::Dialled(bits), path) => {
            let pod = dialled(bits).map(|pod| pod.to_canonical());
            match path {
                Path::Drain(Name::None) => {}
                Path::Drain(_) => warnings.push((
                    Fault::Path,
                    "the path names a pod, but the hook's own pod drains: that name is ignored".into(),
                )),
                Path::Status(_) | Path::Malformed | Path::Unknown => warnings.push((
                    Fault::Path,
                    "there is no such path for a hook: taken for /drain; write `path: /drain`".into(),
                )),
            }
            let disagrees = pod.and_then(|pod| host_disagrees(host?, pod));
            warnings.extend(disagrees.map(|why| (Fault::Host, why)));
            Asked::Dialled { bits, pod }
        }
        (Door::Direct, Path::Drain(Name::Pod(pod))) => Asked::Named(pod),
        (Door::Direct, Path::Drain(Name::Workload(workload))) => Asked::Workload(workload),
        (Door::Direct, Path::Drain(Name::None)) => {
            refused(StatusCode::NOT_FOUND, "on 127.0.0.1 the path names the pod: /drain/NAMESPACE/NAME")
        }
        (Door::Direct, Path::Status(page)) => Asked::Status(page),
        (Door::Direct, Path::Drain(Name::Malformed) | Path::Malformed) => {
            refused(StatusCode::BAD_REQUEST, "NAMESPACE/NAME is not the name of a pod")
        }
        (Door::Direct, Path::Unknown) => refused(
            StatusCode::NOT_FOUND,
            "no such path: there are /drain for a hook, and on 127.0.0.1 /drain/NAMESPACE/NAME, /status, \
             /status/NAMESPACE/NAME and /connections/NAMESPACE/NAME",
        ),
    };
    Identity { asked, warnings }
}

fn refused(status: StatusCode, why: &'static str) -> Asked {
    Asked::Refused { status, why }
}

/// A path, whoever sent it.
enum Path {
    Drain(Name),
    Status(Page),
    /// A known page of something that is not a name.
    Malformed,
    Unknown,
}

#[derive(PartialEq)]
enum Name {
    None,
    Pod(PodName),
    Workload(Workload),
    Malformed,
}

impl Path {
    fn parse(path: &str) -> Self {
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
        let page = parts.next().unwrap_or("");
        let name = Name::parse(parts);
        match (page, name) {
            ("drain", name) => Self::Drain(name),
            ("status", Name::None) => Self::Status(Page::Node),
            ("status", Name::Pod(pod)) => Self::Status(Page::Pod(pod)),
            ("connections", Name::Pod(pod)) => Self::Status(Page::Connections(pod)),
            ("status" | "connections", _) => Self::Malformed,
            _ => Self::Unknown,
        }
    }
}

impl Name {
    /// What follows the page; one slash at the end is forgiven.
    fn parse<'a>(mut parts: impl Iterator<Item = &'a str>) -> Self {
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(kind), Some(name), None | Some(""))
                if !name.is_empty()
                    && parts.next().is_none()
                    && is_label(namespace)
                    && is_kind(kind)
                    && is_subdomain(name) =>
            {
                Self::Workload(Workload {
                    namespace: namespace.to_owned(),
                    kind: kind.to_ascii_lowercase(),
                    name: name.to_owned(),
                })
            }
            (None, ..) | (Some(""), None, ..) => Self::None,
            (Some(namespace), Some(name), None | Some(""), None)
                if is_label(namespace) && is_subdomain(name) =>
            {
                Self::Pod(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Self::Malformed,
        }
    }
}

/// A kind of workload: a word.
fn is_kind(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphabetic())
}

/// A DNS label, RFC 1123: a namespace.
fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS subdomain, RFC 1123: a pod's name. Its parts may be as long as the whole
/// (k8s.io/apimachinery `IsDNS1123Subdomain`).
fn is_subdomain(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
        })
}

/// `Host` as the kubelet writes it is the dialled address; a spec may set any other. A name proves
/// nothing, another address is worth a word.
fn host_disagrees(host: &str, pod: IpAddr) -> Option<String> {
    let said = host_address(host)?.to_canonical();
    (said != pod).then(|| format!("`Host` says {said}, the kubelet dialled {pod}: `Host` is ignored"))
}

fn host_address(host: &str) -> Option<IpAddr> {
    let host = host.trim();
    if let Ok(socket) = host.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.map_or_else(|| host.parse().ok(), |v6| v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

#[cfg(test)]
mod tests;
