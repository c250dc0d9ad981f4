//! helm, kubeconform and their like, built from their Go modules under `target/tools`.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    child,
    e2e::{go, programs::NO_DWARF},
    workspace::Workspace,
};

/// The chart's judge and the manifests' maker: another version may set other blank lines.
pub(crate) fn helm(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, "helm", "helm.sh/helm/v3/cmd/helm", "v3.18.6")
}

/// Holds manifests against Kubernetes' schemas.
pub(crate) fn kubeconform(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0")
}

/// Kyverno's own command, which applies policies without a cluster.
pub(crate) fn kyverno(workspace: &Workspace) -> Result<PathBuf> {
    let module = ("github.com/kyverno/kyverno", "v1.19.1");
    in_its_module(workspace, "kyverno", module, &["./cmd/cli/kubectl-kyverno"])
}

/// Prometheus' judge of rules.
pub(crate) fn promtool(workspace: &Workspace) -> Result<PathBuf> {
    // Without the clouds' libraries, which only discovery needs.
    let arguments = ["-tags=remove_all_sd,netgo", "./cmd/promtool"];
    in_its_module(workspace, "promtool", ("github.com/prometheus/prometheus", "v0.315.0"), &arguments)
}

/// Where a module's sources lie, fetched if need be.
pub(crate) fn sources(workspace: &Workspace, module: &str) -> Result<PathBuf> {
    let mut go = Command::new(go::find_or_install(&workspace.target.join("e2e"))?);
    go.args(["mod", "download", "-json", module]).current_dir(env::temp_dir()).env("GOFLAGS", "-mod=mod");
    let said = child::fetched(module, || child::answer(&mut go).context("go cannot fetch it"))
        .with_context(|| format!("go cannot fetch {module}"))?;
    let told: serde_json::Value = serde_json::from_str(&said)?;
    Ok(PathBuf::from(told["Dir"].as_str().with_context(|| format!("go does not say where {module} is"))?))
}

/// For modules that replace others in their go.mod: `go install` takes none of those.
fn in_its_module(
    workspace: &Workspace,
    name: &str,
    (module, version): (&str, &str),
    arguments: &[&str],
) -> Result<PathBuf> {
    let file = workspace.target.join(format!("tools/bin/{name}-{version}"));
    if file.is_file() {
        return Ok(file);
    }
    let sources = sources(workspace, &format!("{module}@{version}"))?;
    eprintln!("building {name} {version} from its Go module, up to ten minutes and 3 GB the first time");
    let mut build = Command::new("nice");
    build.args(["-n", "10"]).arg(go::find_or_install(&workspace.target.join("e2e"))?);
    build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"]).arg(&file).args(arguments);
    // It may name a newer Go, which Go itself fetches, and a workspace that the module does not carry.
    build.env("GOTOOLCHAIN", "auto").env("GOWORK", "off").env("GOFLAGS", "").env("CGO_ENABLED", "0");
    child::run(build.current_dir(sources), Duration::from_secs(1800))?;
    Ok(file)
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
        .args(["install", "-trimpath", NO_DWARF, "-ldflags=-s -w", &format!("{package}@{version}")])
        .env("GOBIN", &new)
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .current_dir(env::temp_dir());
    child::fetched(name, || child::run(&mut install, Duration::from_secs(1200)))?;
    fs::rename(new.join(name), &file).with_context(|| format!("there is no {name} after its build"))?;
    Ok(file)
}
