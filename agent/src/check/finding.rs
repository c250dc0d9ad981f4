//! What a rule found: where, how bad, why, and the lines that mend it.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    objects::Origin,
    rule::Rule,
    tree::{Path, Step},
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing breaks.
    Note,
    /// Breaks a rolling update under some conditions, or has its reason that cannot be seen from here.
    Warning,
    /// Breaks a rolling update.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// An object, as people call it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    /// `Deployment`
    pub kind: String,
    /// metadata.namespace, where the object says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// metadata.name
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// As it was named on the command line, or found below it.
    pub file: String,
    /// From 1.
    pub line: u64,
}

/// Keys to set in an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Fix {
    /// The mapping in which to set them.
    pub at: Path,
    /// Each key replaces the one that is there, or is added.
    pub set: Map<String, Value>,
    /// The same as YAML, to be indented as the mapping is.
    pub yaml: String,
    /// One of the keys is there already.
    pub replaces: bool,
}

impl Fix {
    /// Sets the value at a path. What is missing on the way becomes part of what is set.
    pub(super) fn new(origin: &Origin, path: &Path, value: Value) -> Self {
        let depth = (0..path.0.len())
            .rev()
            .find(|&n| origin.node.follow(&Path(path.0[..n].to_vec())).is_some_and(super::tree::Node::is_map))
            .unwrap_or(0);
        let at = Path(path.0[..depth].to_vec());
        let replaces = path.0.get(depth).is_some_and(|step| {
            origin.node.follow(&at).and_then(|node| node.get(step)).is_some_and(|node| !node.json().is_null())
        });
        let mut nested = value;
        for step in path.0[depth..].iter().rev() {
            nested = match step {
                Step::Key(key) => Value::Object(Map::from_iter([(key.clone(), nested)])),
                Step::Index(_) => Value::Array(vec![nested]),
            };
        }
        let Value::Object(set) = nested else { return Self::set(at, Map::new(), false) };
        Self::set(at, set, replaces)
    }

    fn set(at: Path, set: Map<String, Value>, replaces: bool) -> Self {
        let yaml = serde_saphyr::to_string(&set).unwrap_or_default();
        Self { at, set, yaml, replaces }
    }
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad it is here.
    pub severity: Severity,
    /// In which object; the lines to add belong to it.
    pub object: ObjectName,
    /// In which container of it.
    pub container: Option<String>,
    /// The field that it is about.
    pub path: Path,
    /// Where that is, or would be, in a file.
    pub place: Option<Place>,
    /// What is wrong, and what comes of it.
    pub message: String,
    /// What to write instead, where it can be said.
    pub fix: Option<Fix>,
}
