//! The table, and what it means.

use std::fmt::Write;

use crate::row::Outcome;

/// The outcomes, load by load.
pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:16}  {:12}  {:>8}  {:>6}  {:>4}  {:>10}  {:>23}  {}\n",
        "load", "preStop", "requests", "failed", "cut", "gone after", "answer after last close", "hooks"
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
                "{:8}  {:6}  {:4}  {gone:>10}  {answer:>23}",
                outcome.requests, outcome.failed, outcome.cut
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
    if let (Some((ours, gone)), Some((_, slept))) =
        (find("lastcall", "coming and going"), find("sleep 20", "coming and going"))
    {
        let failed = match ours.failed {
            0 => "lost no request".to_owned(),
            1 => "lost 1 request".to_owned(),
            n => format!("lost {n} requests"),
        };
        let times = slept / gone;
        parts.push(format!("with clients that come and go, lastcall {failed} and was done {times:.0} times sooner than sleep 20"));
    } else if let (Some((none, _)), Some((five, _))) =
        (find("none", "coming and going"), find("sleep 5", "coming and going"))
    {
        parts.push(format!(
            "clients that come and go lose {} requests without a hook, {} with sleep 5",
            none.failed, five.failed
        ));
    }
    let busy: Vec<u64> = ["sleep 5", "sleep 20", "lastcall"]
        .iter()
        .filter_map(|name| Some(find(name, "busy")?.0.cut))
        .collect();
    if let (Some(least), true) = (busy.iter().min(), busy.len() > 1) {
        parts.push(match least {
            0 => "busy clients that stay can be waited out here".to_owned(),
            _ => format!("busy clients that stay never leave by themselves: however long one waits, at least {least} of their requests are cut, until somebody tells them to go"),
        });
    }
    match parts.is_empty() {
        true => "What it means: run more rows to compare.".to_owned(),
        false => format!("What it means: {}.", parts.join("; ")),
    }
}
