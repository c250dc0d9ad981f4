//! The kernel object's place, its stamp, and whether it still belongs to the sources.
//!
//! Shared as a file: `cargo xtask ebpf` writes object and stamp, the agent's `build.rs` includes this
//! very file and reads them. Hence the standard library only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The object's file name, in the build tree and in the agent's `OUT_DIR`.
pub(crate) const NAME: &str = "lastcall-ebpf";
/// Names a prebuilt object, to be used as it is.
pub(crate) const PREBUILT: &str = "LASTCALL_EBPF_OBJECT";

/// Where object and stamp lie under a target directory.
pub(crate) fn directory(target: &Path) -> PathBuf {
    target.join("ebpf")
}

/// Everything that [`inputs_hash`] reads: what cargo has to watch.
pub(crate) fn inputs(workspace: &Path) -> [PathBuf; 3] {
    ["agent-ebpf/src", "agent-ebpf/Cargo.toml", "Cargo.lock"].map(|p| workspace.join(p))
}

/// A hash of what the object is made of: its sources, its manifest, its locked dependencies.
///
/// Of `Cargo.lock` only the packages named `aya…ebpf…` count: the agent's dependencies may move
/// without a new object.
pub(crate) fn inputs_hash(workspace: &Path) -> io::Result<u64> {
    let [sources, manifest, lock] = inputs(workspace);
    let mut files = vec![manifest];
    collect(&sources, &mut files)?;
    files.sort();
    let mut hash = Fnv::new();
    for file in files {
        hash.part(file.strip_prefix(workspace).unwrap_or(&file).as_os_str().as_encoded_bytes());
        hash.part(&fs::read(&file)?);
    }
    let lock = fs::read_to_string(lock)?;
    let mut in_kernel = false;
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            in_kernel = name.contains("aya") && name.contains("ebpf");
        }
        if in_kernel && (line.starts_with("name = ") || line.starts_with("version = ")) {
            hash.part(line.as_bytes());
        }
    }
    Ok(hash.0)
}

/// Why a file cannot be the kernel object, if it cannot.
pub(crate) fn refuse(object: &[u8]) -> Option<&'static str> {
    const CLASS_64: u8 = 2;
    const ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
    const EM_BPF: u16 = 247;
    match object {
        [0x7f, b'E', b'L', b'F', class, order, ..] if object.len() >= 64 => {
            let machine = u16::from_ne_bytes([object[18], object[19]]);
            if *class != CLASS_64 || *order != ORDER {
                Some("its word size or byte order is not this machine's")
            } else if machine != EM_BPF {
                Some("it is made for another machine than eBPF")
            } else {
                None
            }
        }
        _ => Some("it is not an ELF file"),
    }
}

/// What [`state`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Object and stamp belong together and to the sources. With the stamp's word on its maker.
    Fresh(String),
    /// No object, or none with a stamp.
    Missing,
    /// Made of other sources, or changed since.
    Stale,
}

/// Whether `directory` holds an object made of `inputs` (an [`inputs_hash`]).
pub(crate) fn state(directory: &Path, inputs: u64) -> State {
    let (object, stamp) = (directory.join(NAME), stamp_path(directory));
    let (Ok(object), Ok(stamp)) = (fs::read(object), fs::read_to_string(stamp)) else {
        return State::Missing;
    };
    let Some((hashes, maker)) = stamp.split_once('\n') else { return State::Stale };
    if hashes != hashes_line(inputs, &object) || refuse(&object).is_some() {
        return State::Stale;
    }
    State::Fresh(maker.trim_end().to_owned())
}

/// The stamp's file, next to the object.
pub(crate) fn stamp_path(directory: &Path) -> PathBuf {
    directory.join(format!("{NAME}.stamp"))
}

/// The stamp's first line.
pub(crate) fn hashes_line(inputs: u64, object: &[u8]) -> String {
    let mut hash = Fnv::new();
    hash.part(object);
    format!("inputs {inputs:016x} object {:016x}", hash.0)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.path().extension().is_some_and(|e| e == "rs") {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits: the same in every compiler, and good enough to notice an edit.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a part and its length, so that two parts never read as one.
    fn part(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().copied().chain((bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
