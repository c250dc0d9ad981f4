//! `cargo xtask tidy`: what the compiler does not check and a reviewer should not have to.

mod layers;
mod length;
mod machines;
mod top;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{child, workspace::Workspace};

/// A file of the checkout, by its path from the root.
struct Source {
    path: PathBuf,
    text: String,
}

/// Checks the checkout; names every breach, then fails if there was one.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = files(&workspace.root)?;
    let mut breaches = top::check(&files);
    let sources: Vec<Source> = files
        .into_iter()
        .filter_map(|path| {
            fs::read_to_string(workspace.root.join(&path)).ok().map(|text| Source { path, text })
        })
        .collect();
    breaches.extend(length::check(&sources));
    breaches.extend(machines::check(&sources, &workspace.root));
    breaches.extend(layers::check(&sources));
    for breach in &breaches {
        println!("{breach}");
    }
    ensure!(breaches.is_empty(), "{} breaches of the house rules", breaches.len());
    println!("tidy: {} files", sources.len());
    Ok(())
}

/// Files that are committed or about to be: what git knows or would add.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let list = child::answer(&mut git).context("`git ls-files` does not work here: tidy needs a checkout")?;
    let mut files: Vec<PathBuf> = list.split_terminator('\0').map(PathBuf::from).collect();
    files.retain(|f| root.join(f).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

/// For the tests of the rules.
#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.to_owned() }
}
