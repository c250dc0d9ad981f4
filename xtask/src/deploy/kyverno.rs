//! What Kyverno makes of the cases of the injection, by its own command: no cluster is needed for that.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    cases::{self, Case, Hook},
    go_tools,
};
use crate::{child, workspace::Workspace};

/// The policy as it is delivered.
const POLICY: &str = "deploy/inject/kyverno.yaml";

/// Fails if a case comes out wrong.
pub(crate) fn judge(workspace: &Workspace) -> Result<()> {
    let trial = Trial {
        kyverno: go_tools::kyverno(workspace)?,
        policy: workspace.root.join(POLICY),
        folder: workspace.target.join("deploy/kyverno"),
    };
    fs::create_dir_all(&trial.folder).with_context(|| format!("cannot make {}", trial.folder.display()))?;
    // There is no API server to ask for a namespace's labels.
    let values = json!({
        "apiVersion": "cli.kyverno.io/v1alpha1", "kind": "Values", "metadata": { "name": "values" },
        "namespaceSelector": [
            { "name": "asking", "labels": { "lastcall.dev/inject": "true" } },
            { "name": "silent", "labels": {} },
        ],
    });
    fs::write(trial.folder.join("values.json"), values.to_string())?;
    let cases = cases::of(&workspace.root.join("deploy/tests/inject"))?;
    ensure!(!cases.is_empty(), "there are no cases");
    let mut wrong = Vec::new();
    for case in &cases {
        match trial.hooks(case) {
            Ok(hooks) if hooks == case.expected => println!("ok: {}", case.name),
            Ok(hooks) => wrong.push(format!("{}: {hooks:?} instead of {:?}", case.name, case.expected)),
            Err(e) => wrong.push(format!("{}: {e:#}", case.name)),
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} cases of the injection, by Kyverno", cases.len());
    Ok(())
}

struct Trial {
    kyverno: PathBuf,
    policy: PathBuf,
    folder: PathBuf,
}

impl Trial {
    fn hooks(&self, case: &Case) -> Result<BTreeMap<String, Hook>> {
        let mut pod = yaml(&case.file)?;
        pod["metadata"]["namespace"] = json!(if case.asking { "asking" } else { "silent" });
        let (resource, made) = (self.folder.join("pod.json"), self.folder.join("made.yaml"));
        fs::write(&resource, pod.to_string())?;
        let _ = fs::remove_file(&made);
        let mut apply = Command::new(&self.kyverno);
        apply.arg("apply").arg(&self.policy).arg("--resource").arg(&resource).arg("-o").arg(&made);
        apply.arg("--values-file").arg(self.folder.join("values.json"));
        child::run_silent(&mut apply, Duration::from_secs(60))?;
        // It writes only what it has changed.
        Ok(cases::hooks(&if made.is_file() { yaml(&made)? } else { pod }))
    }
}

fn yaml(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.trim_end().trim_end_matches("---");
    serde_saphyr::from_str(text).with_context(|| format!("cannot read {}", file.display()))
}
