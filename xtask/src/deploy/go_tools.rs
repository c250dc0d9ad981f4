//! helm and kubeconform, built from their Go modules under `target/tools`.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{child, e2e::go, workspace::Workspace};

/// The chart's judge and the manifests' maker: another version may set other blank lines.
pub(crate) fn helm(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, "helm", "helm.sh/helm/v3/cmd/helm", "v3.18.6")
}

/// Holds manifests against Kubernetes' schemas.
pub(crate) fn kubeconform(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0")
}

/// Where a module's sources lie, fetched if need be.
pub(crate) fn sources(workspace: &Workspace, module: &str) -> Result<PathBuf> {
    let mut go = Command::new(go::find_or_install(&workspace.target.join("e2e"))?);
    go.args(["mod", "download", "-json", module]).current_dir(env::temp_dir()).env("GOFLAGS", "-mod=mod");
    let said = child::answer(&mut go).with_context(|| format!("go cannot fetch {module}"))?;
    let told: serde_json::Value = serde_json::from_str(&said)?;
    Ok(PathBuf::from(told["Dir"].as_str().with_context(|| format!("go does not say where {module} is"))?))
}

fn tool(workspace: &Workspace, name: &str, package: &str, version: &str) -> Result<PathBuf> {
    let bin = workspace.target.join("tools/bin");
    // The version is in the name, so that a newer checkout does not take an older tool.
    let file = bin.join(format!("{name}-{version}"));
    if file.is_file() {
        return Ok(file);
    }
    let go = go::find_or_install(&workspace.target.join("e2e"))?;
    eprintln!("building {name} {version} from its Go module, some minutes the first time");
    let new = bin.join("new");
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let mut install = Command::new(go);
    install
        .args(["install", "-trimpath", "-ldflags=-s -w", &format!("{package}@{version}")])
        .env("GOBIN", &new)
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .current_dir(env::temp_dir());
    child::run(&mut install, Duration::from_secs(1200))?;
    fs::rename(new.join(name), &file).with_context(|| format!("there is no {name} after its build"))?;
    Ok(file)
}
