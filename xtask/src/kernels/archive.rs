//! Where Debian's archives are: what the machine's own apt says. No address stands here, because each site
//! has its mirror.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::release::{Archive, Release};
use crate::{apt, child};

/// Debian's keys, as its package names them in one release or another.
const KEYS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// The addresses, asked for once.
#[derive(Default)]
pub(crate) struct Archives {
    found: Vec<(Archive, String)>,
}

impl Archives {
    /// apt's sources for the suites of a release.
    pub(crate) fn sources(&mut self, release: Release) -> Result<String> {
        if self.found.is_empty() {
            self.found = find()?;
        }
        let keys = KEYS.iter().find(|k| Path::new(k).exists());
        let options = keys.map(|k| format!("[signed-by={k}] ")).unwrap_or_default();
        let lines = release.suites().iter().filter_map(|(archive, suite)| {
            // A machine may do without the archive of fixes; the release itself is older then.
            let (_, site) = self.found.iter().find(|(a, _)| a == archive)?;
            Some(format!("deb {options}{site} {suite} main\n"))
        });
        Ok(lines.collect())
    }
}

fn find() -> Result<Vec<(Archive, String)>> {
    let ask = || {
        let mut command = Command::new("apt-get");
        child::answer(command.args(["indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(SITE)"]))
    };
    let mut found = read(&ask().unwrap_or_default());
    if !found.iter().any(|(a, _)| *a == Archive::Main) {
        // A fresh machine has no lists yet, and so does not know whose its sources are.
        child::fetched("apt-get update", apt::update)?;
        found = read(&ask().unwrap_or_default());
    }
    let main = found.iter().any(|(a, _)| *a == Archive::Main).then_some(());
    main.context(
        "apt's sources of this machine have no archive of Debian's: run this on Debian, or in its container",
    )?;
    Ok(found)
}

fn read(targets: &str) -> Vec<(Archive, String)> {
    let archive = |line: &str| {
        let mut words = line.split('\t');
        let archive = match (words.next()?, words.next()?) {
            ("Debian", "Debian") => Archive::Main,
            ("Debian", "Debian-Security") => Archive::Security,
            _ => return None,
        };
        Some((archive, words.next()?.to_owned()))
    };
    targets.lines().filter_map(archive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "Debian\tDebian\tmirror://one/debian\n\
                           Debian\tDebian-Security\tmirror://one/security\n\
                           Somebody\tDebian\tmirror://two\n$(ORIGIN)\t$(LABEL)\tmirror://three\n";

    #[test]
    fn debians_own_archives_are_taken() {
        let expected = [
            (Archive::Main, "mirror://one/debian".to_owned()),
            (Archive::Security, "mirror://one/security".to_owned()),
        ];
        assert_eq!(read(TARGETS), expected);
    }

    #[test]
    fn without_the_archive_of_fixes_the_release_itself_will_do() {
        let mut archives = Archives { found: read(TARGETS) };
        let lines =
            |archives: &mut Archives| archives.sources(Release::Bullseye).expect("sources").lines().count();
        assert_eq!(lines(&mut archives), 2);
        archives.found.truncate(1);
        assert_eq!(lines(&mut archives), 1);
    }
}
