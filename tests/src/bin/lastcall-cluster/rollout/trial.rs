//! One cell of the experiment: a way to stop pods, under a load, behind a Service.

use std::fmt;

use serde::Serialize;

use crate::app::{App, Hook};

/// A way to stop a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// No preStop hook.
    None,
    /// `preStop: {sleep: …}`
    Sleep(u32),
    /// The hook that lastcall answers, which tells clients to leave too.
    Lastcall,
    /// The same, and nobody is told.
    Untold,
    /// The first hook again, and no agent on the node any more.
    AgentAbsent,
}

impl Row {
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::Sleep(5), Self::Sleep(20), Self::Lastcall, Self::Untold, Self::AgentAbsent];

    /// Whether the agent has to be there.
    pub(super) fn needs_agent(self) -> bool {
        matches!(self, Self::Lastcall | Self::Untold)
    }

    fn hook(self) -> Hook {
        match self {
            Self::None => Hook::None,
            Self::Sleep(seconds) => Hook::Sleep(seconds),
            Self::Lastcall | Self::AgentAbsent => Hook::Drain(""),
            Self::Untold => Hook::Drain("?last-call=off"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Sleep(seconds) => write!(f, "sleep {seconds}"),
            Self::Lastcall => f.write_str("lastcall"),
            Self::Untold => f.write_str("last call off"),
            Self::AgentAbsent => f.write_str("agent absent"),
        }
    }
}

/// Who comes, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) post: bool,
    pub(crate) work_ms: u32,
    /// Connections that are kept; 0 for a new one for each request.
    pub(crate) keep: u32,
    /// Requests a second, over all connections.
    pub(crate) rate: f64,
}

impl Traffic {
    /// 50 connections that stay, 10 requests a second on each where they are quick.
    pub(crate) const fn kept(post: bool, work_ms: u32) -> Self {
        Self { post, work_ms, keep: 50, rate: 500.0 }
    }

    /// A new connection for each request.
    pub(crate) const fn fresh(post: bool, work_ms: u32, rate: f64) -> Self {
        Self { post, work_ms, keep: 0, rate }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keep {
            0 => write!(f, "{}/s new", self.rate)?,
            keep => write!(f, "{keep} kept")?,
        }
        write!(f, " {}", if self.post { "POST" } else { "GET" })?;
        if self.work_ms > 0 { write!(f, " {} ms", self.work_ms) } else { Ok(()) }
    }
}

/// How the load reaches the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The Service's own address.
    ClusterIp,
    /// A port of the node.
    NodePort,
    /// The same with externalTrafficPolicy Local.
    NodePortLocal,
    /// A port of the node's IPv6 address.
    NodePort6,
    /// A load balancer that knows the pods' addresses, and learns of a change 15 s late.
    Balancer,
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::ClusterIp, Self::NodePort, Self::NodePortLocal, Self::NodePort6, Self::Balancer];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::NodePortLocal => "NodePort, Local",
            Self::NodePort6 => "NodePort, IPv6",
            Self::Balancer => "balancer, 15 s late",
        })
    }
}

/// What readiness gate such load balancers use; the agent knows them by it.
pub(crate) const GATE: &str = "target-health.elbv2.k8s.aws/e2e";

/// One cell.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) row: Row,
    pub(crate) traffic: Traffic,
    pub(crate) way: Way,
    /// Its Deployment's and its Service's name.
    pub(crate) name: String,
}

impl Trial {
    pub(crate) fn app(&self) -> App {
        let mut app = App::new(&self.name, self.row.hook());
        if self.way == Way::Balancer {
            app.gates.push(GATE);
            // Room for the floor of such load balancers, and the reserve.
            app.grace = 60;
        }
        app
    }
}

/// What a cell cost; these names are the JSON's, the same as the demo's where they mean the same.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// The row.
    pub(crate) name: String,
    pub(crate) load: String,
    pub(crate) service: String,
    /// kube-proxy's mode.
    pub(crate) proxy: String,
    pub(crate) requests: u64,
    /// Requests without a complete answer.
    pub(crate) failed: u64,
    /// Those among them that an app had and lost.
    pub(crate) cut: u64,
    /// Seconds from a pod's deletion until its object was gone, of the slower pod.
    pub(crate) gone_s: Option<f64>,
    /// The old pods' names.
    #[serde(skip)]
    pub(crate) pods: Vec<String>,
    /// How each drain ended, by the agent's log.
    pub(crate) hooks: Vec<String>,
    /// What the first failed request's client was told.
    pub(crate) first_failure: Option<String>,
    /// Why there are no numbers.
    pub(crate) error: Option<String>,
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|row| row.to_string() == text);
        found.ok_or_else(|| format!("the rows are {}", Self::ALL.map(|row| row.to_string()).join(", ")))
    }
}
