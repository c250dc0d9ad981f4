//! Programs and tests, built by the user's own cargo and found by what cargo says of them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// A built program or test executable.
pub(crate) struct Built {
    /// The package's name.
    pub package: String,
    /// The package's folder: where its tests expect to run.
    pub folder: PathBuf,
    /// The target's name.
    pub name: String,
    /// `lib`, `bin`, `test`, …
    pub kind: String,
    /// The file to run.
    pub file: PathBuf,
    /// Whether it is a program of tests.
    pub test: bool,
}

/// Runs a cargo command that builds; its progress goes to standard error.
pub(crate) fn build(cargo: &mut Command) -> Result<Vec<Built>> {
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "it does not build, see above");
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// cargo's message about an artefact that can be run; its other messages are not asked about.
fn executable(line: &str) -> Option<Built> {
    let artifact: Artifact = serde_json::from_str(line).ok()?;
    let folder = artifact.manifest_path.parent()?;
    Some(Built {
        package: package_in(folder)?,
        folder: folder.to_owned(),
        name: artifact.target.name,
        kind: artifact.target.kind.into_iter().next()?,
        file: artifact.executable?,
        test: artifact.profile.test,
    })
}

/// A package is known by its folder here: `agent`, `tests`, …
fn package_in(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_cargos_messages_only_executables_count() {
        let test = r#"{"reason":"compiler-artifact","package_id":"path+file:///c/agent#lastcall-agent@0.1.0",
            "manifest_path":"/c/agent/Cargo.toml","target":{"kind":["test"],"name":"packets"},"profile":{"test":true},
            "executable":"/c/target/debug/deps/packets-1"}"#;
        let built = executable(test).expect("an executable");
        assert_eq!((&*built.package, &*built.kind, &*built.name), ("agent", "test", "packets"));
        assert_eq!(built.folder, Path::new("/c/agent"));
        assert!(executable(&test.replace("\"/c/target/debug/deps/packets-1\"", "null")).is_none());
        assert!(executable(r#"{"reason":"build-finished","success":true}"#).is_none());
    }
}
