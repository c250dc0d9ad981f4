//! The cluster's programs and images, built from Go modules and kept as long as nothing about them changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::go;
use crate::{child, deploy::go_tools, workspace::Workspace};

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

/// Of the newer Kubernetes only what judges manifests.
const NEXT: Module =
    Module { name: "kubernetes-next", to: "next/", packages: &["tool"], takes: "3 to 6 minutes" };

/// A version of Kubernetes that the manifests are tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kubernetes {
    /// The cluster's, which has the policy as v1beta1, behind a gate
    #[value(name = "1.34")]
    Cluster,
    /// The first that has the policy as v1
    #[value(name = "1.36")]
    Next,
}

impl Kubernetes {
    /// For folders.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "1.34",
            Self::Next => "1.36",
        }
    }

    /// Without which its API server has no MutatingAdmissionPolicy.
    pub(crate) fn policy_flags(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &[
                "--feature-gates=MutatingAdmissionPolicy=true",
                "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
            ],
            Self::Next => &[],
        }
    }
}

/// What debuggers need is not made at all, instead of left out by the linker: an eighth of the time. The same
/// for everything that is built of Go, so that its own library is built once.
pub(crate) const NO_DWARF: &str = "-gcflags=all=-dwarf=false";

/// A loaded machine with a slow network.
const LIMIT: Duration = Duration::from_secs(1500);

/// Images FROM scratch: name, and the program that is all of it.
const IMAGES: [&str; 2] = ["pause", "app"];

/// Begins to fetch the sources of what [`build`] will build. That it failed shows when they are built.
pub(super) fn fetch_ahead(workspace: &Workspace, home: &Path) -> Result<JoinHandle<()>> {
    let mut fetches = Vec::new();
    for module in &MODULES {
        let folder = folder(workspace, module);
        if is_built(home, module, &state(&folder)?) {
            continue;
        }
        let mut list = list(&go::find_or_install(home)?, module, &folder);
        list.stderr(Stdio::null());
        fetches.push(list);
    }
    if !fetches.is_empty() {
        eprintln!("fetching the sources of Kubernetes meanwhile");
    }
    Ok(thread::spawn(move || {
        for mut fetch in fetches {
            let _ = child::run(&mut fetch, LIMIT);
        }
    }))
}

/// Has to have all sources that a module's programs are built from, and so fetches them.
fn list(go: &Path, module: &Module, folder: &Path) -> Command {
    let mut list = Command::new(go);
    list.args(["list", "-deps"]).args(module.packages).current_dir(folder);
    list.env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOTOOLCHAIN", toolchain(module));
    list.stdin(Stdio::null()).stdout(Stdio::null());
    list
}

/// Fills `home/bin` and `home/images`.
pub(super) fn build(workspace: &Workspace, home: &Path) -> Result<()> {
    for module in &MODULES {
        built(workspace, home, module)?;
    }
    // The scenarios install the chart by it.
    let helm = go_tools::helm(workspace)?;
    let ours = home.join("bin/helm");
    if fs::metadata(&ours).map(|m| m.len()).ok() != fs::metadata(&helm).map(|m| m.len()).ok() {
        fs::copy(&helm, &ours).with_context(|| format!("cannot copy {}", helm.display()))?;
    }
    images(home)
}

/// The API server of a version, with etcd, kubectl and mkpki beside it.
pub(crate) fn apiserver(workspace: &Workspace, home: &Path, kubernetes: Kubernetes) -> Result<PathBuf> {
    for module in &MODULES {
        built(workspace, home, module)?;
    }
    let folder = match kubernetes {
        Kubernetes::Cluster => "bin",
        Kubernetes::Next => {
            built(workspace, home, &NEXT)?;
            "bin/next"
        }
    };
    Ok(home.join(folder).join("kube-apiserver"))
}

/// Builds a module's programs, if they are not there as its files are now.
fn built(workspace: &Workspace, home: &Path, module: &Module) -> Result<()> {
    let folder = folder(workspace, module);
    let state = state(&folder)?;
    if is_built(home, module, &state) {
        return Ok(());
    }
    let go = go::find_or_install(home)?;
    let to = home.join("bin").join(module.to);
    // With a slash at its end it is a folder, to go as well.
    if module.to.is_empty() || module.to.ends_with('/') {
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    eprintln!("building {} ({}, once)", module.name, module.takes);
    let started = Instant::now();
    let mut fetch = list(&go, module, &folder);
    child::fetched(module.name, || child::run(&mut fetch, LIMIT))?;
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).arg(&go).args(["build", "-trimpath", "-buildvcs=false", NO_DWARF, "-ldflags"]);
    command.arg(link_flags(&go, module, &folder)?).arg("-o").arg(to).args(module.packages);
    command.current_dir(&folder).env("CGO_ENABLED", "0").env("GOFLAGS", "");
    command.env("GOTOOLCHAIN", toolchain(module));
    child::run(&mut command, LIMIT)?;
    eprintln!("{} took {:.0} s", module.name, started.elapsed().as_secs_f64());
    let stamp = stamp(home, module);
    fs::write(&stamp, state).with_context(|| format!("cannot write {}", stamp.display()))
}

fn folder(workspace: &Workspace, module: &Module) -> PathBuf {
    workspace.root.join("tests/cluster").join(module.name)
}

/// Holds the state of the files that a module's programs were built from.
fn stamp(home: &Path, module: &Module) -> PathBuf {
    home.join(format!("{}.built", module.name))
}

fn is_built(home: &Path, module: &Module, state: &str) -> bool {
    fs::read_to_string(stamp(home, module)).is_ok_and(|built| built == state)
}

/// The newer Kubernetes wants a newer Go than the cluster's, and Go fetches it as a module.
fn toolchain(module: &Module) -> &'static str {
    if module.name == NEXT.name { "auto" } else { "local" }
}

/// The components of Kubernetes read their version from variables.
fn link_flags(go: &Path, module: &Module, folder: &Path) -> Result<String> {
    let mut flags = "-s -w".to_owned();
    if module.name.starts_with("kubernetes") {
        let mut ask = Command::new(go);
        ask.args(["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"]);
        ask.current_dir(folder).env("GOTOOLCHAIN", toolchain(module)).env("GOFLAGS", "");
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
        // Whole or not at all: one that was interrupted would pass for newer than its program.
        let new = image.with_extension("new");
        command.arg(&new).arg(format!("{}:/{name}", program.display()));
        child::run(&mut command, Duration::from_secs(180))?;
        fs::rename(&new, &image).with_context(|| format!("cannot make {}", image.display()))?;
    }
    Ok(())
}
