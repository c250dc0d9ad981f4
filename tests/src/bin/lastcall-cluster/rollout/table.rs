//! The table, and what it has to show.

use std::fmt::Write;

use super::trial::{Outcome, Row};

/// A cell in a line.
pub(super) fn line(outcome: &Outcome) -> String {
    let Outcome { name, load, service, requests, failed, cut, gone_s, hooks, first_failure, error, .. } =
        outcome;
    let mut text = format!("{load:20} {service:20} {name:14}");
    if let Some(error) = error {
        let _ = write!(text, " {}", error.lines().next().unwrap_or_default());
        return text;
    }
    let gone = gone_s.map_or(String::new(), |gone| format!("{gone:.1} s"));
    let _ = write!(text, " {requests:6} {failed:6} {cut:5} {gone:>10}  {}", hooks.join(", "));
    if let Some(failure) = first_failure {
        let _ = write!(text, " ({failure})");
    }
    text.trim_end().to_owned()
}

/// All cells, load by load.
pub(super) fn render(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for proxy in ["nftables", "iptables"] {
        let mut of: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.proxy == proxy).collect();
        if of.is_empty() {
            continue;
        }
        let place = |outcome: &Outcome| {
            outcomes.iter().position(|o| o.load == outcome.load && o.service == outcome.service)
        };
        // They come in the order in which they were measured.
        let row = |outcome: &Outcome| Row::ALL.iter().position(|row| row.to_string() == outcome.name);
        of.sort_by_key(|outcome| (place(outcome), row(outcome)));
        let _ = writeln!(
            text,
            "kube-proxy {proxy}\n{:20} {:20} {:14} {:>6} {:>6} {:>5} {:>10}  hooks",
            "load", "service", "preStop", "sent", "failed", "cut", "gone after"
        );
        for outcome in of {
            let _ = writeln!(text, "{}", line(outcome));
        }
        text.push('\n');
    }
    text + "failed      requests without a complete answer; clients never retry
cut         those among them that an app had and lost; the others never got a connection
gone after  from the deletion of an old pod until its object was gone, of the slower one
"
}

/// What is promised of lastcall and does not hold in these numbers.
pub(super) fn broken_promises(outcomes: &[Outcome]) -> Vec<String> {
    let find = |of: &Outcome, name: &str| {
        let same = |o: &&Outcome| o.load == of.load && o.service == of.service && o.proxy == of.proxy;
        outcomes.iter().filter(same).find(|o| o.name == name && o.error.is_none())
    };
    let mut broken = Vec::new();
    // With the last call off, a sleep is as good for clients that stay.
    let ours = |o: &&Outcome| o.name == "lastcall" && o.error.is_none();
    for ours in outcomes.iter().filter(ours) {
        let Some(sleep) = find(ours, "sleep 20") else { continue };
        let cell = format!("{}, {}, {}", ours.load, ours.service, ours.proxy);
        if ours.failed > 0 && sleep.failed == 0 {
            broken.push(format!("{cell}: {} failed {} requests, sleep 20 none", ours.name, ours.failed));
        }
        // Clients that stay until they are told, whom no sleep saves.
        if ours.failed > 0 && ours.load.contains(" kept ") {
            broken.push(format!(
                "{cell}: {} failed {} requests of clients it told to leave",
                ours.name, ours.failed
            ));
        }
        // Five new connections a second and pod, and nobody who learns late.
        let rate = ours.load.split_once("/s new").and_then(|(rate, _)| rate.parse::<f64>().ok());
        let busy = rate.is_some_and(|rate| rate >= 10.0) && !ours.service.starts_with("balancer");
        if let (true, Some(ours_s), Some(sleep_s)) =
            (busy && !ours.service.contains("Local"), ours.gone_s, sleep.gone_s)
            && ours_s * 5.0 > sleep_s
        {
            broken.push(format!(
                "{cell}: {} gone after {ours_s:.1} s, with sleep 20 after {sleep_s:.1} s",
                ours.name
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(load: &str, name: &str, failed: u64, gone: f64) -> Outcome {
        let (name, load, service) = (name.to_owned(), load.to_owned(), "NodePort".to_owned());
        Outcome { name, load, service, failed, gone_s: Some(gone), ..Outcome::default() }
    }

    #[test]
    fn the_rows_of_a_load_stand_together_and_in_order() {
        let of = |load, name| Outcome { proxy: "nftables".to_owned(), ..cell(load, name, 0, 1.0) };
        let cells =
            [of("a", "sleep 20"), of("b", "sleep 20"), of("b", "none"), of("a", "lastcall"), of("a", "none")];
        let text = render(&cells);
        let lines = text.lines().filter(|line| line.contains("NodePort"));
        let rows: Vec<String> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>()[..4].join(" ")).collect();
        let wanted = [
            "a NodePort none 0",
            "a NodePort sleep 20",
            "a NodePort lastcall 0",
            "b NodePort none 0",
            "b NodePort sleep 20",
        ];
        assert_eq!(rows, wanted);
    }

    #[test]
    fn lastcall_may_not_fail_where_sleep_does_not() {
        let sleep = cell("5/s new GET", "sleep 20", 0, 21.0);
        let kept = [sleep.clone(), cell("5/s new GET", "lastcall", 0, 6.0)];
        assert!(broken_promises(&kept).is_empty());
        let broken = [sleep, cell("5/s new GET", "lastcall", 1, 6.0)];
        assert_eq!(broken_promises(&broken).len(), 1);
        let both = [cell("5/s new GET", "sleep 20", 9, 21.0), cell("5/s new GET", "lastcall", 9, 6.0)];
        assert!(broken_promises(&both).is_empty());
        let kept = [cell("50 kept GET", "sleep 20", 50, 21.0), cell("50 kept GET", "lastcall", 1, 4.0)];
        assert_eq!(broken_promises(&kept).len(), 1, "no sleep would have been better, but they were told");
    }

    #[test]
    fn five_times_sooner_where_connections_are_many() {
        let rows = |load, gone| [cell(load, "sleep 20", 0, 21.0), cell(load, "lastcall", 0, gone)];
        assert!(broken_promises(&rows("20/s new GET", 3.0)).is_empty());
        assert_eq!(broken_promises(&rows("20/s new GET", 5.0)).len(), 1);
        assert!(broken_promises(&rows("5/s new GET", 6.0)).is_empty());
    }
}
