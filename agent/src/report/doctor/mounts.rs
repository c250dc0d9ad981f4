//! File systems of the node, as this process sees them.

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, NSFS_MAGIC, statfs};

use super::{
    Check, Group, Plan,
    findings::reason,
    sys::{self, MapType},
};
use crate::kernel::sys::pin;

/// The root of every cgroup tree has this inode number (`kernfs_create_root`), whatever part of the
/// tree a container's mount shows; any other number is a part.
const ROOT_INODE: u64 = 1;

pub(super) fn checks(plan: &Plan, root: Option<&Path>) -> Vec<Check> {
    vec![bpffs(&plan.bpf_dir), cgroup2(root), netns_dir(&plan.netns_dir)]
}

/// As given, or the first cgroup2 mount that shows the whole tree, or the first at all.
pub(super) fn cgroup_root(given: Option<&Path>) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    let mounts = cgroup2_mounts(&fs::read_to_string("/proc/mounts").ok()?);
    mounts.iter().find(|m| is_whole(m)).or(mounts.first()).cloned()
}

fn is_whole(mount: &Path) -> bool {
    fs::metadata(mount).is_ok_and(|m| m.ino() == ROOT_INODE)
}

/// Mount points of type cgroup2, with the octal escapes that /proc/mounts uses for blanks undone.
fn cgroup2_mounts(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| {
                PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
            })
        })
        .collect()
}

fn is(path: &Path, kind: FsType) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == kind)
}

/// By pinning a map in it, under a name that no agent uses.
fn bpffs(dir: &Path) -> Check {
    let check = Check::new(
        Group::Mounts,
        "bpf file system",
        "let hooks be a sleep while no agent runs, and survive it",
    );
    let Some(there) = dir.ancestors().find(|d| d.exists()) else {
        return check.degraded(format!("no {}", dir.display()), "give --bpf-dir a directory that exists");
    };
    let mount = "mount -t bpf bpf /sys/fs/bpf on the node; in a container, mount the node's /sys/fs/bpf as a \
                 hostPath with mountPropagation HostToContainer. Until then the agent cannot leave anything in \
                 the kernel: hooks fail while it is away";
    match is(there, BPF_FS_MAGIC) {
        Ok(true) => {}
        Ok(false) => return check.degraded(format!("{} is on another file system", there.display()), mount),
        Err(error) => return check.degraded(format!("{}: {}", there.display(), reason(&error)), mount),
    }
    // A name, too, must not clash with another doctor's.
    let name = there.join(format!("lastcall-doctor-{}", std::process::id()));
    let tried = sys::map(MapType::Array, 4, 8, 1).and_then(|map| pin(map.as_fd(), &name));
    if let Err(error) = fs::remove_file(&name)
        && tried.is_ok()
    {
        let left = format!("{} cannot be removed: {}", name.display(), reason(&error));
        return check.degraded(left, "remove it by hand");
    }
    match tried {
        Ok(()) => check.ok(format!("{}, pinning works", there.display())),
        Err(error) => check.degraded(
            format!("{}: pinning failed: {}", there.display(), reason(&error)),
            "mount it writable, and hold the capabilities above",
        ),
    }
}

fn cgroup2(root: Option<&Path>) -> Check {
    let check = Check::new(
        Group::Mounts,
        "root cgroup (v2)",
        "attach where the kubelet's calls pass, and to know its processes",
    );
    let mount = "mount the node's /sys/fs/cgroup into the container (hostPath) and name it with --cgroup-root; \
                 on nodes with cgroup v1 alone: mount -t cgroup2 none /run/cgroup2";
    let Some(root) = root else { return check.missing("no cgroup2 file system is mounted", mount) };
    let inode = is(root, CGROUP2_SUPER_MAGIC)
        .and_then(|right| if right { fs::metadata(root).map(|m| Some(m.ino())) } else { Ok(None) });
    match inode {
        Ok(Some(ROOT_INODE)) => check.ok(root.display().to_string()),
        Ok(Some(_)) => {
            check.missing(format!("{} is only a part of the tree, a container's", root.display()), mount)
        }
        Ok(None) => check.missing(format!("{} is on another file system", root.display()), mount),
        Err(error) => check.missing(format!("{}: {}", root.display(), reason(&error)), mount),
    }
}

