//! A Rust compiler that can build `core` for the kernel: found, or installed.
//!
//! eBPF targets come without a prebuilt `core`, so its sources (rust-src) and `-Z build-std` are
//! needed: a rustup nightly has both, and so has Debian's `rustc-web` set with `RUSTC_BOOTSTRAP`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{apt, child};

const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The oldest compiler that the workspace builds with, `rust-version` in the root manifest.
const OLDEST: (u32, u32) = (1, 95);

/// A compiler, known to be there and to have the sources of `core`.
pub(crate) struct Toolchain {
    kind: Kind,
    /// For people: `rustc 1.96.0 (…)`.
    pub rustc: String,
    /// The commit, or the release where there is none: names what is made for exactly this compiler.
    pub id: String,
    /// Major version of the LLVM inside; bpf-linker must have the same.
    pub llvm: u32,
    /// The LLVM library that the compiler itself uses.
    pub libllvm: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nightly,
    Debian,
}

impl Toolchain {
    /// The first that is there, else the first that can be installed.
    pub(crate) fn find_or_install() -> Result<Self> {
        if let Some(found) = Self::look() {
            return Ok(found);
        }
        let mut tried = Vec::new();
        if child::on_path("rustup").is_some() {
            match install_nightly() {
                Ok(()) => tried.push("rustup's nightly is installed, but does not work".to_owned()),
                Err(e) => tried.push(format!("{e:#}")),
            }
            if let Some(found) = Self::probe(Kind::Nightly) {
                return Ok(found);
            }
            eprintln!("no nightly with rust-src: {}", tried.join("; "));
        } else {
            tried.push("there is no rustup".to_owned());
        }
        match apt::install(&DEBIAN, "building the kernel object") {
            Ok(()) => tried.push("Debian's compiler is installed, but does not work".to_owned()),
            Err(e) => tried.push(format!("{e:#}")),
        }
        if let Some(found) = Self::probe(Kind::Debian) {
            return Ok(found);
        }
        bail!(
            "no compiler for the kernel object ({}): run `rustup toolchain install nightly --profile \
             minimal --component rust-src`, or set {}=FILE to an object that was built elsewhere",
            tried.join("; "),
            crate::kernel_object::PREBUILT
        )
    }

    fn look() -> Option<Self> {
        Self::probe(Kind::Nightly).or_else(|| Self::probe(Kind::Debian))
    }

    fn probe(kind: Kind) -> Option<Self> {
        if kind == Kind::Nightly && !nightly_exists() {
            return None;
        }
        let version = child::answer(program(kind, "rustc")?.arg("-vV"))?;
        child::answer(program(kind, "cargo")?.arg("-V"))?;
        let sysroot = child::answer(program(kind, "rustc")?.args(["--print", "sysroot"]))?;
        let sysroot = Path::new(sysroot.trim());
        let field = |name: &str| version.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let release = field("release:")?;
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        if (numbers.next()?, numbers.next()?) < OLDEST {
            return None;
        }
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
            return None;
        }
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        let commit = field("commit-hash:").filter(|c| c.len() >= 12 && c.is_ascii());
        Some(Self {
            kind,
            rustc: version.lines().next()?.to_owned(),
            id: format!("{release}-{}", commit.map_or("unknown", |c| &c[..12])),
            llvm,
            libllvm: libllvm(sysroot, llvm),
        })
    }

    /// This toolchain's cargo, in an environment that is only its own.
    pub(crate) fn cargo(&self) -> Result<Command> {
        match program(self.kind, "cargo") {
            Some(command) => Ok(command),
            None => bail!("{} has no cargo", self.rustc),
        }
    }
}

/// A program of a toolchain, in an environment that is only its own.
fn program(kind: Kind, name: &str) -> Option<Command> {
    let mut command = match kind {
        Kind::Nightly => {
            let mut command = Command::new(child::on_path("rustup")?);
            command.args(["run", "nightly", name]);
            command
        }
        Kind::Debian => {
            let file = Path::new("/usr/bin").join(name);
            // A rustup that a distribution put into /usr/bin answers to these names too.
            if !file.exists() || fs::canonicalize(&file).is_ok_and(|f| f.ends_with("rustup")) {
                return None;
            }
            Command::new(file)
        }
    };
    child::without_our_cargo(&mut command);
    if kind == Kind::Debian {
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    }
    Some(command)
}

/// Asked first, because `rustup run` of a toolchain that is not there may start to install it.
fn nightly_exists() -> bool {
    let Some(rustup) = child::on_path("rustup") else { return false };
    let list = child::answer(Command::new(rustup).args(["toolchain", "list"])).unwrap_or_default();
    list.lines().any(|line| line == "nightly" || line.starts_with("nightly-") && !dated(line))
}

/// `nightly-2026-05-20-x86_64-…` is not what `rustup run nightly` runs.
fn dated(toolchain: &str) -> bool {
    toolchain.trim_start_matches("nightly-").starts_with(|c: char| c.is_ascii_digit())
}

/// A nightly that is there only gets its component: to update it is not ours to decide.
fn install_nightly() -> Result<()> {
    let words: &[&str] = if nightly_exists() {
        &["component", "add", "rust-src", "--toolchain", "nightly"]
    } else {
        &["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]
    };
    eprintln!("no compiler here can build for the kernel: `rustup {}`, up to five minutes", words.join(" "));
    let mut command = Command::new("rustup");
    child::run_silent(child::without_our_cargo(command.args(words)), Duration::from_secs(300))
}

/// The LLVM library that a compiler is linked with, by its file name.
fn libllvm(sysroot: &Path, major: u32) -> Option<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let names = [format!("libLLVM.so.{major}."), format!("libLLVM-{major}")];
    for directory in ["lib", "lib64", &multiarch].map(|d| sysroot.join(d)) {
        let files = fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path());
        let mut files: Vec<PathBuf> = files.filter(|f| named(f, &names) && is_elf(f)).collect();
        files.sort();
        if let Some(file) = files.pop() {
            return Some(file);
        }
    }
    None
}

fn named(file: &Path, prefixes: &[String]) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    prefixes.iter().any(|p| name.starts_with(p.as_str()))
}

/// rustup puts a linker script of nearly the same name beside the library.
fn is_elf(file: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    fs::File::open(file).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}
