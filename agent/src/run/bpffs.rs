//! The BPF file system, where what must outlive the agent is pinned.

use std::path::Path;

use anyhow::{Context as _, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where every distribution mounts it.
const USUAL: &str = "/sys/fs/bpf";

/// Sees to it that the folder is on a BPF file system; mounts the usual one where nobody has.
pub(super) fn ensure(folder: &Path) -> anyhow::Result<()> {
    if is_bpf(folder)? {
        return Ok(());
    }
    if !folder.starts_with(USUAL) {
        bail!(
            "--bpf-dir {}: not on a BPF file system; mount one there (mount -t bpf bpf DIR), or leave the flag out",
            folder.display()
        );
    }
    tracing::info!("mounting the BPF file system on {USUAL}");
    mount(Some("bpf"), USUAL, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount the BPF file system on {USUAL} (needs CAP_SYS_ADMIN)"))
}

/// Of the folder, or of what is above it and exists.
fn is_bpf(folder: &Path) -> anyhow::Result<bool> {
    let existing = folder.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = statfs(existing).with_context(|| format!("look at {}", existing.display()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}
