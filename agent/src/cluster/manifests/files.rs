//! What each file said last, and what all of them say together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{
    Problem,
    document::Content,
    events::WRITER_PAUSE,
    parse::{ParseError, parse},
    plan::manifests,
};
use crate::{
    cluster::{Kind, Options, Record},
    moment::Moment,
};

/// A cluster of 10,000 pods prints 100 MB, with what only the API server needs; a node's pods print
/// less than 1 MB.
pub(super) const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    options: Options,
    /// The path was a directory when it was last there.
    directory: bool,
    /// The path itself cannot be read.
    unreadable: Option<Problem>,
    known: BTreeMap<PathBuf, Known>,
}

/// A file.
#[derive(Debug, Default)]
struct Known {
    /// Of what was read last.
    digest: Option<u64>,
    /// Its last good state.
    records: Vec<Record>,
    problem: Option<Problem>,
    /// It was not there when it was looked for.
    missing_since: Option<Moment>,
    /// Objects of its own that it holds twice, or an earlier file too: warned of already.
    overridden: Option<String>,
}

/// What came of a look at the files.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The objects may be others than before.
    pub(super) changed: bool,
    /// Look again then, whatever happens.
    pub(super) again: Option<Moment>,
}

impl Files {
    pub(super) fn new(path: PathBuf, options: Options) -> Self {
        Self { path, options, directory: false, unreadable: None, known: BTreeMap::new() }
    }

    /// Reads what has changed, but not the files that are `being_written`: neither those that were
    /// when it began to read them, nor those that are when it has.
    pub(super) fn read(&mut self, now: Moment, being_written: &dyn Fn(&Path) -> bool) -> Read {
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(reason) => {
                self.fail(reason);
                return Read::default();
            }
        };
        let mut done = Read::default();
        let absent: Vec<_> = self.known.keys().filter(|path| !listed.contains(*path)).cloned().collect();
        for path in absent {
            self.miss(&path, now, &mut done);
        }
        for path in listed {
            let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            if being_written(&real) {
                continue;
            }
            match read(&path) {
                // Removed since it was listed, or a link to nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.miss(&path, now, &mut done),
                _ if being_written(&real) => {}
                read => {
                    done.changed |=
                        self.known.entry(path.clone()).or_default().take(&path, read, &self.options)
                }
            }
        }
        done.changed |= self.note_overridden();
        done
    }

    /// All objects. Of two of the same name the last one.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut all = BTreeMap::new();
        for record in self.known.values().flat_map(|file| &file.records) {
            all.insert((record.kind(), &record.namespace, &record.name), record);
        }
        all.into_values().cloned().collect()
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let overridden = self.known.iter().filter_map(|(path, file)| {
            let reason = file.overridden.clone()?;
            Some(Problem { file: path.clone(), at: None, reason, kept: 0 })
        });
        let broken = self.known.values().filter_map(|file| file.problem.clone());
        self.unreadable.iter().cloned().chain(broken).chain(overridden).collect()
    }

    /// The files; or why they cannot be told, while their last state holds.
    fn list(&mut self) -> Result<BTreeSet<PathBuf>, String> {
        let cannot = |error: io::Error| format!("cannot be read: {error}; its last state holds");
        let listed = match fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => {
                self.directory = true;
                manifests(&self.path).map_err(cannot)?
            }
            Ok(_) => {
                self.directory = false;
                vec![self.path.clone()]
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
            Err(_) if self.directory => return Err("it is gone; its last state holds".into()),
            Err(_) => Vec::new(),
        };
        if !listed.is_empty() {
            self.unreadable = None;
        } else if self.directory {
            self.fail("it has no *.yaml, *.yml or *.json (yet)".into());
        } else {
            self.fail("it does not exist (yet)".into());
        }
        Ok(listed.into_iter().collect())
    }

    fn fail(&mut self, reason: String) {
        let kept = self.known.values().map(|file| file.records.len()).sum();
        let problem = Problem { file: self.path.clone(), at: None, reason, kept };
        if self.unreadable.as_ref().is_none_or(|before| before.reason != problem.reason) {
            tracing::warn!(kept, "{problem}");
        }
        self.unreadable = Some(problem);
    }

    /// A file is not there: it is removed when it has been away for longer than a writer that removes
    /// the old file before it makes the new one (vim does).
    fn miss(&mut self, path: &Path, now: Moment, done: &mut Read) {
        let Some(file) = self.known.get_mut(path) else { return };
        let due = *file.missing_since.get_or_insert(now) + WRITER_PAUSE;
        if due <= now {
            self.known.remove(path);
            done.changed = true;
        } else {
            done.again = done.again.into_iter().chain([due]).min();
        }
    }

    /// Says which files override which. Whether that has changed.
    fn note_overridden(&mut self) -> bool {
        let mut holder: BTreeMap<(Kind, &str, &str), &Path> = BTreeMap::new();
        let mut said: BTreeMap<PathBuf, (usize, String)> = BTreeMap::new();
        for (path, file) in &self.known {
            for record in &file.records {
                let key = (record.kind(), record.namespace.as_str(), record.name.as_str());
                let Some(earlier) = holder.insert(key, path) else { continue };
                let (count, _) = said.entry(path.clone()).or_insert_with(|| {
                    let (kind, namespace, name) = (key.0.name(), key.1, key.2);
                    (0, format!("{kind} {namespace}/{name} is in {} too", earlier.display()))
                });
                *count += 1;
            }
        }
        let mut changed = false;
        for (path, file) in &mut self.known {
            let reason = said.remove(path).map(|(count, first)| match count {
                1 => format!("{first}; the last one counts"),
                _ => format!("{first}, and {} more; the last ones count", count - 1),
            });
            if file.overridden != reason {
                if let Some(reason) = &reason {
                    tracing::warn!("{}: {reason}", path.display());
                }
                file.overridden = reason;
                changed = true;
            }
        }
        changed
    }
}

impl Known {
    /// Takes what was read. Whether its objects may be others than before.
    fn take(&mut self, path: &Path, read: io::Result<Vec<u8>>, options: &Options) -> bool {
        self.missing_since = None;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                self.digest = None;
                self.fail(path, ParseError { at: None, reason: error.to_string() });
                return false;
            }
        };
        let digest = Some(digest(&bytes));
        if self.digest == digest {
            return false;
        }
        self.digest = digest;
        let Content { objects, ignored } = match parse(&bytes) {
            Ok(content) => content,
            Err(error) => {
                self.fail(path, error);
                return false;
            }
        };
        if self.problem.take().is_some() {
            tracing::info!(file = %path.display(), "understood again");
        }
        tracing::debug!(file = %path.display(), objects = objects.len(), ignored, "read");
        self.records = objects.iter().filter_map(|object| Record::new(object, options)).collect();
        true
    }

    fn fail(&mut self, path: &Path, error: ParseError) {
        let problem =
            Problem { file: path.to_owned(), at: error.at, reason: error.reason, kept: self.records.len() };
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(kept = problem.kept, "{problem}");
        }
        self.problem = Some(problem);
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before it is opened: a pipe would wait for its other end.
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let too_big = || {
        let mib = MAX_BYTES >> 20;
        io::Error::other(format!("more than {mib} MiB; leave out other nodes' pods"))
    };
    if found.len() > MAX_BYTES {
        return Err(too_big());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(too_big()) } else { Ok(bytes) }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
