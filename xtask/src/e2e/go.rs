//! A Go toolchain that can build Kubernetes: the one that is there, or one that is fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{apt, child};

/// The first that knows `tool` lines in go.mod; Kubernetes 1.34 wants no newer one.
const OLDEST: (u32, u32) = (1, 24);
/// What is fetched where no Go is new enough: toolchains are modules like any other.
const FETCHED: &str = "golang.org/toolchain@v0.0.1-go1.24.9";

/// The `go` to build with.
pub(crate) fn find_or_install(home: &Path) -> Result<PathBuf> {
    let fetched = home.join("go/bin/go");
    let usual = [child::on_path("go"), Some("/usr/local/go/bin/go".into()), Some(fetched.clone())];
    if let Some(go) = usual.into_iter().flatten().find(|go| version(go).is_some_and(|v| v >= OLDEST)) {
        return Ok(go);
    }
    apt::install_missing(&[("go", "golang-go")], "building Kubernetes")?;
    let old = child::on_path("go").context("golang-go has no program `go`")?;
    if version(&old).is_some_and(|v| v >= OLDEST) {
        return Ok(old);
    }
    eprintln!("go is older than {}.{}: fetching {FETCHED} by it", OLDEST.0, OLDEST.1);
    fetch(&old, &home.join("go"))?;
    ensure!(version(&fetched).is_some(), "{} does not run", fetched.display());
    Ok(fetched)
}

fn version(go: &Path) -> Option<(u32, u32)> {
    let said = child::answer(Command::new(go).arg("version").env("GOTOOLCHAIN", "local"))?;
    parse(&said)
}

/// `go version go1.24.9 linux/amd64`
fn parse(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let minor = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((numbers.next()?.parse().ok()?, minor(numbers.next()?)?))
}

#[derive(Deserialize)]
struct Download {
    #[serde(rename = "Dir")]
    folder: PathBuf,
}

/// Copies the module, since the module cache holds no executable file.
fn fetch(old: &Path, to: &Path) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let module = format!("{FETCHED}.linux-{architecture}");
    fs::create_dir_all(to)?;
    let mut command = Command::new(old);
    // The checksum database does not list toolchains to a Go that does not know of them.
    command.args(["mod", "download", "-json", &module]).current_dir(to).env("GOFLAGS", "-mod=mod");
    let fetch = || child::answer(&mut command).context("the module cannot be fetched");
    let said = child::fetched(&module, fetch).with_context(|| format!("cannot fetch {module}"))?;
    let download: Download =
        serde_json::from_str(&said).context("cannot read what `go mod download` says")?;
    let copy = ["-r", "--no-preserve=mode"];
    let from = download.folder.join(".");
    child::run(Command::new("cp").args(copy).arg(from).arg(to), Duration::from_secs(300))?;
    let folders = [to.join("bin"), to.join("pkg/tool")];
    child::run(Command::new("chmod").args(["-R", "a+x"]).args(folders), Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_go_prints_them() {
        assert_eq!(parse("go version go1.24.9 linux/amd64"), Some((1, 24)));
        assert_eq!(parse("go version go1.26rc1 linux/arm64"), Some((1, 26)));
        assert_eq!(parse("gccgo (Debian 12.2.0-14) 12.2.0"), None);
    }
}
