//! The table, and what it means.

use std::fmt::Write;

use crate::row::Outcome;

/// The outcomes, load by load.
pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:16}  {:12}  {:>8}  {:>6}  {:>4}  {:>10}  {:>4}  {:>23}  {}\n",
        "load",
        "preStop",
        "requests",
        "failed",
        "cut",
        "gone after",
        "told",
        "answer after last close",
        "hooks"
    );
    let mut last = "";
    for load in ["coming and going", "busy"] {
        for outcome in outcomes.iter().filter(|outcome| outcome.load == load) {
            let shown = if last == load { "" } else { load };
            last = load;
            let _ = write!(text, "{shown:16}  {:12}  ", outcome.name);
            if let Some(error) = &outcome.error {
                let _ = writeln!(text, "{}", error.lines().next().unwrap_or_default().trim_end_matches(':'));
                continue;
            }
            let gone = outcome.gone_s.map_or(String::new(), |gone| format!("{gone:.1} s"));
            let answer =
                outcome.answer_after_last_close_ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
            let _ = write!(
                text,
                "{:8}  {:6}  {:4}  {gone:>10}  {:>4}  {answer:>23}",
                outcome.requests,
                outcome.failed,
                outcome.cut,
                outcome.told.map_or("-".to_owned(), |told| told.to_string()),
            );
            let hooks = outcome.hooks.join(", ");
            let _ = writeln!(text, "  {hooks}");
        }
    }
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    text.join("\n")
        + "\n
failed      requests without a complete answer
cut         those among them that an app had and lost: it ended while they were in flight; the others
            found nobody at the address they were sent to
gone after  from the deletion of a pod to the end of its app, of the slower of the two pods
told        clients that lastcall told to leave, by `Connection: close` in an answer of the app
answer …    from the close of the last connection that was waited for to the answer, where a close came last;
            `-` where it was a silence that had to be long enough
"
}

/// One line on what the numbers say.
pub(crate) fn meaning(outcomes: &[Outcome]) -> String {
    let find = |name: &str, load: &str| {
        let found = outcomes.iter().find(|outcome| outcome.name == name && outcome.load == load);
        found.filter(|outcome| !outcome.is_broken()).and_then(|outcome| Some((outcome, outcome.gone_s?)))
    };
    let mut parts = Vec::new();
    for (load, who) in [("coming and going", "clients that come and go"), ("busy", "busy clients that stay")]
    {
        let sleeps = ["sleep 20", "sleep 5", "none"];
        let Some((name, (slept, slept_for))) = sleeps.iter().find_map(|s| Some((s, find(s, load)?))) else {
            continue;
        };
        let theirs = format!("{who} lost {} with {name}", requests(slept.failed));
        let Some((ours, gone)) = find("lastcall", load) else {
            parts.push(theirs);
            continue;
        };
        let told = match ours.told {
            Some(told) if told > 0 => format!(", which told them to leave {told} times"),
            _ => String::new(),
        };
        let sooner = match slept_for / gone {
            times if times >= 1.5 => format!(", and the pod was gone {times:.1} times sooner"),
            _ => format!(", and the pod was gone after {gone:.1} s instead of {slept_for:.1} s"),
        };
        parts.push(format!("{theirs}, {} with lastcall{told}{sooner}", requests(ours.failed)));
    }
    match parts.is_empty() {
        true => "What it means: run more rows to compare.".to_owned(),
        false => format!("What it means: {}.", parts.join("; ")),
    }
}

fn requests(n: u64) -> String {
    match n {
        0 => "no request".to_owned(),
        1 => "1 request".to_owned(),
        n => format!("{n} requests"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, load: &'static str, failed: u64, gone: f64, told: Option<u64>) -> Outcome {
        let (name, gone_s) = (name.to_owned(), Some(gone));
        Outcome { name, load, failed, gone_s, told, ..Outcome::default() }
    }

    #[test]
    fn what_it_means_is_what_was_measured() {
        let mut rows = vec![
            row("sleep 20", "busy", 50, 20.0, None),
            row("lastcall", "busy", 0, 3.1, Some(53)),
            row("sleep 5", "coming and going", 0, 5.0, None),
            row("lastcall", "coming and going", 1, 4.0, Some(0)),
        ];
        assert_eq!(
            meaning(&rows),
            "What it means: clients that come and go lost no request with sleep 5, 1 request with lastcall, and \
             the pod was gone after 4.0 s instead of 5.0 s; busy clients that stay lost 50 requests with \
             sleep 20, no request with lastcall, which told them to leave 53 times, and the pod was gone 6.5 \
             times sooner."
        );
        rows[1] = row("lastcall", "busy", 50, 12.0, Some(0));
        let said = meaning(&rows[..2]);
        assert!(said.contains("50 requests with sleep 20, 50 requests with lastcall, and"), "{said}");
        assert_eq!(meaning(&rows[1..2]), "What it means: run more rows to compare.");
    }
}
