//! Manifests: files, directories, standard input.
//!
//! In: names as typed. Out: one [`Inventory`], and a [`Problem`] for each file that cannot be read or
//! understood; the others count all the same. Of a directory the files called `*.yaml`, `*.yml` and
//! `*.json` are read, with those of its directories, hidden ones left out.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    objects::{Inventory, Misfit},
    tree::Node,
};
use crate::cluster::manifests::{is_blank, plain, split};

/// All manifests of a large cluster are less.
const MAX_BYTES: u64 = 64 << 20;
/// Directories in directories, so that a link to one above ends.
const MAX_DEPTH: usize = 16;
/// Deeper than any manifest; each level is a frame of the reader.
const MAX_NESTING: usize = 100;

/// An input that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, or what was asked of the cluster.
    pub input: String,
    /// From 1, where it is about a place in the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong.
    pub reason: String,
    /// The findings are incomplete without it; else a rule knew less than it could.
    #[serde(skip)]
    pub fatal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.input, self.reason),
            None => write!(f, "{}: {}", self.input, self.reason),
        }
    }
}

/// Reads files, directories and, as `-`, standard input.
pub fn read(inputs: &[PathBuf]) -> (Inventory, Vec<Problem>) {
    let mut all = Inventory::default();
    let mut problems = Vec::new();
    for input in inputs {
        let shown = input.display().to_string();
        let problem = |reason: String| Problem { input: shown.clone(), line: None, reason, fatal: true };
        if input.as_os_str() == "-" {
            let mut bytes = Vec::new();
            match io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes) {
                Ok(_) => take("<stdin>", &bytes, true, &mut all, &mut problems),
                Err(error) => problems.push(problem(error.to_string())),
            }
        } else if input.is_dir() {
            let mut files = Vec::new();
            list(input, 0, &mut files, &mut problems);
            let before = (all.count(), problems.len());
            for file in files {
                read_file(&file, false, &mut all, &mut problems);
            }
            if before == (all.count(), problems.len()) {
                problems.push(problem("no Kubernetes object in its *.yaml, *.yml and *.json".into()));
            }
        } else {
            read_file(input, true, &mut all, &mut problems);
        }
    }
    (all, problems)
}

fn list(directory: &Path, depth: usize, files: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> = match entries {
        Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
        Err(error) => {
            let (input, reason) = (directory.display().to_string(), error.to_string());
            problems.push(Problem { input, line: None, reason, fatal: true });
            return;
        }
    };
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest =
            path.extension().is_some_and(|end| matches!(end.to_str(), Some("yaml" | "yml" | "json")));
        if hidden {
            continue;
        } else if path.is_dir() && depth < MAX_DEPTH {
            list(&path, depth + 1, files, problems);
        } else if manifest && !path.is_dir() {
            files.push(path);
        }
    }
}

fn read_file(path: &Path, named: bool, all: &mut Inventory, problems: &mut Vec<Problem>) {
    let shown = path.display().to_string();
    let bytes = fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    match bytes {
        Ok(bytes) => take(&shown, &bytes, named, all, problems),
        Err(error) => {
            problems.push(Problem { input: shown, line: None, reason: error.to_string(), fatal: true });
        }
    }
}

/// Takes a text. `named`: somebody meant it, so it has to hold something.
fn take(shown: &str, bytes: &[u8], named: bool, all: &mut Inventory, problems: &mut Vec<Problem>) {
    let problem = |Misfit { line, reason }| Problem {
        input: shown.to_owned(),
        line: (line > 0).then_some(line),
        reason,
        fatal: true,
    };
    let mut inventory = Inventory::default();
    match parse(bytes, &Arc::from(shown), &mut inventory) {
        Err(misfit) => problems.push(problem(misfit)),
        Ok(()) if named && inventory.is_empty() => {
            problems.push(problem(Misfit { line: 0, reason: "it holds no Kubernetes object".into() }));
        }
        Ok(()) => all.extend(inventory),
    }
}

/// Takes the objects of a text, YAML or JSON.
pub(super) fn parse(bytes: &[u8], file: &Arc<str>, inventory: &mut Inventory) -> Result<(), Misfit> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Misfit { line: 0, reason: format!("more than {} MiB", MAX_BYTES >> 20) });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        Misfit { line, reason: "not UTF-8".into() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if text.trim_start().starts_with('{') { split_json(text)? } else { split(text) };
    for (lines_before, document) in documents {
        if is_blank(document) {
            continue;
        }
        let node: Node = serde_saphyr::with_deserializer_from_str_with_options(document, options(), |de| {
            Node::deserialize(de)
        })
        .map_err(|error: serde_saphyr::Error| {
            let error = error.without_snippet();
            let line = error.location().map_or(1, |place| place.line());
            Misfit { line: lines_before + line, reason: reason(error, text) }
        })?;
        inventory
            .add(&node, Some(file), lines_before)
            .map_err(|Misfit { line, reason }| Misfit { line: lines_before + line, reason })?;
    }
    Ok(())
}

/// The message on one line, without the place.
fn reason(error: &serde_saphyr::Error, text: &str) -> String {
    if text.contains("{{") && text.contains("}}") {
        return "a template, not a manifest: render it first (helm template …), and check what it prints"
            .into();
    }
    plain(error)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        // As kubectl's reader, which is of YAML 1.1: defaultMode: 0644.
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_depth: MAX_NESTING,
        },
    }
}

/// JSON documents one after the other. Each is YAML as well.
fn split_json(text: &str) -> Result<Vec<(u64, &str)>, Misfit> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut documents = Vec::new();
    let mut start = 0;
    while let Some(document) = stream.next() {
        // A flow mapping of YAML begins like JSON; its own reader knows better.
        if document.is_err() {
            return Ok(split(text));
        }
        let end = stream.byte_offset();
        let before = text[..start].matches('\n').count() as u64;
        documents.push((before, &text[start..end]));
        start = end;
    }
    Ok(documents)
}
