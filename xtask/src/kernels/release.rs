//! The kernels that are promised, and where Debian has them.

use clap::ValueEnum;

/// A kernel of Debian's, by the name that people call it; the order is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Release {
    /// Debian 11's: the oldest that is promised
    #[value(name = "5.10")]
    Bullseye,
    /// Debian 12's
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's
    #[value(name = "6.12")]
    Trixie,
    /// The newest that Debian has built
    #[value(name = "newest")]
    Sid,
}

/// One of Debian's archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// Where releases are.
    Main,
    /// Where their fixes are, after a release has become old.
    Security,
}

impl Release {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::Bullseye, Self::Bookworm, Self::Trixie, Self::Sid];

    /// As it is typed and shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "5.10",
            Self::Bookworm => "6.1",
            Self::Trixie => "6.12",
            Self::Sid => "newest",
        }
    }

    /// Where to look for it; the newest of what these suites have is taken.
    pub(crate) fn suites(self) -> &'static [(Archive, &'static str)] {
        match self {
            Self::Bullseye => &[(Archive::Main, "bullseye"), (Archive::Security, "bullseye-security")],
            Self::Bookworm => &[(Archive::Main, "bookworm")],
            Self::Trixie => &[(Archive::Main, "trixie")],
            Self::Sid => &[(Archive::Main, "sid")],
        }
    }
}
