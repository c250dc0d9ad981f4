//! The policy's reasons, as people read them in answers, Events and `lastcall status`.

use std::{fmt, time::Duration};

use super::{Outcome, Settle, Waiting, Why};
use crate::cluster::Exposure;

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "drained",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Forced => "forced",
            Self::Restart => "restart",
            Self::Gone => "gone",
        })
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling(settle) => write!(f, "settling, {settle}"),
            Self::Connections(1) => f.write_str("1 connection"),
            Self::Connections(n) => write!(f, "{n} connections"),
            Self::Stalled(n) => write!(f, "{n} clients that start again and again"),
            Self::Incomplete(why) => write!(f, "incomplete view: {why}"),
            Self::Dumps => f.write_str("the sockets could not be dumped"),
        }
    }
}

/// Follows "waits" or "waited": `5 s: 0.3 connections/s, silence proves nothing`.
impl fmt::Display for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (floor, window) = (Seconds(self.floor), Seconds(self.window));
        match self.why {
            Why::SilenceProves => {
                write!(f, "{window} of silence: {} prove it", Rate(self.per_second))
            }
            Why::LastCallProves => {
                write!(f, "{window} of silence: clients that were sent away do not come back")
            }
            Why::SilenceProvesNothing => {
                write!(f, "{floor}: {}, silence proves nothing", Rate(self.per_second))
            }
            Why::RateUnknown => write!(f, "{floor}: not known how often connections came"),
            Why::NobodyWatches => write!(f, "{floor}: no program watches for new connections"),
            Why::Exposure(kind) => write!(f, "{floor}: {}", because(kind)),
            Why::Asked => write!(f, "{floor}: the hook asks for it"),
            Why::Minimum => write!(f, "{floor}: the cluster's minimum"),
        }
    }
}

fn because(kind: Exposure) -> &'static str {
    match kind {
        Exposure::None => "no Service",
        Exposure::Cluster => "a Service",
        Exposure::Unknown => "the kind of Service is not known",
        Exposure::LocalLast => "externalTrafficPolicy Local, and the last ready endpoint of the node",
        Exposure::Headless => "a headless Service, DNS answers live on",
        Exposure::LoadBalancerIp => "a load balancer that targets the pod",
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_secs_f64() * 10.0).round() / 10.0;
        write!(f, "{tenths} s")
    }
}

struct Rate(Option<f64>);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} connections/s", self.0.unwrap_or(0.0))
    }
}
