//! One idea a file: 150 lines as a rule, 400 as a surprise; tables of tests may be longer.

use std::path::Path;

use super::Source;

const MOST: usize = 400;
const MOST_OF_TESTS: usize = 600;

/// Breaches, one a line.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|s| s.path.extension().is_some_and(|e| e == "rs"));
    let judged = rust.filter_map(|source| {
        let lines = source.text.lines().count();
        let most = if is_tests(&source.path) { MOST_OF_TESTS } else { MOST };
        (lines > most).then(|| format!("{}: {lines} lines, at most {most}", source.path.display()))
    });
    judged.collect()
}

/// `x/tests.rs`, `x/tests/y.rs`, `tests_x.rs`, `x_tests.rs`; the fixtures in `tests/src` are no tests.
fn is_tests(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let folder = path.parent().and_then(Path::file_name).is_some_and(|f| f == "tests");
    folder || name.starts_with("tests") || name.ends_with("tests")
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn files_of_tests_are_known_by_their_names() {
        let is = |path: &str| is_tests(Path::new(path));
        assert!(is("agent/src/hook/tests.rs") && is("agent/src/drain/policy/tests/model.rs"));
        assert!(is("agent/src/sockets/tests_links.rs") && is("agent/src/report/client_tests.rs"));
        assert!(is("tests/tests/connections.rs") && !is("tests/src/node.rs") && !is("agent/src/run.rs"));
    }

    #[test]
    fn long_files_are_named_with_their_length() {
        let (long, short) = ("x\n".repeat(401), "x\n".repeat(400));
        let files =
            [source("a.rs", &long), source("b.rs", &short), source("c.md", &long), source("tests.rs", &long)];
        assert_eq!(check(&files), ["a.rs: 401 lines, at most 400"]);
    }
}
