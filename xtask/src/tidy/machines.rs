//! No path of anybody's machine: not of a home, and not of the place this checkout happens to be in.

use std::path::Path;

use super::Source;

/// Parents of checkouts that text may well name.
const ORDINARY: [&str; 9] = ["/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/src", "/var/tmp"];

/// Breaches, one a line.
pub(super) fn check(sources: &[Source], root: &Path) -> Vec<String> {
    let mut words = vec![["/ho", "me/"].concat(), ["/Us", "ers/"].concat(), format!("{}/", root.display())];
    let parent = root.parent().filter(|p| ORDINARY.iter().all(|o| *p != Path::new(o)));
    words.extend(parent.map(|p| format!("{}/", p.display())));
    let mut breaches = Vec::new();
    for source in sources.iter() {
        for (line, text) in source.text.lines().enumerate() {
            for word in words.iter().filter(|w| names(text, w)) {
                breaches.push(format!("{}:{}: names {word}", source.path.display(), line + 1));
            }
        }
    }
    breaches
}

/// Whether the text has the path as a path of its own, not as the tail of a longer one.
fn names(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "/.-_~}$*".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn the_place_of_the_checkout_and_homes_are_named() {
        let files = [
            source("a.md", "see /builds/ours/lastcall/README.md"),
            source("b.md", "see `/builds/ours/notes`"),
            source("c.md", "https://example.org/builds/ours/x and ./builds/ours/"),
            source("d.md", &format!("in {}jane/src", ["/ho", "me/"].concat())),
        ];
        let breaches = check(&files, Path::new("/builds/ours/lastcall"));
        assert_eq!(breaches.len(), 4, "{breaches:#?}");
        assert!(check(&files[..3], Path::new("/tmp/lastcall")).is_empty());
    }
}
