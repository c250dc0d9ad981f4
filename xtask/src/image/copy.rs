//! The checkout once more, elsewhere: what a second build has to come from to prove anything.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{child, workspace::Workspace};

/// Copies what git knows of the checkout, as it is now. Compilers' tools are shared, results are not.
pub(crate) fn of(workspace: &Workspace) -> Result<Workspace> {
    let root = workspace.target.join("image/elsewhere/a-copy-of-lastcall");
    match fs::remove_dir_all(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", root.display()));
        }
        _ => {}
    }
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&workspace.root);
    let list =
        child::answer(&mut git).context("`git ls-files` does not work here: --check needs a checkout")?;
    for path in list.split_terminator('\0').map(PathBuf::from) {
        let from = workspace.root.join(&path);
        if !from.is_file() {
            continue;
        }
        let to = root.join(&path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let target = root.join("target");
    fs::create_dir_all(target.join("ebpf"))?;
    let tools = workspace.target.join("ebpf/tools");
    if tools.is_dir() {
        symlink(tools, target.join("ebpf/tools"))?;
    }
    Ok(Workspace { root, target })
}
