//! How a drain ended, in one sentence for people: the answer, the log and the status page have it. Pure.

use super::policy::{Outcome, Settle, Verdict};
use crate::{contract::Audience, ledger::View};

/// What there is to tell beside the verdict.
pub(super) struct Circumstance<'a> {
    /// What was chosen for settling, and why.
    pub(super) settle: &'a Settle,
    /// It had settled by then.
    pub(super) settled: bool,
    /// What was left.
    pub(super) view: &'a View,
    /// At which ports clients were told to leave.
    pub(super) audience: Audience,
    /// Why nobody could be told, though it was asked for.
    pub(super) unable: Option<&'a str>,
}

pub(super) fn explain(verdict: &Verdict, at: &Circumstance<'_>) -> String {
    let Verdict { outcome, awaited, open } = *verdict;
    let settle = at.settle;
    let mut said = match outcome {
        Outcome::Drained if open == 0 => format!("no connection is left; waited {settle}"),
        Outcome::Drained => {
            format!("nothing is in flight on the {} left; waited {settle}", connections(open))
        }
        Outcome::Busy => format!(
            "{} never without a request for long, and nobody leaves: a closed loop of clients, which no \
             waiting ends{}; waited {settle}",
            if awaited == 1 { "1 connection is".to_owned() } else { format!("{awaited} connections are") },
            if at.audience == Audience::Nobody {
                " but a last call (last-call=http on the hook)"
            } else {
                ""
            },
        ),
        Outcome::Deadline if at.settled => {
            format!("the grace is used up with {} in flight; waited {settle}", connections(awaited))
        }
        Outcome::Deadline => format!(
            "the grace is used up before routing has settled, with {} in flight; to settle takes {settle}",
            connections(awaited)
        ),
        Outcome::Forced => "the Pod object is gone or replaced".to_owned(),
        Outcome::Restart => "a container restarts, the pod stays".to_owned(),
        Outcome::Gone => "nothing of the pod listens any more".to_owned(),
    };
    if let Some(told) = told(at) {
        said.push_str("; ");
        said.push_str(&told);
    }
    said
}

/// What became of the last call; `None` where there was none.
fn told(at: &Circumstance<'_>) -> Option<String> {
    let View { told, told_left, told_stayed, .. } = *at.view;
    if at.audience == Audience::Nobody {
        return None;
    }
    Some(match (told, at.unable) {
        (0, Some(why)) => format!("no client could be told to leave: {why}"),
        (0, None) => "no client was told to leave".to_owned(),
        _ => {
            let clients = if told == 1 { "1 client".to_owned() } else { format!("{told} clients") };
            let stayed =
                if told_stayed > 0 { format!(", {told_stayed} went on all the same") } else { String::new() };
            format!("{clients} told to leave, {told_left} left{stayed}")
        }
    })
}

fn connections(n: usize) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drain::policy::Why;

    const SETTLE: Settle = Settle {
        floor: Duration::from_secs(5),
        window: Duration::from_secs(5),
        per_second: Some(0.3),
        why: Why::SilenceProvesNothing,
    };

    fn say(
        outcome: Outcome,
        left: (usize, usize),
        view: View,
        audience: Audience,
        unable: Option<&str>,
    ) -> String {
        let verdict = Verdict { outcome, awaited: left.0, open: left.1 };
        explain(&verdict, &Circumstance { settle: &SETTLE, settled: true, view: &view, audience, unable })
    }

    #[test]
    fn what_was_chosen_and_why_is_in_it() {
        let quiet = View::default();
        assert_eq!(
            say(Outcome::Drained, (0, 0), quiet, Audience::Nobody, None),
            "no connection is left; waited 5 s: 0.3 connections/s, silence proves nothing"
        );
        assert_eq!(
            say(Outcome::Drained, (0, 1), quiet, Audience::Nobody, None),
            "nothing is in flight on the 1 connection left; waited 5 s: 0.3 connections/s, silence proves nothing"
        );
        let verdict = Verdict { outcome: Outcome::Deadline, awaited: 2, open: 3 };
        let at = Circumstance {
            settle: &SETTLE,
            settled: false,
            view: &quiet,
            audience: Audience::Nobody,
            unable: None,
        };
        assert_eq!(
            explain(&verdict, &at),
            "the grace is used up before routing has settled, with 2 connections in flight; \
             to settle takes 5 s: 0.3 connections/s, silence proves nothing"
        );
    }

    #[test]
    fn busy_advises_the_last_call_only_where_it_was_not_on() {
        let busy = |audience, view, unable| say(Outcome::Busy, (50, 50), view, audience, unable);
        let off = busy(Audience::Nobody, View::default(), None);
        assert!(off.contains("which no waiting ends but a last call (last-call=http on the hook)"), "{off}");
        let stayed = View { told: 53, told_left: 3, told_stayed: 50, ..View::default() };
        let on = busy(Audience::EveryPort, stayed, None);
        assert!(!on.contains("last-call=http"), "{on}");
        assert!(on.ends_with("; 53 clients told to leave, 3 left, 50 went on all the same"), "{on}");
        let unable = busy(Audience::HttpPorts, View::default(), Some("this kernel has no SOCKHASH"));
        assert!(
            unable.ends_with("; no client could be told to leave: this kernel has no SOCKHASH"),
            "{unable}"
        );
    }

    #[test]
    fn a_last_call_that_worked_is_told() {
        let view = View { told: 1, told_left: 1, ..View::default() };
        let said = say(Outcome::Drained, (0, 0), view, Audience::HttpPorts, None);
        assert!(said.ends_with("; 1 client told to leave, 1 left"), "{said}");
        let said = say(Outcome::Drained, (0, 0), View::default(), Audience::HttpPorts, None);
        assert!(said.ends_with("; no client was told to leave"), "{said}");
    }
}
