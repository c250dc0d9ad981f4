//! **Stop or restart**: whether a hook that came without a deletion is the pod's end, or only a
//! container's restart. Pure.
//!
//! In: what is known of the pod, its node and its Events. Out: a [`Judgement`]. An eviction, a preemption
//! and a node's shutdown show nothing in the Pod object until its containers have ended, so nothing is
//! ever concluded from the absence of a sign: an early answer needs a positive sign of a restart, and no
//! sign of a stop.

use std::{collections::BTreeMap, time::Duration};

use crate::cluster::api::live::{Ending, NodeNow, Said};

/// Other containers' hooks come within this time, where the pod stops.
pub(super) const SIBLINGS: Duration = Duration::from_millis(200);
/// After so long without a sign, nobody knows.
pub(super) const UNDECIDED: Duration = Duration::from_secs(1);
/// The longest that a drain may take of which nobody knows: what a sleep would have cost.
pub(super) const UNKNOWN_MOST: Duration = Duration::from_secs(10);

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// A source says that the pod is Terminating, or is about to be.
    pub(super) stops: bool,
    /// A probe could kill one of the containers that have the hook.
    pub(super) killable: bool,
    /// Hooks of the pod that are waiting.
    pub(super) hooks: u32,
    /// The API server did not answer one of the questions.
    pub(super) unreachable: bool,
    /// The node; `None` where nobody may ask.
    pub(super) node: Option<NodeNow>,
    /// The pod's Events; those that an earlier restart was concluded from are not among them.
    pub(super) events: Vec<Said>,
    /// When each container that runs was started.
    pub(super) started: BTreeMap<String, i64>,
    /// Containers that have the hook.
    pub(super) hooked: Vec<String>,
    /// Since the hook came.
    pub(super) waited: Duration,
}

/// Which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Not yet known.
    Looking,
    /// A container restarts, by these Events; the pod stays.
    Restart(Vec<(String, i32)>),
    /// The pod stops, or must be taken to.
    Stop(Why),
    /// No sign of either.
    Unknown,
}

/// Why a stop is a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is being deleted or disrupted.
    Deleted,
    /// Hooks of several containers came together.
    Siblings,
    /// No probe could have killed a container.
    NoProbe,
    /// The API server does not answer.
    Unreachable,
    /// The node shuts down.
    Shutdown,
    /// The node is under pressure.
    Pressure,
    /// An Event of the pod says so.
    Told,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deleted => "it is deleted",
            Self::Siblings => "the hooks of several containers came together",
            Self::NoProbe => "no probe could have killed a container",
            Self::Unreachable => "the API server does not answer",
            Self::Shutdown => "the node shuts down",
            Self::Pressure => "the node is under pressure",
            Self::Told => "its Events say so",
        })
    }
}

/// The judgement, by what is known now. A sign of a stop beats any sign of a restart.
pub(super) fn judge(known: &Evidence) -> Judgement {
    let signs = [
        (known.stops, Why::Deleted),
        (known.hooks > 1, Why::Siblings),
        (!known.killable, Why::NoProbe),
        (known.unreachable, Why::Unreachable),
        (known.node == Some(NodeNow::ShuttingDown), Why::Shutdown),
        (known.node == Some(NodeNow::UnderPressure), Why::Pressure),
        (known.events.iter().any(|event| event.what == Ending::Stop), Why::Told),
    ];
    if let Some((_, why)) = signs.into_iter().find(|(sign, _)| *sign) {
        return Judgement::Stop(why);
    }
    if known.waited < SIBLINGS {
        return Judgement::Looking;
    }
    let restarts: Vec<_> =
        known.events.iter().filter(|event| is_now(event, known)).map(|event| event.id.clone()).collect();
    match restarts.is_empty() {
        false => Judgement::Restart(restarts),
        true if known.waited < UNDECIDED => Judgement::Looking,
        true => Judgement::Unknown,
    }
}

/// The Event is of the container that runs now, and that one has the hook. Both times are the kubelet's, so
/// no clock is compared with another. In whole seconds: a kill in the second of the start is not seen.
fn is_now(event: &Said, known: &Evidence) -> bool {
    let Some(container) = event.container.as_ref().filter(|name| known.hooked.contains(name)) else {
        return false;
    };
    event.what == Ending::Restart && known.started.get(container).is_some_and(|started| event.at > *started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killing(container: &str, at: i64) -> Said {
        Said { id: ("e".into(), 1), container: Some(container.into()), at, what: Ending::Restart }
    }

    /// A liveness kill of `app`, which has run since second 100, seen after 300 ms.
    fn restart() -> Evidence {
        Evidence {
            stops: false,
            killable: true,
            hooks: 1,
            unreachable: false,
            node: Some(NodeNow::Fine),
            events: vec![killing("app", 160)],
            started: [("app".to_owned(), 100), ("side".to_owned(), 100)].into(),
            hooked: vec!["app".into()],
            waited: Duration::from_millis(300),
        }
    }

    #[test]
    fn a_restart_needs_a_positive_sign() {
        assert!(matches!(judge(&restart()), Judgement::Restart(ids) if ids == [("e".to_owned(), 1)]));
        type Change = fn(&mut Evidence);
        let rows: [(&str, Change); 6] = [
            ("no Event", |e| e.events.clear()),
            ("of the run before", |e| e.events[0].at = 99),
            ("in the second of the start", |e| e.events[0].at = 100),
            ("of a container without the hook", |e| e.events[0].container = Some("side".into())),
            ("of no container", |e| e.events[0].container = None),
            ("of a container that does not run", |e| e.started.clear()),
        ];
        for (what, change) in rows {
            let mut known = restart();
            change(&mut known);
            assert_eq!(judge(&known), Judgement::Looking, "{what}");
            known.waited = UNDECIDED;
            assert_eq!(judge(&known), Judgement::Unknown, "{what}");
        }
    }

    #[test]
    fn other_hooks_are_given_time_to_come() {
        let known = Evidence { waited: Duration::from_millis(199), ..restart() };
        assert_eq!(judge(&known), Judgement::Looking);
    }

    /// All 2^8 combinations of signs: a stop wherever there is one sign of it, however sure the restart.
    #[test]
    fn any_sign_of_a_stop_beats_every_sign_of_a_restart() {
        for bits in 0..256_u32 {
            let on = |bit: u32| bits & 1 << bit != 0;
            let mut known = restart();
            known.stops = on(0);
            known.hooks = if on(1) { 2 } else { 1 };
            known.killable = !on(2);
            known.unreachable = on(3);
            known.node = match (on(4), on(5)) {
                (true, true) => None,
                (true, false) => Some(NodeNow::ShuttingDown),
                (false, true) => Some(NodeNow::UnderPressure),
                (false, false) => Some(NodeNow::Fine),
            };
            if on(6) {
                known.events.push(Said { what: Ending::Stop, ..killing("app", 1) });
            }
            if on(7) {
                known.waited = Duration::ZERO;
            }
            let sign = on(0) || on(1) || on(2) || on(3) || on(4) != on(5) || on(6);
            match judge(&known) {
                Judgement::Stop(_) => assert!(sign, "{known:?}"),
                Judgement::Restart(_) => assert!(!sign && !on(7), "{known:?}"),
                Judgement::Looking => assert!(!sign && on(7), "{known:?}"),
                Judgement::Unknown => panic!("{known:?}"),
            }
        }
    }
}
