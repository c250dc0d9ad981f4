//! One version: the workspace's, the chart's, and the image's that the chart names.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::render::CHART;
use crate::workspace::Workspace;

/// The chart says what the workspace is.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(CHART).join("Chart.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    for field in ["version", "appVersion"] {
        let said = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        let ours = env!("CARGO_PKG_VERSION");
        ensure!(
            said == Some(ours),
            "{}: {field} is {}, the workspace's is {ours}",
            file.display(),
            said.unwrap_or("missing")
        );
    }
    Ok(())
}
