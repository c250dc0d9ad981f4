//! The kernel's view: load the programs, attach them, read what they saw.
//!
//! In: packets and the kubelet's calls, through the programs of `agent-ebpf`. Out: the connection
//! table ([`observer`]), edge events ([`edges`]), and the pinned hook programs ([`hook`]), which go on
//! without the agent. Nothing is attached to any interface until a pod is Terminating.

use std::{io, path::PathBuf};

use aya::{Ebpf, EbpfLoader};
use lastcall_ebpf::abi::names;

pub mod attach;
pub mod btf;
pub mod edges;
pub mod floor;
pub mod hook;
pub mod last_call;
pub mod logs;
mod netns_cookie;
pub mod observer;
mod pinned;
#[cfg(test)]
mod stack_tests;
pub(crate) mod sys;
pub mod uninstall;
pub mod unread;

pub use attach::{Attach, Attachment};
pub use edges::Edges;
pub use hook::{Hook, HookOptions};
pub use last_call::LastCall;
pub use netns_cookie::NetnsCookie;
pub use observer::Observer;
pub use pinned::PinnedHash;

/// The programs, built by `cargo xtask ebpf` and carried in the agent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lastcall-ebpf"));

/// What went wrong with the kernel's part. Fatal for nothing: the agent falls back to sock_diag, or
/// to hooks addressed by path, and says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object could not be loaded: a map or its BTF was refused.
    #[error("load the kernel object")]
    Load(#[source] Box<aya::EbpfError>),
    /// The same, on a kernel that is older than the oldest that is promised.
    #[error("{why}")]
    TooOld {
        /// What is said of it, see [`floor::too_old`].
        why: String,
        /// What it refused.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// A program was refused.
    #[error("load kernel program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// The verifier's words are in here.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// Something the object should have is not there: agent and object do not belong together.
    #[error("the kernel object has no {0}")]
    Missing(&'static str),
    /// A program could not be attached.
    #[error("attach {name} to {to}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The link or cgroup.
        to: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be read or written.
    #[error("{operation} map {map}")]
    Map {
        /// `read`, `insert into`, …
        operation: &'static str,
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or folder of the BPF file system, or a cgroup.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Sizes and places that are fixed when the maps are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where pinned maps and links live: a folder of a BPF file system.
    pub pins: PathBuf,
    /// Entries of the connection table.
    pub table_size: u32,
    /// The programs' own debug lines are wanted.
    pub debug: bool,
}

/// Makes the maps, pinned ones found again, and prepares the programs. Loads and attaches none.
pub fn open(options: &Options) -> Result<Ebpf, Error> {
    std::fs::create_dir_all(&options.pins).map_err(|source| Error::File {
        operation: "make the folder",
        path: options.pins.clone(),
        source,
    })?;
    let level: u8 = if options.debug { 4 } else { 2 };
    EbpfLoader::new()
        .default_map_pin_directory(&options.pins)
        .map_max_entries(names::CONNECTIONS, options.table_size)
        .override_global("AYA_LOG_LEVEL", &level, false)
        .load(OBJECT)
        .map_err(|e| match floor::too_old(&floor::release()) {
            Some(why) => Error::TooOld { why, source: Box::new(e) },
            None => Error::Load(Box::new(e)),
        })
}

fn map_error<E>(operation: &'static str, map: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Error::Map { operation, map, source: Box::new(source) }
}

/// Takes a map out of the object, typed.
fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    ebpf.take_map(name).ok_or(Error::Missing(name))?.try_into().map_err(map_error("open", name))
}
