//! What was found, as a table for people and as JSON for programs.

use std::time::Duration;

use serde::Serialize;

use super::checks::Outcome;

/// One check on one kernel.
#[derive(Serialize)]
pub(crate) struct Row {
    /// `6.1`, as it was asked for.
    pub kernel: &'static str,
    /// Debian's version of it.
    pub version: String,
    /// The check.
    pub check: &'static str,
    /// As it should be.
    pub good: bool,
    /// In words.
    pub found: String,
    /// Seconds.
    pub seconds: f64,
}

impl Row {
    pub(crate) fn new(
        (kernel, version): (&'static str, &str),
        check: &'static str,
        outcome: &Outcome,
        took: Duration,
    ) -> Self {
        let (good, found) = match outcome {
            Outcome::Good(found) => (true, found),
            Outcome::Bad(found) => (false, found),
        };
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        Self { kernel, version: version.to_owned(), check, good, found: found.clone(), seconds }
    }
}

/// A line a check, the kernels one below the other.
pub(crate) fn text(rows: &[Row]) -> String {
    let width = |f: fn(&Row) -> &str| rows.iter().map(|r| f(r).chars().count()).max().unwrap_or(0);
    let (kernel, version, check) = (width(|r| r.kernel), width(|r| &r.version), width(|r| r.check));
    let line = |r: &Row| {
        format!(
            "{:<kernel$}  {:<version$}  {:<check$}  {:<6} {:>6.1} s  {}\n",
            r.kernel,
            r.version,
            r.check,
            if r.good { "ok" } else { "FAILED" },
            r.seconds,
            r.found
        )
    };
    rows.iter().map(line).collect()
}
