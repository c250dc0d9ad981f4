//! `cargo xtask image`: the agent as an OCI image, in one archive, without any container engine.
//!
//! In: the checkout. Out: `target/image/lastcall.tar`, which containerd, Docker, Podman and kind
//! import, and `lastcall.cdx.json` beside it, which says what is in it. The same commit gives the same
//! bytes, wherever the checkout lies: nothing in them tells of the machine or the hour.

mod agent;
mod archive;
mod copy;
mod layer;
mod origin;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{btf, ebpf, paths::Paths, workspace::Workspace};
use origin::Origin;

/// `cargo xtask image`, as typed.
#[derive(clap::Args)]
pub(crate) struct Wanted {
    /// Where to write the archive [default: target/image/lastcall.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The image's name and tag, more than once if need be [default: lastcall and the version]
    #[arg(long, value_name = "NAME:TAG")]
    name: Vec<String>,
    /// Build it twice, the second time from a copy of the checkout, and fail if a byte differs
    #[arg(long)]
    check: bool,
}

impl Wanted {
    /// The image under its usual name, in this file.
    pub(crate) fn in_file(file: PathBuf) -> Self {
        Self { out: Some(file), name: Vec::new(), check: false }
    }
}

/// Builds and writes; says where and how large.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Result<()> {
    let started = Instant::now();
    let origin = Origin::of(workspace)?;
    let out = match &wanted.out {
        Some(file) => file.clone(),
        None => workspace.target.join("image/lastcall.tar"),
    };
    let names = if wanted.name.is_empty() {
        vec![format!("lastcall:{}", origin.version)]
    } else {
        wanted.name.clone()
    };
    let image = build(workspace, &origin, &names)?;
    if wanted.check {
        let elsewhere = copy::of(workspace)?;
        eprintln!("and once more, in {}", elsewhere.root.display());
        let again = build(&elsewhere, &origin, &names)?;
        ensure!(again.sbom == image.sbom, "two builds of the same sources differ in what they are made of");
        ensure!(
            again.agent == image.agent,
            "two builds of the same sources differ, from byte {} of the agent on",
            first_difference(&again.agent, &image.agent)
        );
        ensure!(again.archive == image.archive, "two archives of the same agent differ");
        eprintln!("both are the same, byte for byte");
    }
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let sbom = out.with_extension("cdx.json");
    write(&out, &image.archive)?;
    write(&sbom, &image.sbom)?;
    eprintln!(
        "{} in {:.0} s: {} ({:.1} MB, the agent in it {:.1} MB), made of {}",
        names.join(", "),
        started.elapsed().as_secs_f32(),
        out.display(),
        megabytes(image.archive.len()),
        megabytes(image.agent.len()),
        sbom.display()
    );
    println!("{}", image.digest);
    Ok(())
}

/// What a build makes.
struct Image {
    agent: Vec<u8>,
    archive: Vec<u8>,
    sbom: Vec<u8>,
    digest: String,
}

fn build(workspace: &Workspace, origin: &Origin, names: &[String]) -> Result<Image> {
    let object = ebpf::run(workspace, false)?;
    // One that was built by an older command than this one may tell of this machine, and is as it came.
    let bytes = fs::read(object)?;
    let mut settled = bytes.clone();
    btf::settle(&mut settled)?;
    if settled != bytes || Paths::of(workspace, None)?.told_in(&bytes).is_some() {
        ebpf::run(workspace, true)?;
    }
    let target = agent::Target::find_or_install()?;
    let agent = agent::build(workspace, &target)?;
    let layer = layer::of(&agent, &licences(workspace)?, origin.seconds)?;
    let archive::Packed { archive, digest } = archive::pack(&layer, origin, names)?;
    let sbom = sbom::describe(workspace, &target, origin, &digest)?;
    Ok(Image { agent, archive, sbom, digest })
}

fn licences(workspace: &Workspace) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let read = |name| {
        let file = workspace.root.join(name);
        fs::read(&file).map(|text| (name, text)).with_context(|| format!("cannot read {}", file.display()))
    };
    ["LICENSE-APACHE", "LICENSE-MIT"].into_iter().map(read).collect()
}

/// Whole or not at all: an archive may be read while the next one is written.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()))
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
