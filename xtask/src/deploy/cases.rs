//! The cases of the injection: pods as people write them, and the hooks that they get.
//!
//! A case is a file of `deploy/tests/inject`, named for what it shows. Its first line says where the pod is
//! created and what becomes of each container: `# asking namespace, expect app: lastcall, helper: own`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Which preStop hook a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// lastcall's.
    Lastcall,
    /// One that it came with.
    Own,
    /// None.
    None,
}

/// One case.
pub(crate) struct Case {
    /// The file's.
    pub name: String,
    /// The pod.
    pub file: PathBuf,
    /// Whether its namespace asks for the hook.
    pub asking: bool,
    /// By container.
    pub expected: BTreeMap<String, Hook>,
}

/// All cases of a folder, by name.
pub(crate) fn of(folder: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let file = entry?.path();
        let text = fs::read_to_string(&file)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (asking, expected) = expectation(&text).with_context(|| format!("{}", file.display()))?;
        cases.push(Case { name, file, asking, expected });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn expectation(text: &str) -> Result<(bool, BTreeMap<String, Hook>)> {
    let line = text.lines().next().and_then(|l| l.strip_prefix("# ")).context("expects nothing")?;
    let (namespace, line) = line.split_once(" namespace, expect ").context("expects nothing")?;
    let asking = match namespace {
        "asking" => true,
        "silent" => false,
        other => bail!("{other:?} is no namespace"),
    };
    let parts = line.split(',').map(|part| {
        let (container, hook) = part.split_once(':').with_context(|| format!("no hook in {part:?}"))?;
        let hook = match hook.trim() {
            "lastcall" => Hook::Lastcall,
            "own" => Hook::Own,
            "none" => Hook::None,
            other => bail!("{other:?} is no hook"),
        };
        Ok((container.trim().to_owned(), hook))
    });
    Ok((asking, parts.collect::<Result<_>>()?))
}

/// Which hooks a pod has, its init containers' among them.
pub(crate) fn hooks(pod: &Value) -> BTreeMap<String, Hook> {
    let list = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
    let containers = list("containers").chain(list("initContainers"));
    containers
        .map(|c| {
            let get = &c["lifecycle"]["preStop"];
            let ours = get["httpGet"]["path"] == "/drain" && get["httpGet"]["port"] == 9902;
            let hook = match get {
                Value::Null => Hook::None,
                _ if ours => Hook::Lastcall,
                _ => Hook::Own,
            };
            (c["name"].as_str().unwrap_or_default().to_owned(), hook)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_what_it_expects() {
        let text = "# asking namespace, expect app: lastcall, helper: own\nkind: Pod";
        let (asking, expected) = expectation(text).expect("an expectation");
        assert!(asking);
        assert_eq!(expected["app"], Hook::Lastcall);
        assert_eq!(expected["helper"], Hook::Own);
        assert!(expectation("kind: Pod").is_err());
        assert!(expectation("# silent namespace, expect app: sleep").is_err());
    }

    #[test]
    fn hooks_are_told_apart() {
        let pod = serde_json::json!({ "spec": {
            "containers": [
                { "name": "a", "lifecycle": { "preStop": { "httpGet": { "path": "/drain", "port": 9902 } } } },
                { "name": "b", "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } } },
            ],
            "initContainers": [{ "name": "c" }],
        } });
        let hooks = hooks(&pod);
        assert_eq!((hooks["a"], hooks["b"], hooks["c"]), (Hook::Lastcall, Hook::Own, Hook::None));
    }
}
