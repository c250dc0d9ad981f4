//! Kubernetes' own description of its API, as kubeconform reads schemas.
//!
//! They are made from the module that the API server is built from: kubeconform's usual place for them is
//! a web site, which not every network reaches.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::go_tools;
use crate::{child, workspace::Workspace};

/// The version whose fields the manifests may use.
const KUBERNETES: &str = "v1.34.4";

/// What that version knows nothing of; the policy's v1 is its v1beta1 word for word.
const UNKNOWN: &str = "ClusterPolicy,PodMonitor,admissionregistration.k8s.io/v1/MutatingAdmissionPolicy,\
                       admissionregistration.k8s.io/v1/MutatingAdmissionPolicyBinding";

/// Fails for a field that is unknown or of the wrong type.
pub(crate) fn check(workspace: &Workspace, manifests: &[PathBuf]) -> Result<()> {
    let folder = workspace.target.join("schemas").join(KUBERNETES);
    if !folder.join("made").is_file() {
        make(workspace, &folder)?;
    }
    let mut kubeconform = Command::new(go_tools::kubeconform(workspace)?);
    kubeconform
        .args(["-strict", "-summary", "-skip", UNKNOWN, "-schema-location"])
        .arg(folder.join("{{.ResourceKind}}{{.KindSuffix}}.json"))
        .args(manifests);
    child::run(&mut kubeconform, Duration::from_secs(300))
}

fn make(workspace: &Workspace, folder: &Path) -> Result<()> {
    let file = go_tools::sources(workspace, &format!("k8s.io/kubernetes@{KUBERNETES}"))?
        .join("api/openapi-spec/swagger.json");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut api: Value = serde_json::from_slice(&text)?;
    let mut definitions = match api["definitions"].take() {
        Value::Object(definitions) => definitions,
        _ => anyhow::bail!("{} defines nothing", file.display()),
    };
    definitions.values_mut().for_each(closed);
    fs::create_dir_all(folder)?;
    for (name, definition) in &definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |field: &str| kind[field].as_str().unwrap_or_default().to_lowercase();
            let group = word("group").split('.').next().unwrap_or_default().to_owned();
            let file = [word("kind"), group, word("version")].into_iter().filter(|w| !w.is_empty());
            let schema = json!({
                "$ref": format!("#/definitions/{name}"),
                "definitions": reached(name, &definitions),
            });
            let file = folder.join(format!("{}.json", file.collect::<Vec<_>>().join("-")));
            fs::write(&file, serde_json::to_vec(&schema)?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    fs::write(folder.join("made"), "").context("cannot mark the schemas as made")
}

/// Only the fields that are named, and numbers or text where Kubernetes takes either.
fn closed(definition: &mut Value) {
    if let Some(object) = definition.as_object_mut() {
        if object.get("format").is_some_and(|f| f == "int-or-string") {
            object.remove("type");
        }
        if object.contains_key("properties") && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".to_owned(), json!(false));
        }
    }
}

/// What a definition needs to be understood, by way of its references.
fn reached(name: &str, definitions: &Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if let Some(definition) = definitions.get(&name).filter(|_| !found.contains_key(&name)) {
            references(definition, &mut open);
            found.insert(name, definition.clone());
        }
    }
    found
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str);
            found.extend(name.and_then(|r| r.strip_prefix("#/definitions/")).map(str::to_owned));
            fields.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_comes_with_all_that_it_refers_to() {
        let all = json!({
            "a": { "properties": { "b": { "$ref": "#/definitions/b" } } },
            "b": { "items": { "$ref": "#/definitions/a" } },
            "c": {},
        });
        let reached = reached("a", all.as_object().expect("an object"));
        assert_eq!(reached.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn unknown_fields_are_refused_and_ports_may_be_names() {
        let mut pod = json!({ "properties": { "spec": {} } });
        closed(&mut pod);
        assert_eq!(pod["additionalProperties"], json!(false));
        let mut port = json!({ "type": "string", "format": "int-or-string" });
        closed(&mut port);
        assert_eq!(port.get("type"), None);
    }
}
