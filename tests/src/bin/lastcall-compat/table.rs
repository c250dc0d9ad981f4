//! The table, for a terminal and for a document.

use std::fmt::Write;

use crate::row::Row;

const NAMES: [&str; 9] =
    ["server", "client", "protocol", "requests", "failed", "moved", "exact", "answered", "outcome"];

/// The rows as a table, and what its columns mean.
pub(crate) fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; 9]> = rows.iter().map(cells).collect();
    let widths: [usize; 9] = std::array::from_fn(|column| {
        let widest = cells.iter().filter(|row| row[3] != "-").map(|row| row[column].len()).max().unwrap_or(0);
        widest.max(NAMES[column].len())
    });
    let line = |cells: &[String; 9]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let _ = match column {
                3..=7 => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:width$}  "),
            };
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&NAMES.map(str::to_owned));
    cells.iter().for_each(|row| text += &line(row));
    for row in rows {
        for error in &row.errors {
            let _ = writeln!(text, "\n{} with {}: {error}", row.server, row.client);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let first = rows.iter().position(|other| other.note == row.note) == Some(index);
        if let (Some(note), true) = (row.note, first) {
            let _ = write!(text, "\n{}: {note}", row.client);
        }
    }
    text + "
failed    requests without a complete and right answer; nobody sends one again but those named above
moved     connections that the other pod accepted while the drain lasted
exact     whether every answer was, byte for byte, what it must be
answered  from the start of the preStop hook to its answer
"
}

/// The same for a document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String; 9]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&NAMES.map(str::to_owned)) + "|---|---|---|--:|--:|--:|---|--:|---|\n";
    rows.iter().for_each(|row| text += &line(&cells(row)));
    text
}

fn cells(row: &Row) -> [String; 9] {
    let [server, client, protocol] = [row.server, row.client, row.protocol].map(str::to_owned);
    let why = match (&row.not_available, &row.error) {
        (Some(why), _) => Some(format!("not available: {why}")),
        (None, Some(error)) => Some(format!("did not work: {}", error.lines().next().unwrap_or_default())),
        (None, None) => None,
    };
    if let Some(why) = why {
        return [server, client, protocol, "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), why];
    }
    let exact = row.exact.map_or("-", |exact| if exact { "yes" } else { "NO" });
    let answered = row.answered_s.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let [requests, failed, moved] = [row.requests, row.failed, row.moved].map(|n| n.to_string());
    [server, client, protocol, requests, failed, moved, exact.into(), answered, row.outcome.clone()]
}
