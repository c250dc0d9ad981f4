//! Memory that outlives the agent: pinned maps that no program uses.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::{Error, map_error, sys};

/// A pinned hash of the agent's own: what the next agent finds again.
pub struct PinnedHash<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<HashMap<MapData, K, V>>,
}

impl<K: Pod, V: Pod> PinnedHash<K, V> {
    /// Finds it, or makes it; makes it anew, empty, where its sizes are another version's.
    pub fn open(pins: &Path, name: &'static str, max_entries: u32) -> Result<Self, Error> {
        let path = pins.join(name);
        let open = || -> Result<HashMap<MapData, K, V>, MapError> {
            Map::HashMap(MapData::from_pin(&path)?).try_into()
        };
        if path.exists() {
            match open() {
                Ok(map) => return Ok(Self { name, map: Mutex::new(map) }),
                Err(e) => {
                    tracing::warn!("{}: {e}; starting with an empty one", path.display());
                    let operation = "remove the pin";
                    fs::remove_file(&path).map_err(|source| Error::File {
                        operation,
                        path: path.clone(),
                        source,
                    })?;
                }
            }
        }
        let map = sys::create_hash(size_of::<K>(), size_of::<V>(), max_entries)
            .map_err(map_error("create", name))?;
        sys::pin(map.as_fd(), &path).map_err(map_error("pin", name))?;
        let map = open().map_err(map_error("open", name))?;
        Ok(Self { name, map: Mutex::new(map) })
    }

    fn map(&self) -> MutexGuard<'_, HashMap<MapData, K, V>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes or overwrites an entry.
    pub fn insert(&self, key: K, value: &V) -> Result<(), Error> {
        self.map().insert(key, value, 0).map_err(map_error("insert into", self.name))
    }

    /// Forgets an entry; one that is not there is no error.
    pub fn remove(&self, key: &K) {
        let _ = self.map().remove(key);
    }

    /// Every value.
    pub fn values(&self) -> Vec<V> {
        self.map().iter().filter_map(Result::ok).map(|(_, v)| v).collect()
    }
}
