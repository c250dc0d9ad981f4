//! A real API server's word on the manifests, and on what the injection makes of pods.
//!
//! Everything is a dry run but two namespaces of the test's own and, where the server has it, the policy
//! under a name of its own; all of them are removed again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    cases, go_tools,
    render::{self, CHART},
};
use crate::{child, workspace::Workspace};

/// The policy's name in the test, so that an installed one is left alone.
const POLICY: &str = "lastcall-inject-trial";
/// How long an API server may take to put a policy into effect.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fails if the server refuses a manifest or a case comes out wrong, or cannot try the cases and has to.
pub(crate) fn judge(workspace: &Workspace, kubeconfig: &Path, has_policy: bool) -> Result<()> {
    let api = Api { kubectl: kubectl(workspace)?, kubeconfig: kubeconfig.to_owned() };
    let trial = Trial::begin(&api)?;
    manifests(workspace, &trial)?;
    injection(workspace, &trial, has_policy)
}

/// What is in a namespace can only be tried in one that exists: the dry run makes none.
fn manifests(workspace: &Workspace, trial: &Trial) -> Result<()> {
    for file in ["deploy/lastcall.yaml", "deploy/uninstall.yaml"] {
        let text =
            fs::read_to_string(workspace.root.join(file)).with_context(|| format!("cannot read {file}"))?;
        let text = text.replace("namespace: lastcall\n", &format!("namespace: {}\n", trial.silent));
        trial
            .api
            .feed(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &text)
            .with_context(|| format!("the API server refuses {file}"))?;
        println!("accepted: {file}");
    }
    Ok(())
}

fn injection(workspace: &Workspace, trial: &Trial, has_policy: bool) -> Result<()> {
    let api = trial.api;
    let group = "admissionregistration.k8s.io";
    let served = api.run(&["api-versions"])?;
    let version = ["v1", "v1beta1", "v1alpha1"].into_iter().find(|version| {
        let path = format!("/apis/{group}/{version}");
        served.contains(&format!("{group}/{version}"))
            && api
                .run(&["get", "--raw", &path])
                .is_ok_and(|kinds| kinds.contains("\"MutatingAdmissionPolicy\""))
    });
    let Some(version) = version else {
        let missing = "this API server has no MutatingAdmissionPolicy (--feature-gates, --runtime-config)";
        ensure!(!has_policy, "{missing}");
        println!("NOT tried: {missing}");
        return Ok(());
    };
    let mut template = Command::new(go_tools::helm(workspace)?);
    template
        .args(["template", "lastcall"])
        .arg(workspace.root.join(CHART))
        .args([render::KUBE_VERSION, "--set=inject.enabled=true", "--show-only=templates/inject-policy.yaml"])
        .arg(format!("--set=inject.name={POLICY}"))
        .arg(format!("--api-versions={group}/{version}/MutatingAdmissionPolicy"));
    let policy = child::answer(&mut template).context("helm cannot render the policy")?;
    ensure!(policy.contains(&format!("{group}/{version}")), "helm rendered another version than {version}");
    api.feed(&["apply", "--validate=strict", "-f", "-"], &policy)
        .context("the API server refuses the policy")?;
    let mut cases = cases::of(&workspace.root.join("deploy/tests/inject"))?;
    // Where nothing is expected, nothing happens before the policy counts either.
    cases.sort_by_key(|case| !case.expected.values().any(|hook| *hook == cases::Hook::Lastcall));
    ensure!(!cases.is_empty(), "there are no cases");
    let begun = Instant::now();
    let mut wrong = Vec::new();
    for case in &cases {
        // A policy counts some seconds after it was made: the first cases wait for that, and only they.
        let found = loop {
            let namespace = if case.asking { &trial.asking } else { &trial.silent };
            let found = dry_run(api, namespace, &case.file);
            let right = found.as_ref().is_ok_and(|hooks| *hooks == case.expected);
            if right || begun.elapsed() > PATIENCE {
                break found;
            }
            thread::sleep(Duration::from_millis(500));
        };
        match found {
            Ok(hooks) if hooks == case.expected => println!("ok: {}", case.name),
            Ok(hooks) => wrong.push(format!("{}: {hooks:?} instead of {:?}", case.name, case.expected)),
            Err(e) => wrong.push(format!("{}: {e:#}", case.name)),
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} cases of the injection, by {group}/{version}", cases.len());
    Ok(())
}

fn dry_run(api: &Api, namespace: &str, file: &Path) -> Result<BTreeMap<String, cases::Hook>> {
    let file = file.to_str().context("a path that is no text")?;
    let pod = api.run(&["-n", namespace, "create", "--dry-run=server", "-o", "json", "-f", file])?;
    Ok(cases::hooks(&serde_json::from_str::<Value>(&pod)?))
}

/// Two namespaces of this run, and what else it makes: removed, however it ends.
struct Trial<'a> {
    api: &'a Api,
    /// Asks for the hook.
    asking: String,
    /// Does not.
    silent: String,
}

impl<'a> Trial<'a> {
    fn begin(api: &'a Api) -> Result<Self> {
        // A namespace of an earlier run may still be on its way out.
        let own = |name: &str| format!("lastcall-trial-{name}-{}", std::process::id());
        let trial = Self { api, asking: own("asking"), silent: own("silent") };
        trial.namespace(&trial.silent, &[])?;
        let labels = ["lastcall.dev/inject=true", "pod-security.kubernetes.io/enforce=restricted"];
        trial.namespace(&trial.asking, &labels)?;
        Ok(trial)
    }

    fn namespace(&self, name: &str, labels: &[&str]) -> Result<()> {
        self.api.run(&["create", "namespace", name])?;
        for label in labels {
            self.api.run(&["label", "namespace", name, label])?;
        }
        // Pods are refused until the namespace has it; where no controller makes it, this does.
        let _ = self.api.run(&["-n", name, "create", "serviceaccount", "default"]);
        Ok(())
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let namespaces =
            ["delete", "namespace", &self.asking, &self.silent, "--ignore-not-found", "--wait=false"];
        let _ = self.api.run(&namespaces);
        for (kind, suffixes) in [
            ("mutatingadmissionpolicybinding", &["-namespace", "-pod"][..]),
            ("mutatingadmissionpolicy", &[""]),
        ] {
            for suffix in suffixes {
                let name = format!("{POLICY}{suffix}");
                let _ = self.api.run(&["delete", kind, &name, "--ignore-not-found", "--wait=false"]);
            }
        }
    }
}

struct Api {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Api {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        self.feed(arguments, "")
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::{io::Write as _, process::Stdio};
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.arg("--request-timeout=30s").arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running =
            kubectl.spawn().with_context(|| format!("cannot run {}", self.kubectl.display()))?;
        if let Some(mut stdin) = running.stdin.take() {
            // One that ends early says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = running.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The machine's, or the one that the project's own cluster is built with.
fn kubectl(workspace: &Workspace) -> Result<PathBuf> {
    let ours = workspace.target.join("e2e/bin/kubectl");
    child::on_path("kubectl").or_else(|| ours.is_file().then_some(ours)).context("there is no kubectl")
}
