//! Held hooks, written down in a pinned map: the next agent finds them there.

use std::{io, path::Path};

use crate::{
    hook::held::{HeldKey, HeldRecord, HeldStore},
    kernel::{self, PinnedHash},
};

/// More hooks than a node holds: one for each container of every pod that goes at once.
const MAX_HELD: u32 = 4096;

pub(super) struct PinnedStore(PinnedHash<HeldKey, HeldRecord>);

impl PinnedStore {
    pub(super) fn open(pins: &Path) -> Result<Self, kernel::Error> {
        Ok(Self(PinnedHash::open(pins, "HELD", MAX_HELD)?))
    }
}

impl HeldStore for PinnedStore {
    fn save(&self, record: &HeldRecord) -> io::Result<()> {
        self.0.insert(record.key(), record).map_err(io::Error::other)
    }

    fn remove(&self, key: &HeldKey) {
        self.0.remove(key);
    }

    fn load_all(&self) -> Vec<HeldRecord> {
        self.0.values()
    }
}
