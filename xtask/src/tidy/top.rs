//! What stands at the top of the checkout: everything that is there is there for the reader.

use std::path::PathBuf;

/// Tool settings take hidden names and do not count.
const TOP: [&str; 12] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "agent",
    "agent-ebpf",
    "deploy",
    "tests",
    "xtask",
];

/// Breaches, one a line.
pub(super) fn check(files: &[PathBuf]) -> Vec<String> {
    let mut found: Vec<String> = files
        .iter()
        .filter_map(|f| Some(f.components().next()?.as_os_str().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    found.dedup();
    let more = found.iter().filter(|f| !TOP.contains(&f.as_str()));
    let less = TOP.iter().filter(|t| !found.iter().any(|f| f == *t));
    more.map(|f| format!("{f}: not part of the top level's design"))
        .chain(less.map(|t| format!("{t}: missing from the top level")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_level_is_exactly_the_list() {
        let mut files: Vec<PathBuf> = TOP.iter().map(PathBuf::from).collect();
        files.push(".cargo/config.toml".into());
        assert_eq!(check(&files), [""; 0]);
        files.push("notes.txt".into());
        files.retain(|f| !f.ends_with("deploy"));
        assert_eq!(check(&files).len(), 2);
    }
}
