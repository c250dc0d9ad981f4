//! The bill of materials: every package that is in the agent, by CycloneDX 1.6.
//!
//! In: cargo's own resolution of the agent and of the kernel object in it, and the checksums of
//! `Cargo.lock`. What only builds or tests is not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{agent::Target, origin::Origin};
use crate::workspace::Workspace;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Name and version: one of each in a build.
type Key = (String, String);

/// Describes the image of this digest.
pub(crate) fn describe(
    workspace: &Workspace,
    target: &Target,
    origin: &Origin,
    digest: &str,
) -> Result<Vec<u8>> {
    let kernel = if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };
    let mut inside = linked(workspace, "lastcall-agent", &target.triple)?;
    inside.extend(linked(workspace, "lastcall-ebpf", kernel)?);
    let metadata: Metadata = serde_json::from_str(&ask(workspace, &["metadata", "--format-version", "1"])?)?;
    let lock: Lock = toml::from_str(&fs::read_to_string(workspace.root.join("Cargo.lock"))?)?;
    let checksums: BTreeMap<Key, String> =
        lock.package.into_iter().filter_map(|p| Some(((p.name, p.version), p.checksum?))).collect();
    let packages: BTreeMap<Key, &Package> =
        metadata.packages.iter().map(|p| ((p.name.clone(), p.version.clone()), p)).collect();
    let by_id: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let mut components = vec![json!({
        "type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": target.rustc,
        "description": "Rust's standard library, and the musl libc that comes with it",
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    })];
    let mut dependencies = Vec::new();
    for key in &inside {
        let package =
            packages.get(key).with_context(|| format!("cargo does not know {} {}", key.0, key.1))?;
        components.push(component(package, checksums.get(key)));
        let node = metadata.resolve.nodes.iter().find(|n| n.id == package.id);
        let on: BTreeSet<String> = node
            .into_iter()
            .flat_map(|n| &n.dependencies)
            .filter_map(|id| by_id.get(id.as_str()))
            .filter(|p| inside.contains(&(p.name.clone(), p.version.clone())))
            .map(|p| reference(p))
            .collect();
        dependencies.push(json!({ "ref": reference(package), "dependsOn": on }));
    }
    let agent = packages.iter().find(|((name, _), _)| name == "lastcall-agent").context("no agent")?.1;
    dependencies.push(json!({ "ref": "image", "dependsOn": [reference(agent), "rust-std"] }));
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": origin.time()?,
            "component": {
                "type": "container", "bom-ref": "image", "name": "lastcall", "version": origin.version,
                "hashes": [{ "alg": "SHA-256", "content": digest.trim_start_matches("sha256:") }],
                "licenses": [{ "expression": origin.licence }],
                "externalReferences": [{ "type": "vcs", "url": origin.source }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    let mut text = serde_json::to_vec_pretty(&bill)?;
    text.push(b'\n');
    Ok(text)
}

/// What is linked into a package's program, itself included: `cargo tree` resolves features for just it.
fn linked(workspace: &Workspace, package: &str, target: &str) -> Result<BTreeSet<Key>> {
    let tree = ["tree", "--package", package, "--target", target, "--edges", "normal,no-proc-macro"];
    let said = ask(workspace, &[&tree[..], &["--prefix", "none", "--format", "{p}"]].concat())?;
    let lines = said.lines().filter(|l| !l.is_empty());
    let keys = lines.map(|line| {
        let mut words = line.split(' ');
        let key = words.next().zip(words.next().and_then(|v| v.strip_prefix('v')));
        let (name, version) = key.with_context(|| format!("`cargo tree` says {line:?}"))?;
        Ok((name.to_owned(), version.to_owned()))
    });
    keys.collect()
}

fn ask(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    let mut cargo = workspace.cargo();
    cargo.args(arguments).args(["--locked", "--color", "never"]);
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(String::from_utf8(output.stdout)?)
}

fn component(package: &Package, checksum: Option<&String>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
    });
    if package.source.is_some() {
        component["purl"] = json!(reference(package));
    }
    if let Some(licence) = &package.license {
        // The slash is how it was written before SPDX expressions.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}
