//! The modules that nodes, pods and the agent need, out of an unpacked kernel, in the order in which they are
//! to be loaded. What a kernel has built in, or under no such name, is left out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::child;

const WANTED: [&str; 19] = [
    // The node and its pods.
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "tcp_diag",
    "udp_diag",
    // Their nftables: a proxy, a mesh, failures.
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_numgen",
    "nft_counter",
    "nft_reject_inet",
    "nft_tproxy",
    "nft_socket",
    "nf_conntrack_netlink",
    "sch_netem",
];

/// Their names as one line, which says whether a kept kernel has what is wanted now.
pub(crate) fn wanted() -> String {
    WANTED.join(" ")
}

/// Copies them from `unpacked` to `to`, decompressed.
pub(crate) fn collect(unpacked: &Path, to: &Path) -> Result<()> {
    // Newer packages have only /usr/lib.
    let lib = unpacked.join("lib");
    if !lib.exists() {
        std::os::unix::fs::symlink("usr/lib", &lib)?;
    }
    let folder = fs::read_dir(lib.join("modules")).context("the packages have no modules")?.next();
    let release = folder.context("the packages have no modules")??.file_name();
    child::run(program("depmod").arg("-b").arg(unpacked).arg(&release), Duration::from_secs(300))?;
    let mut taken: Vec<PathBuf> = Vec::new();
    for module in WANTED {
        let mut ask = program("modprobe");
        ask.arg("-d").arg(unpacked).arg("-S").arg(&release).args(["--show-depends", module]);
        // Nothing: not a module of this kernel's.
        let answer = child::answer(&mut ask).unwrap_or_default();
        for path in answer.lines().filter_map(|l| l.trim().strip_prefix("insmod ")) {
            let path = PathBuf::from(path.trim());
            if !taken.contains(&path) {
                copy(&path, to, taken.len())?;
                taken.push(path);
            }
        }
    }
    Ok(())
}

/// Not every user's path holds the folder where they live.
fn program(name: &str) -> Command {
    Command::new(child::on_path(name).unwrap_or_else(|| name.into()))
}

fn copy(module: &Path, to: &Path, number: usize) -> Result<()> {
    let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (plain, packed) = name.split_once(".ko").context("a module is no .ko")?;
    let target = to.join(format!("{number:03}-{plain}.ko"));
    let unpack = match packed {
        "" => {
            return fs::copy(module, target).map(drop).with_context(|| format!("copy {}", module.display()));
        }
        ".xz" => "xz",
        ".zst" => "zstd",
        ".gz" => "gzip",
        other => bail!("{} is packed as {other}", module.display()),
    };
    let mut command = Command::new(unpack);
    command.arg("-dc").arg(module).stdin(Stdio::null()).stdout(fs::File::create(target)?);
    child::run(&mut command, Duration::from_secs(120))
}
