//! From the chart to a manifest that reads as if it had been written by hand.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::Workspace;

/// The chart's folder.
pub(crate) const CHART: &str = "deploy/chart/lastcall";

/// A helm that was built from its module takes every cluster for an old one.
pub(crate) const KUBE_VERSION: &str = "--kube-version=1.34.0";

/// A manifest, and how the chart makes it.
pub(crate) struct Manifest {
    /// Where it lies in the checkout.
    pub file: &'static str,
    /// What it is for, as its first lines.
    about: &'static str,
    /// For `helm template`.
    arguments: &'static [&'static str],
}

/// Every manifest that is made.
pub(crate) const ALL: &[Manifest] = &[
    Manifest {
        file: "deploy/lastcall.yaml",
        about: "The agent on every node: kubectl apply -f deploy/lastcall.yaml\n\
                Put the image where your nodes can pull it, and its name in here, first.",
        arguments: &[],
    },
    Manifest {
        file: "deploy/uninstall.yaml",
        about: "Takes the pinned programs off every node, after the agent was deleted:\n\
                kubectl apply -f deploy/uninstall.yaml\n\
                kubectl -n lastcall rollout status daemonset/lastcall-uninstall\n\
                kubectl delete -f deploy/uninstall.yaml",
        arguments: &["--set=uninstall=true"],
    },
    Manifest {
        file: "deploy/inject/policy-v1.yaml",
        about: "Gives pods the hook, where they or their namespace have the label lastcall.dev/inject=true.\n\
                For Kubernetes 1.36 and newer.",
        arguments: &[
            "--set=inject.enabled=true",
            "--show-only=templates/inject-policy.yaml",
            "--api-versions=admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",
        ],
    },
    Manifest {
        file: "deploy/inject/policy-v1beta1.yaml",
        about: "Gives pods the hook, where they or their namespace have the label lastcall.dev/inject=true.\n\
                For Kubernetes 1.34 and 1.35, whose API server needs\n\
                --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true",
        arguments: &[
            "--set=inject.enabled=true",
            "--show-only=templates/inject-policy.yaml",
            "--api-versions=admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy",
        ],
    },
    Manifest {
        file: "deploy/inject/kyverno.yaml",
        about: "Gives pods the hook, where they or their namespace have the label lastcall.dev/inject=true.\n\
                For clusters that have Kyverno, whatever their version.",
        arguments: &[
            "--set=inject.enabled=true,inject.by=kyverno",
            "--show-only=templates/inject-kyverno.yaml",
        ],
    },
];

/// What others may ask of the chart: rendered and held against the schemas, written nowhere.
pub(crate) const VARIANTS: &[&[&str]] = &[
    &["--set=namespace.create=false,serviceAccount.create=false,rbac.create=false", "--namespace=elsewhere"],
    &["--namespace=lastcall"],
    &["--set=openshift=true,securityContext.seLinuxOptions.type=spc_t,rbac.readEvents=false"],
    &[
        "--set=metrics.address=127.0.0.1,metrics.podMonitor.enabled=true,flags.min-settle=5s,image.digest=sha256:0",
    ],
    &[
        "--set=securityContext.moreCapabilities={SYS_RESOURCE},podLabels.a=b,podAnnotations.a=b,image.pullSecrets[0].name=a",
    ],
    // Before appArmorProfile was a field.
    &["--kube-version=1.29.0"],
];

/// Renders the chart as one of the variants.
pub(crate) fn variant(workspace: &Workspace, helm: &Path, arguments: &[&str]) -> Result<String> {
    let mut template = Command::new(helm);
    template.args(["template", "lastcall"]).arg(workspace.root.join(CHART)).arg(KUBE_VERSION).args(arguments);
    let output = template.output().context("cannot run helm")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}", complaint.trim_end());
    String::from_utf8(output.stdout).context("helm's output is no text")
}

/// Makes one.
pub(crate) fn render(workspace: &Workspace, helm: &Path, manifest: &Manifest) -> Result<String> {
    let rendered = variant(workspace, helm, manifest.arguments).context(manifest.file)?;
    let mut text =
        String::from("# Made from deploy/chart/lastcall by `cargo xtask deploy`: change it there.\n");
    for line in manifest.about.lines() {
        text.push_str(&format!("# {line}\n"));
    }
    text.push_str(&cleaned(&rendered));
    Ok(text)
}

/// Without the marks of where each part came from, and without a separator before the first.
fn cleaned(rendered: &str) -> String {
    let lines: Vec<&str> = rendered
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.starts_with("# Source: ") && !line.is_empty())
        .collect();
    let first = lines.iter().position(|line| *line != "---").unwrap_or(0);
    let mut text = lines[first..].join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_comments_stay() {
        let rendered = "---\n# Source: lastcall/templates/a.yaml\na: 1 \n# why\n\n---\n# Source: x\nb: 2\n";
        assert_eq!(cleaned(rendered), "a: 1\n# why\n---\nb: 2\n");
    }
}
