//! Aligned tables of plain text, and what people are shown in them.

/// Rows under a heading, padded so that columns line up.
pub(super) struct Table {
    right: &'static [usize],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// `right` are the columns of numbers.
    pub(super) fn new(heading: &[&str], right: &'static [usize]) -> Self {
        Self { right, rows: vec![heading.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| clean(c)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if i > 0 {
                    line.push_str("  ");
                }
                line.push_str(&if self.right.contains(&i) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Without control characters: a manifest's names can hold anything, and a terminal obeys them.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Seconds, as precise as they matter: `0.4s`, `12s`, `3m12s`, `2h05m`.
pub(super) fn seconds(s: f64) -> String {
    if s < 9.95 {
        return format!("{:.1}s", s.max(0.0));
    }
    let whole = s.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// `1 hook`, `2 hooks`.
pub(super) fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// The parts that are not zero: `3 in flight, 11 idle`; empty when all are.
pub(super) fn parts(counts: &[(u64, &str)]) -> String {
    let shown: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["POD", "OPEN", "WHY"], &[1]);
        table.row(vec!["web-1".into(), "12".into(), "x".into()]);
        table.row(vec!["a-longer-name".into(), "3".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "POD            OPEN  WHY\n\
             web-1            12  x\n\
             a-longer-name     3\n"
        );
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        let mut table = Table::new(&["POD"], &[]);
        table.row(vec!["\u{1b}[2Jweb\n".into()]);
        assert_eq!(table.to_string(), "POD\n\u{fffd}[2Jweb\u{fffd}\n");
    }

    #[test]
    fn times() {
        let table = [
            (-3.0, "0.0s"),
            (0.04, "0.0s"),
            (9.94, "9.9s"),
            (9.96, "10s"),
            (59.4, "59s"),
            (59.6, "1m00s"),
            (192.0, "3m12s"),
            (7500.0, "2h05m"),
        ];
        for (given, expected) in table {
            assert_eq!(seconds(given), expected, "{given}");
        }
    }

    #[test]
    fn sums() {
        assert_eq!(parts(&[(3, "in flight"), (0, "idle"), (1, "closing")]), "3 in flight, 1 closing");
        assert_eq!(parts(&[(0, "idle")]), "");
        assert_eq!((count(1, "hook"), count(0, "hook")), ("1 hook".into(), "0 hooks".into()));
    }
}
