//! A request to the API server: what it is for, in the words of RBAC.

use std::collections::BTreeMap;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub verb: String,
    /// Empty for core.
    pub group: String,
    /// The plural: `pods`.
    pub resource: String,
    /// Empty for all.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// The query's parameters, decoded.
    pub query: BTreeMap<String, String>,
    /// Bytes of the answer's body, up to now.
    pub bytes: u64,
}

impl Request {
    /// Reads a request line. `None`: no path of an API.
    pub(super) fn parse(first: &str) -> Option<Self> {
        let mut words = first.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        let mut parts = path.trim_matches('/').split('/').peekable();
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let _version = parts.next()?;
        let mut request = Self { group, query, ..Self::default() };
        let first = parts.next()?;
        if first == "namespaces" {
            parts.next()?.clone_into(&mut request.namespace);
            parts.next()?.clone_into(&mut request.resource);
        } else {
            first.clone_into(&mut request.resource);
        }
        parts.next().unwrap_or_default().clone_into(&mut request.name);
        if let Some(sub) = parts.next() {
            request.resource = format!("{}/{sub}", request.resource);
        }
        let watch = matches!(request.query.get("watch").map(String::as_str), Some("true" | "1"));
        let verb = match (method, request.name.is_empty(), watch) {
            ("GET", true, true) => "watch",
            ("GET", true, false) => "list",
            ("GET", false, _) => "get",
            ("POST", ..) => "create",
            ("PUT", ..) => "update",
            ("PATCH", ..) => "patch",
            ("DELETE", ..) => "delete",
            _ => return None,
        };
        verb.clone_into(&mut request.verb);
        Some(request)
    }

    pub(super) fn number(&self, parameter: &str) -> Option<u64> {
        self.query.get(parameter)?.parse().ok()
    }

    pub(super) fn is(&self, parameter: &str) -> bool {
        self.query.get(parameter).is_some_and(|value| value == "true")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|c| char::from(c).to_digit(16)).unwrap_or(0);
        out.push(match byte {
            b'+' => b' ',
            b'%' => (digit() * 16 + digit()) as u8,
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}
