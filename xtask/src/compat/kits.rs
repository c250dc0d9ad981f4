//! What the servers and clients are made of, a folder each under `target/compat`. Nothing is put on the
//! machine but language tools that are missing; servers of Debian are unpacked, not installed, so no
//! service starts, now or at the next boot.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::stamp;
use crate::{apt, child, root, workspace::Workspace};

/// Below the target directory.
pub(super) const FOLDER: &str = "compat";

const PACKAGES: [&str; 5] = ["nginx-light", "haproxy", "apache2", "lighttpd", "wrk"];
/// Go modules with a program each.
const GO_TOOLS: [&str; 2] = ["fortio.org/fortio@v1.65.0", "github.com/bojand/ghz/cmd/ghz@v0.93.0"];
const MINUTES: u64 = 60;

struct Kit {
    name: &'static str,
    what: &'static str,
    /// Changes when `make` makes something else of the same sources.
    recipe: String,
    make: fn(&Place<'_>) -> Result<()>,
}

struct Place<'a> {
    workspace: &'a Workspace,
    sources: PathBuf,
    built: PathBuf,
}

/// Makes what is not there yet, and says what it does; gives those that cannot be made, and why.
pub(super) fn prepare(workspace: &Workspace) -> Result<Vec<(&'static str, String)>> {
    let kits = [
        Kit {
            name: "debian",
            what: "nginx, HAProxy, Apache httpd, lighttpd, wrk",
            recipe: PACKAGES.concat(),
            make: debian,
        },
        Kit { name: "go", what: "Go servers and clients, fortio, ghz", recipe: GO_TOOLS.concat(), make: go },
        Kit { name: "node", what: "undici", recipe: String::new(), make: node },
        Kit {
            name: "python",
            what: "uvicorn, gunicorn, requests, httpx",
            recipe: String::new(),
            make: python,
        },
        Kit { name: "java", what: "Jetty", recipe: String::new(), make: java },
        Kit { name: "rust", what: "axum, tonic, hyper", recipe: String::new(), make: rust },
    ];
    let mut missing = Vec::new();
    for kit in kits {
        let sources = workspace.root.join("tests/compat").join(kit.name);
        let built = workspace.target.join(FOLDER).join(kit.name);
        let stamp = stamp::of(&kit.recipe, &sources)?;
        if stamp::is_on(&built, &stamp) {
            continue;
        }
        eprintln!("fetching and building {} in {}", kit.what, built.display());
        fs::create_dir_all(&built)?;
        let place = Place { workspace, sources, built };
        match (kit.make)(&place) {
            Ok(()) => stamp::put(&place.built, &stamp)?,
            Err(e) => {
                eprintln!("{e:#}; the rows of {} will say so", kit.what);
                let reason = format!("{e:#}");
                missing.push((kit.name, reason.lines().next().unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(missing)
}

fn debian(place: &Place<'_>) -> Result<()> {
    ensure!(apt::exists(), "there is no apt-get");
    apt::install_missing(&[("curl", "curl")], "a client")?;
    let (archives, unpacked) = (place.built.join("archives"), place.built.join("root"));
    fs::create_dir_all(archives.join("partial"))?;
    let apt = |arguments: &[&str], limit| {
        let mut command = root::command("apt-get", &[]);
        command.args(["-q", "-y"]).args(apt::PATIENTLY).args(arguments).stdout(Stdio::null());
        child::run(&mut command, Duration::from_secs(limit))
    };
    let cache = format!("Dir::Cache::archives={}", archives.display());
    let download = ["install", "--no-install-recommends", "--download-only", "-o", &cache];
    child::fetched("apt-get", || {
        if let Err(e) = apt(&["update"], 5 * MINUTES) {
            eprintln!("{e:#}; going on with the lists that are there");
        }
        apt(&[&download[..], &PACKAGES].concat(), 10 * MINUTES)
    })?;
    for entry in fs::read_dir(&archives)? {
        let package = entry?.path();
        if package.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").args([&package, &unpacked]), 5)?;
        }
    }
    Ok(())
}

fn go(place: &Place<'_>) -> Result<()> {
    apt::install_missing(&[("go", "golang-go")], "servers and clients in Go")?;
    let bin = place.built.join("bin");
    fs::create_dir_all(&bin)?;
    fetch(Command::new("go").args(["build", "-o"]).arg(&bin).arg("./...").current_dir(&place.sources), 15)?;
    for tool in GO_TOOLS {
        fetch(Command::new("go").args(["install", tool]).env("GOBIN", &bin).current_dir(&place.built), 15)?;
    }
    Ok(())
}

fn node(place: &Place<'_>) -> Result<()> {
    apt::install_missing(&[("node", "nodejs"), ("npm", "npm")], "a server and a client in JavaScript")?;
    fs::copy(place.sources.join("package.json"), place.built.join("package.json"))?;
    let quietly = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"];
    let mut npm = Command::new("npm");
    fetch(npm.arg("install").args(quietly).current_dir(&place.built).stdout(Stdio::null()), 10)
}

fn python(place: &Place<'_>) -> Result<()> {
    apt::install_missing(&[("python3", "python3")], "servers and clients in Python")?;
    let environment = place.built.join("venv");
    let make = || run(Command::new("python3").args(["-m", "venv"]).arg(&environment), 5);
    // Debian's Python comes without what an environment is made of.
    if make().is_err() {
        apt::install(&["python3-venv"], "servers and clients in Python")?;
        make()?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    fetch(pip.arg(place.sources.join("requirements.txt")), 10)
}

fn java(place: &Place<'_>) -> Result<()> {
    let tools = [("javac", "default-jdk-headless"), ("mvn", "maven")];
    apt::install_missing(&tools, "servers and a client in Java")?;
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", "compile"]);
    maven.arg(format!("-Dcompat.out={}", place.built.display()));
    fetch(maven.current_dir(&place.sources), 15)
}

fn rust(place: &Place<'_>) -> Result<()> {
    let mut cargo = place.workspace.cargo();
    cargo.args(["build", "--quiet", "--release", "--locked", "--target-dir"]).arg(&place.built);
    fetch(cargo.current_dir(&place.sources), 20)
}

/// Languages fetch and build in one.
fn fetch(command: &mut Command, minutes: u64) -> Result<()> {
    let what = command.get_program().to_string_lossy().into_owned();
    child::fetched(&what, || run(command, minutes))
}

fn run(command: &mut Command, minutes: u64) -> Result<()> {
    child::run(command.stdin(Stdio::null()), Duration::from_secs(minutes * MINUTES))
}
