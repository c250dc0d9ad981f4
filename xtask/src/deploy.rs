//! `cargo xtask deploy`: the plain manifests, made from the chart, and the proof that both are right.
//!
//! In: `deploy/chart/lastcall`. Out: `deploy/lastcall.yaml` and its siblings, so that the two ways to
//! install cannot drift apart. With `--kubeconfig` a real API server judges them.

mod bare;
mod cases;
pub(crate) mod go_tools;
mod kyverno;
mod monitoring;
mod render;
mod schemas;
mod server;
mod versions;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{child, e2e::programs::Kubernetes, workspace::Workspace};

/// `cargo xtask deploy`, as typed.
#[derive(clap::Args)]
pub(crate) struct Wanted {
    /// Write nothing; fail if chart and manifests differ, or one of them is wrong
    #[arg(long)]
    check: bool,
    /// Have the API server of a cluster judge the manifests and try the injection; changes nothing that stays
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The same by an API server of our own, of this version of Kubernetes; the first build takes minutes
    #[arg(long, value_name = "VERSION", conflicts_with = "kubeconfig")]
    server: Option<Kubernetes>,
    /// Have Kyverno's own command try the injection by its policy; the first build takes ten minutes
    #[arg(long, conflicts_with_all = ["kubeconfig", "server"])]
    kyverno: bool,
    /// Have Prometheus' promtool try the alerts and the dashboard's queries; the first build takes minutes
    #[arg(long, conflicts_with_all = ["kubeconfig", "server", "kyverno"])]
    monitoring: bool,
}

/// Writes or checks the manifests.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Result<()> {
    if let Some(kubeconfig) = &wanted.kubeconfig {
        return server::judge(workspace, kubeconfig, false);
    }
    if let Some(version) = wanted.server {
        let server = bare::ApiServer::start(workspace, version)?;
        return server::judge(workspace, &server.kubeconfig(), true);
    }
    if wanted.kyverno {
        return kyverno::judge(workspace);
    }
    if wanted.monitoring {
        return monitoring::judge(workspace);
    }
    let helm = go_tools::helm(workspace)?;
    versions::check(workspace)?;
    let mut stale = Vec::new();
    let mut made = Vec::new();
    for manifest in render::ALL {
        let text = render::render(workspace, &helm, manifest)?;
        let file = workspace.root.join(manifest.file);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            made.push(file);
        } else if wanted.check {
            stale.push(manifest.file);
        } else {
            fs::create_dir_all(file.parent().context("a file has a folder")?)?;
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            println!("wrote {}", manifest.file);
            made.push(file);
        }
    }
    ensure!(
        stale.is_empty(),
        "not what the chart makes: {}; `cargo xtask deploy` writes them",
        stale.join(", ")
    );
    if wanted.check {
        let chart = workspace.root.join(render::CHART);
        let mut lint = std::process::Command::new(&helm);
        child::run(lint.args(["lint", "--strict", "--quiet"]).arg(&chart), Duration::from_secs(180))?;
        for (number, arguments) in render::VARIANTS.iter().enumerate() {
            let file = workspace.target.join(format!("deploy/variant-{number}.yaml"));
            fs::create_dir_all(file.parent().context("a file has a folder")?)?;
            fs::write(&file, render::variant(workspace, &helm, arguments)?)?;
            made.push(file);
        }
        schemas::check(workspace, &made)?;
        println!("the chart is sound, and {} manifests are what it makes", render::ALL.len());
    }
    Ok(())
}
