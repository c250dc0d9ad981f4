//! Kernels out of Debian's archives, by apt with a configuration of its own: nothing is installed, and the
//! machine's apt stays as it is.
//!
//! In: a release. Out: a folder with its image and the modules that the checks need, kept for a week.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{archive::Archives, modules, release::Release};
use crate::child;

/// Newer kernels come; a kept one is looked for again after this.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// What every kernel of Debian's depends on in the end: one package, or several in newer releases.
const PARTS: [&str; 4] = ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"];

/// A kernel that can be started.
pub(crate) struct Kernel {
    /// Its image.
    pub image: PathBuf,
    /// Modules, numbered in the order in which they are to be loaded.
    pub modules: PathBuf,
    /// Debian's version of it: `6.1.176-1`.
    pub version: String,
}

/// Takes the kernel that is kept in `folder`, or fetches it.
pub(crate) fn kernel(release: Release, folder: &Path, archives: &mut Archives) -> Result<Kernel> {
    if let Some(kernel) = kept(folder, Some(KEPT)) {
        return Ok(kernel);
    }
    let name = release.name();
    eprintln!("{name}: fetching it from Debian's archive");
    match child::fetched(name, || fetch(release, folder, archives)) {
        Ok(kernel) => Ok(kernel),
        // Without the network an older one is better than none.
        Err(e) => match kept(folder, None) {
            Some(kernel) => {
                eprintln!("{name}: {e:#}; taking {}, fetched before", kernel.version);
                Ok(kernel)
            }
            None => Err(e.context(format!("cannot fetch the kernel {name}"))),
        },
    }
}

fn kept(folder: &Path, at_most: Option<Duration>) -> Option<Kernel> {
    let stamp = folder.join("version");
    let age = fs::metadata(&stamp).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    if at_most.is_some_and(|most| age > most) {
        return None;
    }
    let text = fs::read_to_string(stamp).ok()?;
    // Another list of modules is another kernel to us.
    let (version, modules) = text.split_once('\n')?;
    (modules.trim() == modules::wanted()).then(|| Kernel {
        image: folder.join("vmlinuz"),
        modules: folder.join("modules"),
        version: version.to_owned(),
    })
}

fn fetch(release: Release, folder: &Path, archives: &mut Archives) -> Result<Kernel> {
    let apt = Apt::new(&folder.join("apt"), &archives.sources(release)?)?;
    let packages = apt.packages()?;
    let unpacked = folder.join("unpacked");
    replace(&unpacked)?;
    let mut version = String::new();
    for package in &packages {
        version = apt.unpack(package, &unpacked)?;
    }
    let image = find_image(&unpacked)?;
    let modules = folder.join("modules");
    replace(&modules)?;
    modules::collect(&unpacked, &modules)?;
    fs::rename(image, folder.join("vmlinuz")).context("keep the kernel's image")?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_dir_all(&apt.folder)?;
    fs::write(folder.join("version"), format!("{version}\n{}\n", modules::wanted()))?;
    kept(folder, None).context("the kernel that was just fetched is not there")
}

/// A configuration of apt that knows of one release, and of no installed package.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, sources: &str) -> Result<Self> {
        replace(folder)?;
        for inner in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(inner))?;
        }
        fs::write(folder.join("sources.list"), sources)?;
        let at = folder.display();
        let settings = format!(
            "Dir::Etc::SourceList \"{at}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\n\
             Dir::State::Lists \"{at}/lists\";\n\
             Dir::State::Status \"/dev/null\";\n\
             Dir::Cache \"{at}/cache\";\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Retries \"5\";\n"
        );
        fs::write(folder.join("apt.conf"), settings)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).stdin(Stdio::null());
        command
    }

    /// The packages that hold the release's kernel, by what its metapackage depends on.
    fn packages(&self) -> Result<Vec<String>> {
        child::run(self.command("apt-get").args(["-qq", "update"]), Duration::from_secs(300))?;
        let depends = ["depends", "--recurse", "--important", "linux-image-amd64"];
        let text = child::answer(self.command("apt-cache").args(depends))
            .context("there is no linux-image-amd64 in what apt-get could fetch, see above")?;
        let packages: Vec<String> = text.lines().filter(|l| is_part(l)).map(str::to_owned).collect();
        ensure!(!packages.is_empty(), "linux-image-amd64 depends on no kernel there");
        Ok(packages)
    }

    /// Unpacks a package without installing it; gives its version.
    fn unpack(&self, package: &str, to: &Path) -> Result<String> {
        let debs = self.folder.join("debs");
        replace(&debs)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "download", package]).current_dir(&debs);
        child::run(&mut download, Duration::from_secs(300))?;
        let entry = fs::read_dir(&debs)?.next().context("apt-get has downloaded nothing")??;
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(entry.path()).arg(to);
        child::run(&mut unpack, Duration::from_secs(300))?;
        let mut ask = Command::new("dpkg-deb");
        let version = child::answer(ask.arg("-f").arg(entry.path()).arg("Version"));
        Ok(version.context("the package has no version")?.trim().to_owned())
    }
}

/// `linux-image-6.1.0-50-amd64`, but not `linux-image-amd64`.
fn is_part(package: &str) -> bool {
    PARTS
        .iter()
        .any(|p| package.strip_prefix(p).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
}

/// In older packages it is in `boot`, in newer ones beside the modules.
fn find_image(unpacked: &Path) -> Result<PathBuf> {
    let mut find = Command::new("find");
    find.arg(unpacked).args(["-name", "vmlinuz*", "-type", "f", "-size", "+0"]);
    let found = child::answer(&mut find).unwrap_or_default();
    found.lines().next().map(PathBuf::from).context("the packages have no kernel image")
}

/// An empty folder in place of whatever was there.
fn replace(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_metapackage_depends_on_the_kernel_is_taken() {
        let names = "linux-image-amd64\nlinux-base\nlinux-base-amd64\nlinux-base-7.2.13+deb14-amd64\nlinux-image-7.2.13+deb14-amd64\n\
                     linux-binary-7.2.13+deb14-amd64\nlinux-modules-7.2.13+deb14-amd64\nkmod\n  Depends: linux-image-6.1.0-50-amd64";
        let parts: Vec<&str> = names.lines().filter(|l| is_part(l)).collect();
        assert_eq!(
            parts,
            [
                "linux-base-7.2.13+deb14-amd64",
                "linux-image-7.2.13+deb14-amd64",
                "linux-binary-7.2.13+deb14-amd64",
                "linux-modules-7.2.13+deb14-amd64"
            ]
        );
    }
}
