//! Which namespace has an address.
//!
//! In: addresses as they were read. Out: where to look first. It only remembers; whoever asks it
//! reads the addresses again before believing it, since addresses are given to the next pod.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::directory::Listing;

/// What was read of each namespace, by the path of its file.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<PathBuf, Entry>,
    /// Counts namespaces as they come.
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    inode: u64,
    arrival: u64,
    addresses: Vec<IpAddr>,
}

impl Index {
    /// Forgets what is not in the listing any more, or is another namespace under an old path.
    pub(super) fn retain(&mut self, listing: &Listing) {
        self.entries.retain(|path, entry| listing.get(path) == Some(&entry.inode));
    }

    /// Remembers a namespace's addresses.
    pub(super) fn set(&mut self, path: &Path, inode: u64, addresses: Vec<IpAddr>) {
        self.arrivals += 1;
        let arrival = match self.entries.get(path) {
            Some(entry) if entry.inode == inode => entry.arrival,
            _ => self.arrivals,
        };
        self.entries.insert(path.into(), Entry { inode, arrival, addresses });
    }

    /// Whether anything was read of it.
    pub(super) fn knows(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// The namespaces that had the address, the newest first: an older one that still has it is more
    /// likely to be the remains of a pod.
    pub(super) fn holders(&self, address: IpAddr) -> Vec<(PathBuf, u64)> {
        let mut holders: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.addresses.contains(&address)).collect();
        holders.sort_by_key(|(_, e)| std::cmp::Reverse(e.arrival));
        holders.into_iter().map(|(path, e)| (path.clone(), e.inode)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_newest_holder_comes_first_and_reading_again_makes_none_newer() {
        let mut index = Index::default();
        index.set(Path::new("/n/a"), 1, vec![address(1)]);
        index.set(Path::new("/n/b"), 2, vec![address(1), address(2)]);
        index.set(Path::new("/n/a"), 1, vec![address(1)]);
        assert_eq!(index.holders(address(1)), [("/n/b".into(), 2), ("/n/a".into(), 1)]);
        assert_eq!(index.holders(address(2)), [("/n/b".into(), 2)]);
        assert_eq!(index.holders(address(3)), []);
    }

    #[test]
    fn a_path_with_another_inode_is_forgotten() {
        let mut index = Index::default();
        index.set(Path::new("/n/a"), 1, vec![address(1)]);
        index.set(Path::new("/n/b"), 2, vec![address(2)]);
        index.retain(&Listing::from([("/n/a".into(), 9), ("/n/b".into(), 2)]));
        assert_eq!(index.holders(address(1)), []);
        assert!(!index.knows(Path::new("/n/a")));
        assert_eq!(index.holders(address(2)), [("/n/b".into(), 2)]);
    }
}
