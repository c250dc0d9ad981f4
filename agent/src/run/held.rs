//! Held hooks, written down in a pinned map: the next agent finds them there.

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::maps::{HashMap, MapData};

use crate::{
    hook::held::{HeldKey, HeldRecord, HeldStore},
    kernel,
};

/// More hooks than a node holds: one for each container of every pod that goes at once.
const MAX_HELD: u32 = 4096;

pub(super) struct PinnedStore(Mutex<HashMap<MapData, HeldKey, HeldRecord>>);

impl PinnedStore {
    pub(super) fn open(pins: &Path) -> Result<Self, kernel::Error> {
        Ok(Self(Mutex::new(kernel::pinned_hash(pins, "HELD", MAX_HELD)?)))
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, HeldKey, HeldRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldStore for PinnedStore {
    fn save(&self, record: &HeldRecord) -> io::Result<()> {
        self.map().insert(record.key(), record, 0).map_err(io::Error::other)
    }

    fn remove(&self, key: &HeldKey) {
        // One that is not there is no error.
        let _ = self.map().remove(key);
    }

    fn load_all(&self) -> Vec<HeldRecord> {
        self.map().iter().filter_map(Result::ok).map(|(_, record)| record).collect()
    }
}
