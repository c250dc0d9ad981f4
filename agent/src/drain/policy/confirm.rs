//! Whether "drained" may be said of a view in which nothing is awaited.
//!
//! A connection is in the table because a packet of it was seen, or in the dump because none was. So
//! nothing is missed by a dump that began after the attach and a read that began after the dump. Both
//! must be later than the last change: what ended in between has then been looked at once more. And the
//! dump must lie between the last two reads: where a pod redirects, the table learns of a request from an
//! older connection only when the pod acknowledges it, up to 200 ms later, and only a dump taken for this
//! very answer shows it.
//!
//! Where the table is absent or has refused a connection, dumps alone must do: nothing has moved and
//! nobody has come from one dump to another at least `idle-after` later.

use super::{Circumstances, Dumps};
use crate::{
    contract::{Contract, Until},
    ledger::{Completeness, View},
    moment::Moment,
};

/// Whether "drained" may be said now.
pub(super) enum Confirmation {
    /// It was looked at after everything that could have changed it.
    Given,
    /// Look again: dump, then read.
    ByAnotherLook,
    /// The same, but not before.
    NotBefore(Moment),
    /// Nobody can look.
    Never,
}

pub(super) fn confirmation(
    contract: &Contract,
    at: &Circumstances,
    view: &View,
    settled: Moment,
) -> Confirmation {
    // Under `settled` what is open does not matter: only that nobody came.
    let open_matters = contract.until != Until::Settled;
    let since = if open_matters { settled.max(view.changed_at) } else { settled };
    let read = view.read_at.is_some_and(|r| r >= since);
    let dumped = view.dump_started.is_some_and(|d| d >= since);
    let read_after_dump = view.read_at >= view.dump_started;
    let whole = at.observed_by_kernel
        && !matches!(view.completeness, Completeness::NeverRead | Completeness::Refused(_));

    let enough = match (whole, at.dumps) {
        (true, Dumps::Impossible) => read,
        (true, _) if !open_matters => read,
        (true, _) => {
            let made_for_this = view.dump_started >= view.read_before;
            view.complete() && dumped && read && read_after_dump && made_for_this
        }
        (false, Dumps::Impossible) => return Confirmation::Never,
        (false, _) if !open_matters => dumped,
        (false, _) => match (view.still_since, view.dump_started) {
            (Some(still), Some(dump)) if dump < still + contract.idle_after => {
                return Confirmation::NotBefore(still + contract.idle_after);
            }
            (Some(_), Some(_)) => {
                dumped && (view.read_at.is_none() || !at.observed_by_kernel || read_after_dump)
            }
            _ => false,
        },
    };
    if enough { Confirmation::Given } else { Confirmation::ByAnotherLook }
}
