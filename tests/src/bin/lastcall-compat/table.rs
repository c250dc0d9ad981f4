//! The table, for a terminal and for a document.

use std::fmt::Write;

use crate::row::Row;

const COLUMNS: usize = 10;
const NAMES: [&str; COLUMNS] =
    ["server", "client", "protocol", "requests", "failed", "told", "moved", "exact", "answered", "outcome"];

/// The rows as a table, and what its columns mean.
pub(crate) fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; COLUMNS]> = rows.iter().map(cells).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let widest = cells.iter().filter(|row| row[3] != "-").map(|row| row[column].len()).max().unwrap_or(0);
        widest.max(NAMES[column].len())
    });
    let line = |cells: &[String; COLUMNS]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let _ = match column {
                3..=8 => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:width$}  "),
            };
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&NAMES.map(str::to_owned));
    cells.iter().for_each(|row| text += &line(row));
    for row in rows {
        if let Some(error) = row.errors.first() {
            let _ = writeln!(text, "\n{} with {}: {error}", row.server, row.client);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let first = rows.iter().position(|other| other.note == row.note) == Some(index);
        if let (Some(note), true) = (row.note, first) {
            let _ = write!(text, "\n{}: {note}", row.client);
        }
    }
    for row in rows {
        if let Some(gap) = row.gap {
            let _ = write!(text, "\n{} with {}, a known gap: {gap}", row.server, row.client);
        }
    }
    text + "
failed    requests without a complete and right answer; nobody sends one again but those named above
told      connections whose client was told to leave; one that comes back to the same pod is told again
moved     those among them that ended before the hook was answered
exact     whether every answer was, byte for byte, what it must be
answered  from the start of the preStop hook to its answer
"
}

/// The same for a document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String; COLUMNS]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&NAMES.map(str::to_owned)) + "|---|---|---|--:|--:|--:|--:|---|--:|---|\n";
    rows.iter().for_each(|row| text += &line(&cells(row)));
    text
}

fn cells(row: &Row) -> [String; COLUMNS] {
    let [server, client, protocol] = [row.server, row.client, row.protocol].map(str::to_owned);
    let why = match (&row.not_available, &row.error) {
        (Some(why), _) => Some(format!("not available: {why}")),
        (None, Some(error)) => Some(format!("did not work: {}", error.lines().next().unwrap_or_default())),
        (None, None) => None,
    };
    if let Some(why) = why {
        let none = || "-".to_owned();
        return [server, client, protocol, none(), none(), none(), none(), none(), none(), why];
    }
    let exact = row.exact.map_or("-", |exact| if exact { "yes" } else { "NO" });
    let answered = row.answered_s.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let numbers = [row.requests, row.failed, row.told, row.moved].map(|n| n.to_string());
    let [requests, failed, told, moved] = numbers;
    [server, client, protocol, requests, failed, told, moved, exact.into(), answered, row.outcome.clone()]
}
