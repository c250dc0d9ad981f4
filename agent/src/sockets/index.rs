//! Where to look first for an address.
//!
//! In: addresses as they were read. Out: which namespaces are worth a visit. It only remembers:
//! whoever asks it reads the addresses again before believing it, since an address is given to the
//! next pod.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::directory::Listing;

/// What was read of each namespace, by the path of its file: its inode and its addresses.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<PathBuf, (u64, Vec<IpAddr>)>);

impl Index {
    /// Forgets what is not in the listing any more, or is another namespace under an old path.
    pub(super) fn retain(&mut self, listing: &Listing) {
        self.0.retain(|path, (inode, _)| listing.get(path) == Some(inode));
    }

    /// Remembers a namespace's addresses.
    pub(super) fn set(&mut self, path: &Path, inode: u64, addresses: Vec<IpAddr>) {
        self.0.insert(path.into(), (inode, addresses));
    }

    /// It had the address, or has not been read yet, or had none: a pod is given its address a moment
    /// after its namespace. A pod that was read before it had its address must not be overlooked in
    /// favour of one that only claims the address.
    pub(super) fn may_hold(&self, path: &Path, address: IpAddr) -> bool {
        self.0.get(path).is_none_or(|(_, known)| known.is_empty() || known.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn holders_the_new_and_the_empty_are_worth_a_visit() {
        let mut index = Index::default();
        index.set(Path::new("/n/holder"), 1, vec![address(1), address(2)]);
        index.set(Path::new("/n/other"), 2, vec![address(3)]);
        index.set(Path::new("/n/empty"), 3, vec![]);
        let worth = |name: &str| index.may_hold(&Path::new("/n").join(name), address(2));
        assert!(worth("holder") && worth("empty") && worth("new"));
        assert!(!worth("other"));
    }

    #[test]
    fn a_path_with_another_inode_is_forgotten() {
        let mut index = Index::default();
        index.set(Path::new("/n/a"), 1, vec![address(1)]);
        index.set(Path::new("/n/b"), 2, vec![address(1)]);
        index.retain(&Listing::from([("/n/a".into(), 9), ("/n/b".into(), 2)]));
        assert!(index.may_hold(Path::new("/n/a"), address(5)), "as new");
        assert!(!index.may_hold(Path::new("/n/b"), address(5)));
    }
}
