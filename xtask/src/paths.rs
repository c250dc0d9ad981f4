//! Paths of this machine, and what stands for them in what is built.
//!
//! Compilers write the paths of sources into panics, debug information and BTF. The same sources then give
//! other bytes in another folder, and an image tells strangers where its maker keeps his things.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;

/// Each path and its stand-in. Of two that hold a path, the later one wins, for all compilers here.
pub(crate) struct Paths(Vec<(PathBuf, String)>);

impl Paths {
    /// The checkout, its results, cargo's registries and the compiler's sources.
    pub(crate) fn of(workspace: &Workspace, sysroot: Option<&Path>) -> Result<Self> {
        let mut paths = vec![(workspace.root.clone(), "/lastcall".to_owned())];
        paths.push((workspace.target.clone(), "/lastcall/target".to_owned()));
        let home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
                .join(".cargo"),
        };
        // A registry's folder has the name of the mirror that it came from.
        let registries = home.join("registry/src");
        paths.push((home, "/cargo".to_owned()));
        for registry in fs::read_dir(registries).into_iter().flatten() {
            paths.push((registry?.path(), "/cargo/registry".to_owned()));
        }
        if let Some(sysroot) = sysroot {
            paths.push((sysroot.join("lib/rustlib/src/rust"), "/rustc".to_owned()));
        }
        Ok(Self(paths))
    }

    /// For rustc.
    pub(crate) fn rustc(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
    }

    /// For a C compiler.
    pub(crate) fn cc(&self) -> String {
        let maps = self.0.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
        maps.collect::<Vec<_>>().join(" ")
    }

    /// One that is told in spite of that. What is the same on every machine, such as the compiler's own
    /// place in /usr, tells nothing.
    pub(crate) fn told_in(&self, bytes: &[u8]) -> Option<&Path> {
        let mut own = self.0.iter().map(|(path, _)| path.as_path()).filter(|p| !p.starts_with("/usr"));
        own.find(|path| holds(bytes, path.as_os_str().as_encoded_bytes()))
    }
}

/// Of paths, which begin with a slash.
fn holds(bytes: &[u8], path: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| *byte == b'/' && bytes[at..].starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_found() {
        let paths =
            Paths(vec![("/srv/checkout".into(), "/lastcall".into()), ("/usr".into(), "/rustc".into())]);
        assert_eq!(paths.told_in(b"at /srv/checkout/agent"), Some(Path::new("/srv/checkout")));
        assert_eq!(paths.told_in(b"at /lastcall/agent, /usr/lib"), None);
        assert_eq!(paths.rustc().next().as_deref(), Some("--remap-path-prefix=/srv/checkout=/lastcall"));
    }
}
