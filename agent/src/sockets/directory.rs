//! What network namespaces there are: the files of a directory (`/run/netns`, where container
//! runtimes bind them), else those that processes live in.
//!
//! In: paths. Out: which namespace each stands for. Nothing is held open: an open file keeps a
//! namespace, its links and its sockets alive after its pod.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// Path of each namespace's file and the namespace's inode, which names it as long as it lives.
pub(super) type Listing = BTreeMap<PathBuf, u64>;

/// The namespaces of `directory` but the one with the inode `except`; where there is none, or no such
/// directory, those of the processes that the agent sees.
pub(super) fn list(directory: &Path, except: u64) -> Listing {
    let mut listing = files(directory, except);
    if listing.is_empty() {
        listing = processes(except);
    }
    listing
}

fn files(directory: &Path, except: u64) -> Listing {
    let Ok(entries) = fs::read_dir(directory) else { return Listing::new() };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let inode = inode(&path)?;
            (inode != except).then_some((path, inode))
        })
        .collect()
}

/// One process for each namespace that has any: the one with the lowest number, which in a pod is
/// the sandbox's and lives longest.
fn processes(except: u64) -> Listing {
    let Ok(entries) = fs::read_dir("/proc") else { return Listing::new() };
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut seen = BTreeMap::new();
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        if let Some(inode) = inode(&path).filter(|inode| *inode != except) {
            seen.entry(inode).or_insert(path);
        }
    }
    seen.into_iter().map(|(inode, path)| (path, inode)).collect()
}

/// A process lives in the namespace.
pub(super) fn has_process(inode: u64) -> bool {
    processes(0).values().any(|i| *i == inode)
}

/// The inode of the namespace that the file stands for. None where it has gone, or is an ordinary
/// file: runtimes create the file first, and bind the namespace over it a moment later.
pub(super) fn inode(path: &Path) -> Option<u64> {
    (statfs(path).ok()?.filesystem_type() == NSFS_MAGIC).then_some(())?;
    fs::metadata(path).ok().map(|m| m.ino())
}

/// Opens a namespace's file, if it still stands for the namespace with this inode.
pub(super) fn open(path: &Path, inode: u64) -> io::Result<fs::File> {
    let file = fs::File::open(path)?;
    if file.metadata()?.ino() == inode {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "another namespace has taken its place"))
    }
}
