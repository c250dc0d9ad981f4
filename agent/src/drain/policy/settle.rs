//! **Settled**: routing has converged on "not this pod".
//!
//! In: the kind of Service, the rate λ at which connections came before the drain, those that came since.
//! Out: the **floor** F since the start, the quiet window w, and the reason, which people are told.
//!
//! Silence proves something only where there was noise. With connections coming at λ a second, a silence
//! of ln(100)/λ has a chance of 1 % if they still came.

use std::time::Duration;

use super::Circumstances;
use crate::{
    cluster::Exposure,
    contract::Contract,
    ledger::{Completeness, View},
    moment::Moment,
};

/// Shortest silence that is taken for one: kube-proxy writes its rules up to a second late.
const WINDOW_MIN: Duration = Duration::from_secs(2);
/// The same where clients that the last call sent away prove it. λ is an average: clients that come all at
/// once, every second, look like many a second, so a silence must be longer than their rhythm. Here each
/// client's own rhythm is known, and twice that has passed ([`View::missed`]); a second more is for the
/// nodes whose kube-proxy is the last to turn.
const WINDOW_MISSED: Duration = Duration::from_secs(1);
/// So many clients at least must stay away: one or two may have ended for good.
const FEWEST_MISSED: f64 = 5.0;
/// ln(100): a silence that by chance comes once in a hundred.
const PROOF: f64 = 4.605_170_185_988_092;

/// How long the pod has to be quiet, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settle {
    /// At least so long since the start of the drain.
    pub floor: Duration,
    /// And so long without a new connection.
    pub window: Duration,
    /// λ, new connections a second before the drain, less probes and health checks.
    pub per_second: Option<f64>,
    /// Which rule set the floor.
    pub why: Why,
}

/// Which rule set the floor of a settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Connections came often enough for their silence to prove that they have stopped.
    SilenceProves,
    /// Clients that the last call sent away would have come back at once.
    LastCallProves,
    /// They came too seldom.
    SilenceProvesNothing,
    /// Not known how often they came.
    RateUnknown,
    /// No program watches for them.
    NobodyWatches,
    /// This kind of Service is that slow, whatever the silence.
    Exposure(Exposure),
    /// `settle=` on the hook.
    Asked,
    /// `--min-settle` of the cluster.
    Minimum,
}

/// The floor of a kind of Service where silence proves nothing.
pub const fn floor(exposure: Exposure) -> Duration {
    Duration::from_secs(match exposure {
        Exposure::None => 2,
        Exposure::Cluster => 5,
        Exposure::Unknown => 10,
        Exposure::LocalLast => 15,
        Exposure::Headless | Exposure::LoadBalancerIp => 30,
    })
}

/// The floor and the window of this drain, with what is known of it so far.
pub fn settle(contract: &Contract, at: &Circumstances, view: &View) -> Settle {
    let known = at.probes_per_second.max(0.0) + view.health_per_second.max(0.0);
    let noise = known.max(at.noise_per_second);
    let per_second = at.openings_per_second.map(|all| (all - noise).max(0.0));
    let usual = contract.settle.unwrap_or(floor(at.exposure)).max(at.min_settle);
    // How long a silence has to be, if any length proves something within the floor.
    let watched = at.observed_by_kernel && !matches!(view.completeness, Completeness::Refused(_));
    let proof = per_second.filter(|_| watched).and_then(silence_that_proves).filter(|w| *w < usual);
    let window = proof.map_or(usual, |w| w.max(WINDOW_MIN)).min(usual);
    let settle = |floor, window, why| Settle { floor, window, per_second, why };

    if let Some(asked) = contract.settle {
        let why = if asked < at.min_settle { Why::Minimum } else { Why::Asked };
        return settle(usual, window, why);
    }
    if usual > floor(at.exposure) {
        return settle(usual, window, Why::Minimum);
    }
    if at.exposure != Exposure::Cluster {
        return settle(usual, window, Why::Exposure(at.exposure));
    }
    let shortest = WINDOW_MIN.max(at.min_settle).min(usual);
    if watched && missed_enough(at, view) {
        return settle(shortest, WINDOW_MISSED, Why::LastCallProves);
    }
    if proof.is_some() {
        return settle(window.max(shortest), window, Why::SilenceProves);
    }
    let why = match (watched, per_second) {
        (false, _) => Why::NobodyWatches,
        (true, None) => Why::RateUnknown,
        (true, Some(_)) => Why::SilenceProvesNothing,
    };
    settle(usual, usual, why)
}

/// A client that was told to leave and asks again and again comes back at once, and as long as routing has
/// not converged on its path, one time in as many as there are endpoints it is sent here: of `n` others, it
/// goes to one of them with a chance of n/(n+1). With so many gone that the chance of nobody coming is 1 %,
/// nobody coming is proof. Those that left before the last one came do not count, nor those that would not
/// have asked again yet ([`View::missed`]).
fn missed_enough(at: &Circumstances, view: &View) -> bool {
    let each = |others: usize| (1.0 / others as f64).ln_1p();
    at.others_ready.is_some_and(|others| view.missed as f64 >= (PROOF / each(others)).max(FEWEST_MISSED))
}

/// ln(100)/λ; nothing for a rate so small that the time would have no meaning.
fn silence_that_proves(per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(PROOF / per_second).ok()
}

impl Settle {
    /// When the pod will have settled if nobody comes any more.
    pub fn settled(&self, began: Moment, view: &View) -> Moment {
        let last = view.last_new.unwrap_or(began).max(began);
        let quiet = last + self.window;
        quiet.max(began + self.floor).max(view.udp_settled.unwrap_or(began))
    }

    /// The floor does not fit into what the grace leaves. Not said of a floor that is a guess: nobody could act
    /// on it, and the next moment may know better.
    pub fn exceeds(&self, within: Duration) -> bool {
        self.floor > within && self.why != Why::Exposure(Exposure::Unknown)
    }
}
