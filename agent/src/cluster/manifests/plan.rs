//! Which directories must be watched to see any change of what a path leads to.
//!
//! inotify tells of a directory's entries. A path is looked up one entry after the other, through
//! symbolic links (a ConfigMap's file is two of them), so every directory that is looked into on the
//! way counts: that it all exists, today and under these names, is what may change.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// As many links as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The directories, with device and inode: another one under the same name must be watched anew.
    pub(super) directories: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// The entries that are looked up in them.
    entries: BTreeSet<PathBuf>,
    /// The directory at the end of the path: all its manifests count, even those to come.
    whole: Option<PathBuf>,
}

impl Plan {
    /// For an absolute path, of which any part may be missing yet.
    pub(super) fn new(path: &Path) -> Self {
        let mut plan = Self::default();
        if let Some(end) = plan.follow(path)
            && end.is_dir()
        {
            plan.add(&end);
            for file in manifests(&end).into_iter().flatten().filter(|file| file.is_symlink()) {
                plan.follow(&file);
            }
            plan.whole = Some(end);
        }
        plan
    }

    /// Whether a change of this entry may be a change of what is read.
    pub(super) fn concerns(&self, entry: &Path) -> bool {
        self.entries.contains(entry)
            || self.directories.contains_key(entry)
            || (self.whole.is_some()
                && entry.parent() == self.whole.as_deref()
                && entry.file_name().is_some_and(is_manifest))
    }

    fn add(&mut self, directory: &Path) {
        let inode = fs::metadata(directory).map(|found| (found.dev(), found.ino())).ok();
        self.directories.insert(directory.to_owned(), inode);
    }

    /// Notes the look-ups of a path; where it leads in the end, without links.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let mut at = PathBuf::from("/");
        let mut left: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let entry = at.join(&name);
            self.add(&at);
            self.entries.insert(entry.clone());
            if !fs::symlink_metadata(&entry).ok()?.is_symlink() {
                at = entry;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            let target = fs::read_link(&entry).ok()?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(name);
            }
        }
        Some(at)
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// The manifests of a directory, in the order of their names.
pub(super) fn manifests(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_manifest(&entry.file_name()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// By its name: not hidden, and called as manifests are. The rest is editors' backups, README files and
/// what is being written before it is renamed.
fn is_manifest(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}
