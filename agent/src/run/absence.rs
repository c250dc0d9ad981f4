//! Hooks that found no agent: told once, by the next agent.

use std::path::Path;

use crate::{
    causes,
    kernel::{Hook, PinnedHash},
    report::events::{Events, Reason, Subject},
};

/// Compares the kernel's count of such hooks with the one that was told last.
pub(super) fn tell(hook: &Hook, pins: &Path, events: &Events) {
    let told = match PinnedHash::<u32, u64>::open(pins, "ABSENT_TOLD", 1) {
        Ok(map) => map,
        Err(error) => return tracing::debug!(error = %causes(&error), "absences are not told"),
    };
    let slept = hook.counts().nobody_home;
    let before = told.values().first().copied().unwrap_or(0);
    if slept > before {
        let calls = slept - before;
        let hooks = if calls == 1 { "1 preStop hook" } else { &format!("{calls} preStop hooks") };
        tracing::warn!(calls, "preStop hooks found no agent, and slept");
        let note = format!("{hooks} found no lastcall agent on this node, and slept instead");
        events.tell(Subject::Node, Reason::AgentWasAbsent, note);
    }
    // Smaller too: the kernel's count begins anew with another version of its maps.
    if slept != before
        && let Err(error) = told.insert(0, &slept)
    {
        tracing::debug!(error = %causes(&error), "absences will be told again");
    }
}
