//! What the image says of itself: version, commit, and the commit's time for every date in it.

use std::{env, process::Command};

use anyhow::{Context as _, Result};

use crate::{child, workspace::Workspace};

/// Where an image comes from.
pub(crate) struct Origin {
    /// The workspace's version.
    pub version: String,
    /// The commit, with `-dirty` where the checkout differs from it; nothing without git.
    pub revision: Option<String>,
    /// The project's page.
    pub source: String,
    /// Of what is in the image.
    pub licence: String,
    /// Seconds since 1970: `SOURCE_DATE_EPOCH`, else the commit's time, else 0.
    pub seconds: u64,
}

impl Origin {
    /// Asks cargo's manifest and git.
    pub(crate) fn of(workspace: &Workspace) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            child::answer(git.args(arguments).current_dir(&workspace.root)).map(|said| said.trim().to_owned())
        };
        let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
        let revision = git(&["rev-parse", "HEAD"]).map(|r| if dirty { format!("{r}-dirty") } else { r });
        let seconds = match env::var("SOURCE_DATE_EPOCH") {
            Ok(typed) => {
                typed.parse().with_context(|| format!("SOURCE_DATE_EPOCH={typed}: seconds since 1970"))?
            }
            Err(_) => git(&["log", "-1", "--format=%ct"]).and_then(|s| s.parse().ok()).unwrap_or(0),
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            source: env!("CARGO_PKG_REPOSITORY").to_owned(),
            licence: env!("CARGO_PKG_LICENSE").to_owned(),
            seconds,
        })
    }

    /// As RFC 3339 has it.
    pub(crate) fn time(&self) -> Result<String> {
        let seconds = i64::try_from(self.seconds).context("a time beyond all calendars")?;
        Ok(jiff::Timestamp::from_second(seconds).context("a time beyond all calendars")?.to_string())
    }
}