/// A runtime's directory holds a mount of each namespace; files that are none are left over.
fn netns_dir(dir: &Path) -> Check {
    let check = Check::new(Group::Mounts, "network namespaces", "find a pod's network namespace");
    let remedy = "name the container runtime's directory with --netns-dir, mounted into the container with \
                  mountPropagation HostToContainer; without it namespaces are looked for in /proc, which \
                  needs hostPID. On a node without pods it is empty until the first one comes";
    match namespaces(dir) {
        Ok(found) if !found.is_empty() => check.ok(format!("{} in {}", found.len(), dir.display())),
        Ok(_) => check.degraded(format!("none in {}", dir.display()), remedy),
        Err(error) => check.degraded(format!("{}: {}", dir.display(), reason(&error)), remedy),
    }
}

/// The network namespaces of a directory.
pub(super) fn namespaces(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is(&path, NSFS_MAGIC).unwrap_or(false) {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::doctor::Verdict;

    #[test]
    fn mounts_of_type_cgroup2_only() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      none /run/with\\040blank cgroup2 rw 0 0\n\
                      broken\n";
        assert_eq!(
            cgroup2_mounts(mounts),
            [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/run/with blank")]
        );
    }

    #[test]
    fn a_directory_that_is_no_bpf_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let check = bpffs(&dir.path().join("lastcall"));
        assert_eq!(check.verdict, Verdict::Degraded);
        assert!(check.found.ends_with("is on another file system"), "{}", check.found);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    /// In a mount namespace of the test's own, which is gone with its thread.
    #[test]
    fn a_bpf_file_system_is_pinned_to_and_left_as_it_was() {
        if !crate::report::doctor::tests::root() {
            return;
        }
        use nix::{
            mount::{MsFlags, mount},
            sched::{CloneFlags, unshare},
        };
        let dir = tempfile::tempdir().unwrap();
        let probe = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
            let names = || fs::read_dir(dir.path()).unwrap().count();
            let before = names();
            let check = bpffs(&dir.path().join("lastcall/v1"));
            (check, before, names())
        };
        let (check, before, after) = std::thread::scope(|s| s.spawn(probe).join().unwrap());
        assert_eq!(check.verdict, Verdict::Ok, "{}", check.found);
        assert_eq!(check.found, format!("{}, pinning works", dir.path().display()));
        assert_eq!(before, after);
    }

    #[test]
    fn a_root_cgroup_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let check = cgroup2(Some(dir.path()));
        assert_eq!(check.verdict, Verdict::Missing);
        assert!(check.found.ends_with("is on another file system"), "{}", check.found);
        assert_eq!(cgroup2(None).verdict, Verdict::Missing);
        assert_eq!(cgroup2(Some(Path::new("/nowhere"))).verdict, Verdict::Missing);
    }

    /// A directory below the root is what a container's own mount looks like.
    #[test]
    fn a_part_of_the_tree_is_not_the_root() {
        if !crate::report::doctor::tests::root() {
            return;
        }
        let root = cgroup_root(None).expect("a cgroup2 mount");
        assert_eq!(cgroup2(Some(&root)).verdict, Verdict::Ok, "{root:?}");
        let part = root.join(format!("lastcall-doctor-test-{}", std::process::id()));
        fs::create_dir(&part).unwrap();
        let check = cgroup2(Some(&part));
        fs::remove_dir(&part).unwrap();
        assert!(check.found.contains("only a part of the tree"), "{}", check.found);
    }

    #[test]
    fn files_that_are_no_namespaces_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cni-left-over"), "").unwrap();
        assert_eq!(netns_dir(dir.path()).verdict, Verdict::Degraded);
        std::os::unix::fs::symlink("/proc/self/ns/net", dir.path().join("cni-1234")).unwrap();
        assert_eq!(netns_dir(dir.path()).found, format!("1 in {}", dir.path().display()));
        assert!(netns_dir(Path::new("/nowhere")).found.contains("ENOENT"));
    }
}
