//! One idea a file: 150 lines as a rule, 400 as a surprise.

use super::Source;

const MOST: usize = 400;

/// Files that may be longer, each with its reason.
const LONGER: [(&str, &str); 1] = [("agent-ebpf/src/abi.rs", "the contract is read as one page")];

/// Breaches, one a line.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    check_with(sources, &LONGER)
}

fn check_with(sources: &[Source], longer: &[(&str, &str)]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut used = Vec::new();
    for source in sources.iter().filter(|s| s.path.extension().is_some_and(|e| e == "rs")) {
        let lines = source.text.lines().count();
        if lines <= MOST {
            continue;
        }
        match longer.iter().find(|(path, _)| source.path.as_os_str() == *path) {
            Some((path, _)) => used.push(*path),
            None => breaches.push(format!("{}: {lines} lines, at most {MOST}", source.path.display())),
        }
    }
    let unused = longer.iter().filter(|(path, _)| !used.contains(path));
    breaches.extend(unused.map(|(path, reason)| {
        format!("{path}: needs no exception any more (\"{reason}\"): take it out of tidy/length.rs")
    }));
    breaches
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn long_files_need_a_reason_and_reasons_need_a_long_file() {
        let (long, short) = ("x\n".repeat(401), "x\n".repeat(400));
        let files = [source("a.rs", &long), source("b.rs", &short), source("c.md", &long)];
        assert_eq!(check_with(&files, &[]), ["a.rs: 401 lines, at most 400"]);
        assert_eq!(check_with(&files, &[("a.rs", "")]), [""; 0]);
        assert_eq!(check_with(&files, &[("a.rs", ""), ("b.rs", "")]).len(), 1);
    }
}
