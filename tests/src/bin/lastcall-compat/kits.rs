//! Where the other people's software is that `cargo xtask compat` has fetched and built.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A language or a distribution: what is installed together, and missing together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kit {
    /// Debian's packages, unpacked, not installed.
    Debian,
    Go,
    Node,
    Python,
    Java,
    Rust,
}

impl Kit {
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Go => "go",
            Self::Node => "node",
            Self::Python => "python",
            Self::Java => "java",
            Self::Rust => "rust",
        }
    }
}

/// All of it.
pub(crate) struct Kits {
    /// What was built.
    built: PathBuf,
    /// The sources, for languages that need no building.
    sources: PathBuf,
    /// Kits that are not there, and why.
    missing: Vec<(String, String)>,
}

impl Kits {
    /// `missing` as `KIT=REASON`.
    pub(crate) fn new(built: &Path, sources: &Path, missing: &[String]) -> Self {
        let split = |text: &String| {
            let (kit, reason) = text.split_once('=').unwrap_or((text, "no reason given"));
            (kit.to_owned(), reason.to_owned())
        };
        let missing = missing.iter().map(split).collect();
        Self { built: built.to_owned(), sources: sources.to_owned(), missing }
    }

    /// Why a kit cannot be used.
    pub(crate) fn why_not(&self, kit: Kit) -> Option<&str> {
        let found = self.missing.iter().find(|(name, _)| name == kit.name());
        found.map(|(_, reason)| reason.as_str())
    }

    /// Something that was built.
    pub(crate) fn built(&self, path: &str) -> String {
        self.built.join(path).display().to_string()
    }

    /// A source file.
    pub(crate) fn source(&self, path: &str) -> String {
        self.sources.join(path).display().to_string()
    }

    /// A file of a Debian package: unpacked by us, or installed already.
    pub(crate) fn debian(&self, path: &str) -> Result<String> {
        let ours = self.built.join("debian/root").join(path);
        let theirs = Path::new("/").join(path);
        match [ours, theirs].into_iter().find(|path| path.exists()) {
            Some(found) => Ok(found.display().to_string()),
            None => bail!("no {path} among the packages"),
        }
    }

    /// A program of a Debian package, with the libraries that were unpacked beside it.
    pub(crate) fn debian_program(&self, path: &str) -> Result<Vec<String>> {
        let program = self.debian(path)?;
        let libraries = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"];
        let libraries = libraries.map(|lib| self.built.join("debian/root").join(lib).display().to_string());
        Ok(words(&["env", &format!("LD_LIBRARY_PATH={}", libraries.join(":")), &program]))
    }
}

/// A command line.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
