//! The image's only layer: the agent, and the licences that come with it.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// A layer, and how it is called.
pub(crate) struct Layer {
    /// gzip of a tar.
    pub compressed: Vec<u8>,
    /// The tar that is in it.
    pub plain: Vec<u8>,
}

/// Everything is root's, and of the same second.
pub(crate) fn of(agent: &[u8], licences: &[(&str, Vec<u8>)], seconds: u64) -> Result<Layer> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "lastcall", Kind::Program, agent, seconds)?;
    add(&mut tar, "licenses/", Kind::Folder, &[], seconds)?;
    for (name, text) in licences {
        add(&mut tar, &format!("licenses/{name}"), Kind::File, text, seconds)?;
    }
    let plain = tar.into_inner().context("cannot end the layer")?;
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(&plain)?;
    Ok(Layer { compressed: gzip.finish()?, plain })
}

/// What a member of an archive is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// For everybody to read.
    File,
    /// For everybody to run.
    Program,
    /// For everybody to enter.
    Folder,
}

/// Adds one member, with nothing of this machine in its header.
pub(crate) fn add(
    tar: &mut Builder<Vec<u8>>,
    path: &str,
    kind: Kind,
    bytes: &[u8],
    seconds: u64,
) -> Result<()> {
    let (entry, mode) = match kind {
        Kind::File => (EntryType::Regular, 0o644),
        Kind::Program => (EntryType::Regular, 0o755),
        Kind::Folder => (EntryType::Directory, 0o755),
    };
    let mut header = Header::new_ustar();
    header.set_entry_type(entry);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(seconds);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("cannot add {path}"))
}
