//! How things stand on the node: for the status pages and for scrapes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    cluster::Transport,
    config::Config,
    contract::{Audience, Until},
    drain::{Drain, Drains},
    hook::{answer::Reply, identity::Page},
    kernel::Hook,
    ledger::{Call, Known, Line, State, View},
    moment::Moment,
    report::{
        labels::ConnectionState,
        scrape::{ApiReading, ConnectionCounts, HookCalls, Reading},
        status::{
            ConnectionStatus, Counts, DrainStatus, EbpfStatus, Known as KnownStatus, KnownCounts,
            LastCallStatus, NodeStatus,
        },
    },
    run::source::Told,
};

/// More connections of one pod than a page shows.
const MAX_LINES: usize = 1000;

pub(super) struct Node {
    drains: Arc<Drains>,
    hook: Option<Arc<Hook>>,
    source: Told,
    table_capacity: u64,
    started: Moment,
    edges: AtomicU64,
}

impl Node {
    pub(super) fn new(config: &Config, drains: Arc<Drains>, hook: Option<Arc<Hook>>, source: Told) -> Self {
        Self {
            drains,
            hook,
            source,
            table_capacity: u64::from(config.table_size),
            started: Moment::now(),
            edges: AtomicU64::new(0),
        }
    }

    pub(super) fn count_edge(&self) {
        self.edges.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn page(&self, page: &Page) -> Option<Reply> {
        match page {
            Page::Node => Some(Reply::json(&self.status())),
            Page::Pod(name) | Page::Connections(name) => {
                let drain = self.drains.find(Some(name), "", &Default::default())?;
                Some(Reply::json(&drain_status(&drain, true)))
            }
        }
    }

    fn status(&self) -> NodeStatus {
        let services = self.drains.services();
        let reading = self.reading();
        let mut problems = self.source.problems();
        if self.hook.is_none() {
            problems.push("the kubelet's calls to pods are not led to the agent: see the log".to_owned());
        }
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: seconds(Moment::now().since(self.started)),
            ebpf: EbpfStatus {
                available: services.observer.is_some(),
                how: match &services.observer {
                    Some(_) => services.attach.describe().to_owned(),
                    None => "no kernel programs: sockets are polled".to_owned(),
                },
                table_entries: reading.table_entries,
                table_capacity: reading.table_capacity,
            },
            problems,
            drains: self.drains.list().iter().map(|d| drain_status(d, false)).collect(),
        }
    }

    /// For a scrape.
    pub(super) fn reading(&self) -> Reading {
        let drains = self.drains.list();
        let services = self.drains.services();
        let mut reading = Reading {
            table_capacity: self.table_capacity,
            edge_events: self.edges.load(Ordering::Relaxed),
            manifest_problems: self.source.broken_files(),
            api: self.source.health().map(|health| {
                let (requests, failures) = health.counts();
                ApiReading { reachable: health.reachable(), requests, failures }
            }),
            ebpf_available: services.observer.is_some() && !services.attach.is_none(),
            ..Reading::default()
        };
        for drain in &drains {
            let progress = drain.progress();
            reading.hooks_held += u64::from(drain.hooks_waiting());
            if progress.verdict.is_some() {
                continue;
            }
            reading.drains_in_progress += 1;
            if let Some(v) = progress.view {
                let c: &mut ConnectionCounts = &mut reading.connections;
                c.in_flight += (v.in_flight.saturating_sub(v.doubt)) as u64;
                c.doubt += v.doubt as u64;
                c.idle += v.idle as u64;
                c.closing += v.closing as u64;
                c.vanished += v.vanished as u64;
            }
        }
        if let Some(observer) = &services.observer {
            for number in services.wakes().keys() {
                if let Ok(pod) = observer.pod(*number) {
                    reading.table_entries += pod.open + pod.flows;
                    reading.edge_events_lost += pod.edges_lost;
                }
            }
        }
        if let Some(announcer) = &services.announcer {
            reading.announcement_refusals = announcer.counts().refused.to_vec();
        }
        if let Some(hook) = &self.hook {
            let counts = hook.counts();
            reading.hook_calls = HookCalls {
                agent: counts.home,
                nobody_home: counts.nobody_home,
                passed_through: counts.passed_through,
                not_the_kubelet: counts.not_the_kubelet,
                no_name: counts.no_name,
            };
        }
        reading
    }
}

