//! The archive: an OCI image layout in a tar, which older `docker load` reads too.
//!
//! See the OCI image specification, `image-layout.md`, `manifest.md`, `config.md`, `annotations.md`.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::Builder;

use super::{
    layer::{Kind, Layer, add},
    origin::Origin,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An archive, and the digest by which its image is known everywhere.
pub(crate) struct Packed {
    /// The tar.
    pub archive: Vec<u8>,
    /// `sha256:…` of the manifest.
    pub digest: String,
}

/// Packs the layer as an image of these names.
pub(crate) fn pack(layer: &Layer, origin: &Origin, names: &[String]) -> Result<Packed> {
    let config = serde_json::to_vec(&config(layer, origin)?)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer.compressed)],
    }))?;
    let named = names.iter().map(|name| {
        let mut named = descriptor(MANIFEST, &manifest);
        named["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        named["annotations"] = json!({
            "io.containerd.image.name": full(name),
            "org.opencontainers.image.ref.name": tag(name),
        });
        named
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": named.collect::<Vec<_>>() });
    // What `docker load` reads before version 25.
    let docker = json!([{
        "Config": blob(&config),
        "RepoTags": names,
        "Layers": [blob(&layer.compressed)],
    }]);
    let mut tar = Builder::new(Vec::new());
    let mut file = |path: &str, bytes: &[u8]| add(&mut tar, path, Kind::File, bytes, origin.seconds);
    file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file("index.json", &serde_json::to_vec(&index)?)?;
    file("manifest.json", &serde_json::to_vec(&docker)?)?;
    for bytes in [&manifest, &config, &layer.compressed] {
        file(&blob(bytes), bytes)?;
    }
    Ok(Packed { archive: tar.into_inner()?, digest: digest(&manifest) })
}

fn config(layer: &Layer, origin: &Origin) -> Result<Value> {
    let created = origin.time()?;
    let mut labels = json!({
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.description": "Holds a pod's preStop hook until its connections have drained",
        "org.opencontainers.image.documentation": format!("{}/blob/main/deploy/README.md", origin.source),
        "org.opencontainers.image.licenses": origin.licence,
        "org.opencontainers.image.source": origin.source,
        "org.opencontainers.image.title": "lastcall",
        "org.opencontainers.image.version": origin.version,
    });
    if let Some(revision) = &origin.revision {
        labels["org.opencontainers.image.revision"] = json!(revision);
    }
    Ok(json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            // Kubernetes gives capabilities to root alone; which ones is the manifest's business.
            "User": "0:0",
            "Entrypoint": ["/lastcall"],
            "Cmd": ["--help"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer.plain)] },
        "history": [{ "created": created, "created_by": "cargo xtask image" }],
    }))
}

/// The name that Kubernetes means: one without a registry is one of the default registry's library.
fn full(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    let registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    match (registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    }
}

/// `latest` for a name that has none; a colon before a slash is a port's.
fn tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// As Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media, "digest": digest(bytes), "size": bytes.len() })
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::{super::layer, *};

    fn origin() -> Origin {
        Origin {
            version: "1.2.3".into(),
            revision: Some("abc".into()),
            source: "https://example.org/lastcall".into(),
            licence: "MIT".into(),
            seconds: 86_400,
        }
    }

    fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("a tar") {
            let mut entry = entry.expect("a member");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            files.insert(path, bytes);
        }
        files
    }

    #[test]
    fn from_the_index_everything_is_found_by_its_digest() {
        let layer = layer::of(b"agent", &[("LICENSE", b"text".to_vec())], 86_400).expect("a layer");
        let packed =
            pack(&layer, &origin(), &["lastcall:dev".into(), "r.example:5000/a/b:1".into()]).expect("packed");
        let files = members(&packed.archive);
        let read = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(
                (super::digest(bytes).as_str(), descriptor["size"].as_u64()),
                (digest, Some(bytes.len() as u64))
            );
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
        let names: Vec<_> =
            index["manifests"].as_array().expect("manifests").iter().map(|m| &m["annotations"]).collect();
        assert_eq!(names[0]["io.containerd.image.name"], "docker.io/library/lastcall:dev");
        assert_eq!(names[1]["io.containerd.image.name"], "r.example:5000/a/b:1");
        assert_eq!(names[1]["org.opencontainers.image.ref.name"], "1");
        assert_eq!(index["manifests"][0]["digest"], packed.digest.as_str());
        let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).expect("JSON");
        let config: Value = serde_json::from_slice(&read(&manifest["config"])).expect("JSON");
        assert_eq!(config["created"], "1970-01-02T00:00:00Z");
        let compressed = read(&manifest["layers"][0]);
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*compressed).read_to_end(&mut plain).expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&plain).as_str());
        let inside = members(&plain);
        assert_eq!(inside["lastcall"], b"agent");
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        assert!(files.contains_key(docker[0]["Layers"][0].as_str().expect("a path")));
    }

    #[test]
    fn names_as_kubernetes_means_them() {
        assert_eq!(full("lastcall:1"), "docker.io/library/lastcall:1");
        assert_eq!(full("us/lastcall:1"), "docker.io/us/lastcall:1");
        assert_eq!(full("localhost/lastcall:1"), "localhost/lastcall:1");
        assert_eq!((tag("r:5000/lastcall"), tag("r:5000/lastcall:2")), ("latest", "2"));
    }
}
