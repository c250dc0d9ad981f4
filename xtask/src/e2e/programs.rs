//! The cluster's programs and images, built from Go modules and kept as long as nothing about them changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::go;
use crate::{child, workspace::Workspace};

/// A Go module of `tests/cluster/`.
struct Module {
    /// Its folder.
    name: &'static str,
    /// Where its programs go, below `bin/`.
    to: &'static str,
    /// What is built of it.
    packages: &'static [&'static str],
    /// On two cores, everything empty.
    takes: &'static str,
}

const MODULES: [Module; 4] = [
    Module { name: "tools", to: "", packages: &["./..."], takes: "seconds" },
    Module { name: "cni", to: "cni/", packages: &["tool"], takes: "10 seconds" },
    Module { name: "etcd", to: "etcd", packages: &["go.etcd.io/etcd/server/v3"], takes: "half a minute" },
    Module { name: "kubernetes", to: "", packages: &["tool"], takes: "5 to 10 minutes" },
];

/// A loaded machine with a slow network.
const LIMIT: Duration = Duration::from_secs(1500);

/// Images FROM scratch: name, and the program that is all of it.
const IMAGES: [&str; 2] = ["pause", "app"];

/// Fills `home/bin` and `home/images`.
pub(super) fn build(workspace: &Workspace, home: &Path) -> Result<()> {
    let sources = workspace.root.join("tests/cluster");
    let go = go::find_or_install(home)?;
    fs::create_dir_all(home.join("bin/cni"))?;
    for module in &MODULES {
        let folder = sources.join(module.name);
        let state = state(&folder)?;
        let stamp = home.join(format!("{}.built", module.name));
        if fs::read_to_string(&stamp).is_ok_and(|built| built == state) {
            continue;
        }
        eprintln!("building {} ({}, once)", module.name, module.takes);
        let started = Instant::now();
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(&go).args(["build", "-trimpath", "-buildvcs=false", "-ldflags"]);
        command.arg(link_flags(&go, module, &folder)?).arg("-o").arg(home.join("bin").join(module.to));
        command.args(module.packages).current_dir(&folder);
        command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOFLAGS", "");
        child::run(&mut command, LIMIT)?;
        eprintln!("{} took {:.0} s", module.name, started.elapsed().as_secs_f64());
        fs::write(&stamp, state)?;
    }
    images(home)
}

/// The components of Kubernetes read their version from variables.
fn link_flags(go: &Path, module: &Module, folder: &Path) -> Result<String> {
    let mut flags = "-s -w".to_owned();
    if module.name == "kubernetes" {
        let mut ask = Command::new(go);
        ask.args(["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"]);
        ask.current_dir(folder).env("GOTOOLCHAIN", "local").env("GOFLAGS", "");
        let version = child::answer(&mut ask).context("go.mod names no version of k8s.io/kubernetes")?;
        let version = version.trim();
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            flags += &format!(" -X {package}.gitVersion={version} -X {package}.gitMajor={major}");
            flags += &format!(" -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean");
        }
    }
    Ok(flags)
}

/// Of all files of a module, by their contents.
fn state(folder: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![folder.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        (file.strip_prefix(folder)?, fs::read(&file)?).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn images(home: &Path) -> Result<()> {
    let folder = home.join("images");
    fs::create_dir_all(&folder)?;
    for name in IMAGES {
        let program = home.join("bin").join(name);
        let image = folder.join(format!("{name}.tar"));
        let built = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        if built(&image) > built(&program) {
            continue;
        }
        let mut command = Command::new(home.join("bin/mkimage"));
        command.args(["-tag", &format!("e2e.local/{name}:1"), "-entrypoint", &format!("/{name}"), "-o"]);
        command.arg(&image).arg(format!("{}:/{name}", program.display()));
        child::run(&mut command, Duration::from_secs(60))?;
    }
    Ok(())
}