fn seconds(d: std::time::Duration) -> f64 {
    (d.as_secs_f64() * 1e3).round() / 1e3
}

fn drain_status(drain: &Drain, with_connections: bool) -> DrainStatus {
    let now = Moment::now();
    let identity = drain.identity();
    let progress = drain.progress();
    let (namespace, name, uid) = match &identity.facts {
        Some(f) => (f.name.namespace.clone(), f.name.name.clone(), f.uid.clone()),
        None => (String::new(), drain.to_string(), String::new()),
    };
    let ledger = drain.ledger();
    let view = match &progress.verdict {
        Some(verdict) => verdict.view,
        None => ledger.view(now, &drain.contract),
    };
    let lines = if with_connections { ledger.lines(now, &drain.contract) } else { Vec::new() };
    drop(ledger);
    let deadline = progress.deadline.unwrap_or(now);
    let left_out = lines.len().saturating_sub(MAX_LINES) as u64;
    let waiting_for = match (&progress.verdict, &progress.fallback) {
        (Some(verdict), _) => verdict.why.clone(),
        (None, Some(why)) => format!("{} (polled: {})", progress.waiting_for, why.why()),
        (None, None) => progress.waiting_for.clone(),
    };
    DrainStatus {
        namespace,
        name,
        uid,
        addresses: identity.addresses.iter().copied().collect(),
        began_seconds_ago: seconds(now.since(drain.began)),
        deadline_in_seconds: seconds(deadline.since(now)) - seconds(now.since(deadline)),
        hooks_waiting: drain.hooks_waiting(),
        until: until(drain.contract.until).to_owned(),
        waiting_for,
        settle: progress.settle,
        last_call: last_call(progress.audience, &view, progress.unable),
        counts: Counts {
            open: view.open as u64,
            in_flight: view.in_flight.saturating_sub(view.doubt).saturating_sub(view.flows) as u64,
            idle: view.idle as u64,
            closing: view.closing as u64,
            vanished: view.vanished as u64,
            doubt: view.doubt as u64,
            flows: view.flows as u64,
        },
        known: KnownCounts {
            seen: view.seen as u64,
            inferred: view.inferred as u64,
            doubt: view.doubt as u64,
        },
        outcome: progress.verdict.as_ref().map(|v| super::telling::as_label(v.outcome)),
        connections: lines.iter().take(MAX_LINES).map(|l| connection(l, now)).collect(),
        connections_left_out: left_out,
    }
}

fn connection(line: &Line, now: Moment) -> ConnectionStatus {
    let ago = |at: Option<Moment>| at.map(|at| seconds(now.since(at)));
    ConnectionStatus {
        peer: line.peer,
        local: line.local,
        protocol: match line.transport {
            Transport::Udp => "udp".to_owned(),
            Transport::Tcp => line.protocol.to_owned(),
        },
        state: match (line.state, line.known) {
            (State::InFlight, Known::Doubt) => ConnectionState::Doubt,
            (State::InFlight, _) => ConnectionState::InFlight,
            (State::Idle, _) => ConnectionState::Idle,
            (State::Closing, _) => ConnectionState::Closing,
            (State::Vanished, _) => ConnectionState::Vanished,
        },
        since_seconds: ago(line.opened),
        last_in_seconds: ago(line.last_in),
        last_out_seconds: ago(line.last_out),
        known: match line.known {
            Known::Seen => KnownStatus::Seen,
            Known::Inferred => KnownStatus::Inferred,
            Known::Doubt => KnownStatus::Doubt,
        },
        told_seconds: ago(line.call.and_then(Call::told)),
        last_call: line.call.map(|call| call.to_string()),
        why: match line.redirected_to {
            Some(port) => format!("{} (redirected to port {port})", line.reason),
            None => line.reason.to_string(),
        },
    }
}

fn last_call(audience: Audience, view: &View, unable: Option<String>) -> Option<LastCallStatus> {
    let ports = match audience {
        Audience::Nobody => return None,
        Audience::HttpPorts => "http",
        Audience::EveryPort => "all",
    };
    let (told, left, stayed) = (view.told, view.told_left, view.told_stayed);
    Some(LastCallStatus { ports: ports.to_owned(), told, left, stayed, unable })
}

fn until(until: Until) -> &'static str {
    match until {
        Until::Auto => "auto",
        Until::Closed => "closed",
        Until::Idle => "idle",
        Until::Settled => "settled",
    }
}
