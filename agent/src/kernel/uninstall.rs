//! Taking the pinned programs and maps off the node.
//!
//! In: the folder of the pins. Out: what was removed. A link's pin is what keeps its program attached:
//! without it the kernel detaches the program by itself, a moment later.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use lastcall_ebpf::abi::{ABI_VERSION, HookConfig, names};

use super::{Error, hook::is_version, sys};

/// The hook's port, as the last agent of this version wrote it down; nothing where none has run.
pub fn configured_port(bpf_dir: &Path) -> Option<u16> {
    let pin = bpf_dir.join(format!("v{ABI_VERSION}")).join(names::HOOK_CONFIG);
    let config: Array<MapData, HookConfig> = Map::Array(MapData::from_pin(pin).ok()?).try_into().ok()?;
    config.get(&0, 0).ok().map(|c| c.port).filter(|port| *port != 0)
}

/// Removes every version's pins, links before maps, so that no program is left with half of its maps;
/// then the folders, if they are empty. What is not there is no error.
pub fn remove_pins(bpf_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    let mut versions = entries(bpf_dir)?;
    versions.retain(|folder| is_version(folder));
    for folder in versions {
        let mut pins = entries(&folder)?;
        pins.sort_by_key(|pin| (!is_link(pin), pin.clone()));
        for pin in pins {
            if is_link(&pin)
                && let Ok(link) = sys::open_pin(&pin)
            {
                // Where it cannot be, the moment is all that is lost.
                let _ = sys::detach_link(link.as_fd());
            }
            fs::remove_file(&pin).map_err(failed("remove the pin", &pin))?;
            removed.push(pin);
        }
        fs::remove_dir(&folder).map_err(failed("remove the folder", &folder))?;
        removed.push(folder);
    }
    // Others' things in it are a reason to leave it, and so is a mount on it: where that is another
    // namespace's, the kernel would take the mount away with the folder.
    if !is_mount(bpf_dir) && fs::remove_dir(bpf_dir).is_ok() {
        removed.push(bpf_dir.to_owned());
    }
    Ok(removed)
}

fn is_mount(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    folder.parent().and_then(device) != device(folder)
}

/// Links have the name of their program, maps are in capitals.
fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|n| n.to_string_lossy().starts_with(|c: char| c.is_ascii_lowercase()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(found) => found
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<_>>()
            .map_err(failed("list the folder", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed("list the folder", folder)(e)),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file system does not matter to what is removed, and in which order.
    #[test]
    fn links_go_first_and_strangers_stay() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("lastcall");
        for file in ["v4/HOOK_CONFIG", "v4/hook4-1", "v3/DIALS", "notes/of-somebody"] {
            let file = dir.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let removed = remove_pins(&dir).unwrap();
        let at = |name: &str| removed.iter().position(|p| *p == dir.join(name));
        assert!(at("v4/hook4-1").unwrap() < at("v4/HOOK_CONFIG").unwrap());
        assert!(at("v3/DIALS").is_some() && at("v3").is_some() && at("v4").is_some());
        assert_eq!(removed.len(), 5, "{removed:?}");
        assert!(dir.join("notes/of-somebody").exists());
    }

    #[test]
    fn nothing_to_remove_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(remove_pins(&root.path().join("lastcall")).unwrap().is_empty());
    }
}
