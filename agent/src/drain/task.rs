//! The task that runs one drain: look, ask the policy, sleep until something changes.
//!
//! In: edge events, the sources' news, timers, hooks. Out: the verdict, then what came after it. From
//! the last close to the verdict there is no interval: the kernel's event wakes the task, one dump
//! confirms, the policy decides.

use std::{sync::Arc, time::Duration};

use lastcall_ebpf::abi::TCP;

use super::{
    Drain, Happened, Services, Verdict,
    announced::Tally,
    evidence::Stop,
    eyes::{Eyes, POLL, RECONCILE, Table, link_change},
    noise::Noise,
    openings::Openings,
    place::{self, Place},
    policy::{self, Circumstances, Decision, Dumps, Outcome, Waiting},
    verdict,
};
use crate::{
    cluster::{Exposure, PodFacts, Transport},
    contract::Audience,
    ledger::{Stale, View},
    moment::Moment,
    sockets::{Dump, LinkEvents, Namespace, Socket, TcpState},
};

mod tell;

/// A table that took this long to read is read again no sooner than ten times later, unless nothing is
/// open any more: at most a tenth of a processor goes into one pod.
const READ_SHARE: u32 = 10;
/// One dump confirms, a second where something moved meanwhile. More than this in a row means that no
/// dump will, and then they come as seldom as a poll.
const ENOUGH_CONFIRMS: u32 = 8;

pub(super) async fn run(drain: &Arc<Drain>, services: Arc<Services>) {
    drain.happened(&Happened::Began);
    drain.predecessor_over().await;
    let namespace = match place::find(drain, &services).await {
        Place::Here(namespace) => namespace,
        Place::Gone => {
            return verdict::blind(drain, Outcome::Gone, "the pod has no network namespace on this node");
        }
        Place::Unknown(why) => return verdict::blind(drain, Outcome::Deadline, &why),
    };
    let facts = drain.identity().facts;
    let links = namespace.link_events().await.inspect_err(|e| {
        tracing::warn!(error = %crate::causes(e), "{drain}: changes of its links will not be noticed");
    });
    let audience = drain.audience(services.last_call, facts.as_deref());
    let eyes = Eyes::open(Arc::clone(&services), drain, namespace.clone(), facts.as_deref(), audience).await;
    drain.ledger().attached_again(Moment::now());
    drain.ledger().ignore(&services.ignored);
    drain.ledger().tell(audience);
    if namespace.is_node() {
        drain.ledger().shared();
    }
    let rate = services.rates.rate(&namespace).await.ok().flatten().map(|r| r.per_second());
    let mut task = Task {
        stop: Stop::watch(drain, services.witnesses.as_ref()),
        drain: Arc::clone(drain),
        services,
        namespace,
        eyes,
        links: links.ok(),
        facts: None,
        was_known: false,
        openings_per_second: rate,
        noise: Noise::default(),
        audience,
        tally: Tally::default(),
        others_ready: None,
        openings: Openings::default(),
        dumped_at: None,
        listening: Vec::new(),
        settled_at: None,
        woken: false,
        nobody_listens: false,
        dumps: Dumps::Possible,
        waited: View::default(),
        unfit: false,
    };
    task.learn();
    if let Some(verdict) = task.until_decided().await {
        task.afterwards(&verdict).await;
    }
    task.eyes.close().await;
}

struct Task {
    drain: Arc<Drain>,
    /// Whether it is the pod's end, where no deletion says so.
    stop: Stop,
    services: Arc<Services>,
    namespace: Namespace,
    eyes: Eyes,
    links: Option<LinkEvents>,
    facts: Option<Arc<PodFacts>>,
    was_known: bool,
    openings_per_second: Option<f64>,
    noise: Noise,
    /// At which ports clients are told to leave.
    audience: Audience,
    tally: Tally,
    /// The most endpoints that were ever ready beside the pod: a client that was sent away may have chosen
    /// among so many.
    others_ready: Option<usize>,
    openings: Openings,
    dumped_at: Option<Moment>,
    listening: Vec<(u16, u8)>,
    /// When settling ended, or will if nothing new comes.
    settled_at: Option<Moment>,
    /// The kernel's event was the last thing that woke the task.
    woken: bool,
    /// Nothing is left that could take a connection.
    nobody_listens: bool,
    dumps: Dumps,
    /// How things stood before the first connection ended of which no payload had been seen.
    waited: View,
    /// It was said that routing takes longer to settle than the grace leaves.
    unfit: bool,
}

impl Task {
    /// Looks until the policy answers. `None`: a restart, after which nothing is watched.
    async fn until_decided(&mut self) -> Option<Arc<Verdict>> {
        let mut changes = self.services.cluster.subscribe();
        self.dump().await;
        let mut confirms = 0;
        loop {
            self.announce().await;
            let read_from = Moment::now();
            self.read();
            let now = Moment::now();
            let read_took = now.since(read_from);
            let (decision, view, circumstances) = self.decide(now);
            let wait_until = match decision {
                Decision::Confirm => {
                    confirms += 1;
                    if confirms > ENOUGH_CONFIRMS {
                        tokio::time::sleep(POLL).await;
                    }
                    self.dump().await;
                    continue;
                }
                Decision::Answer(verdict) => {
                    let verdict = self.conclude(&verdict, view, &circumstances, now);
                    return (verdict.outcome != Outcome::Restart).then_some(verdict);
                }
                Decision::Wait { until, why } => {
                    if let Waiting::Settling(_) = why {
                        self.settled_at = Some(until);
                    }
                    if view.silent_ends == self.waited.silent_ends {
                        self.waited = view;
                    }
                    self.warn_if_unfit(&view, &circumstances);
                    self.publish(&view, &circumstances, why.to_string());
                    confirms = 0;
                    until
                }
            };
            let next_dump = self.dumped_at.map_or(now, |at| at + self.dump_interval());
            let resample = view.resample.map_or(wait_until, |d| now + d);
            let timer = wait_until.min(next_dump).min(resample);
            let rest = now + read_took * READ_SHARE;
            let wake = Arc::clone(&self.drain.wake);
            // Where a close asks for a dump that has to wait its turn, the close is still what came last.
            let due = wait_until <= now + policy::LOOK_AGAIN;
            self.woken &= due && view.awaited > 0 && view.awaited_by_dump == view.awaited;
            tokio::select! {
                biased;
                () = wake.empty.notified() => self.woken = true,
                () = self.namespace.gone() => self.nobody_listens = true,
                () = self.stop.changed() => {}
                names = changes.next() => {
                    if self.drain.name().is_none_or(|name| names.contains(&name)) {
                        self.learn();
                    }
                }
                () = link_change(&mut self.links) => {
                    self.eyes.look_at_links(&self.drain).await;
                    self.drain.ledger().attached_again(Moment::now());
                    self.dump().await;
                }
                () = async {
                    tokio::time::sleep_until(rest.instant()).await;
                    wake.removed.notified().await;
                } => self.woken = true,
                () = tokio::time::sleep_until(timer.instant()) => {}
            }
            if Moment::now() >= next_dump {
                self.dump().await;
            }
        }
    }

    fn dump_interval(&self) -> Duration {
        if self.eyes.by_kernel() { RECONCILE } else { POLL }
    }

    /// What the sources say now.
    fn learn(&mut self) {
        let identity = self.drain.identity();
        let cluster = &self.services.cluster;
        let facts = match &identity.facts {
            Some(known) => cluster.pod(&known.name).filter(|f| known.uid.is_empty() || f.uid == known.uid),
            None => identity.addresses.iter().find_map(|a| cluster.by_address(*a)),
        };
        if let Some(facts) = &facts {
            self.was_known = true;
            self.drain.learn(Some(Arc::clone(facts)), []);
            self.others_ready = self.others_ready.max(facts.others_ready);
            self.drain.ledger().ports(&facts.ports);
            self.eyes.set_ports(&self.drain, Some(&facts.ports), &self.listening);
            self.eyes.add_health_paths(&self.drain, facts.health_paths.iter().map(String::as_str));
        }
        self.facts = facts;
    }

    /// The kernel's table into the ledger.
    fn read(&mut self) -> Option<Table> {
        let table = self.eyes.read(&self.drain).filter(|_| self.eyes.by_kernel());
        let mut ledger = self.drain.ledger();
        match &table {
            Some(t) => {
                ledger.table(t.at, &t.entries, &t.pod);
                let expired = ledger.expired(t.at, &self.drain.contract);
                let stayed = ledger.stayed();
                drop(ledger);
                self.remove(t, &expired);
                self.count_announced(&t.pod, stayed);
            }
            None => ledger.unobserved(),
        }
        table
    }

    fn remove(&self, table: &Table, stale: &[Stale]) -> u64 {
        let keys: Vec<_> = stale.iter().map(|s| s.key).collect();
        if keys.is_empty() { 0 } else { self.eyes.remove_stale(table, &keys) }
    }

    /// A dump into the ledger; entries that it proves gone out of the table.
    async fn dump(&mut self) {
        self.dumped_at = Some(Moment::now());
        self.eyes.announce(&self.drain).await;
        let Some(dump) = self.eyes.dump(&self.drain).await else {
            self.dumps = Dumps::Failing;
            return;
        };
        if dump.sockets.is_empty() && self.namespace.passive_opens().await.is_ok_and(|n| n == 0) {
            // A sandboxed pod (gVisor, Kata) has its sockets elsewhere: no dump proves anything of it. Or a
            // pod that has never listened, for which the table is enough as well.
            self.dumps = Dumps::Impossible;
            self.look_for_listeners(&dump).await;
            self.nobody_listens = false;
            return;
        }
        self.dumps = Dumps::Possible;
        self.listen_for_noise().await;
        self.count_openings().await;
        self.look_for_listeners(&dump).await;
        let probes = self.eyes.probes(&dump, &self.wire_ports());
        let stale = {
            let mut ledger = self.drain.ledger();
            ledger.probes(probes);
            ledger.dump(&dump)
        };
        if !stale.is_empty()
            && let Some(table) = self.read()
        {
            let removed = self.remove(&table, &stale);
            if removed > 0 {
                self.drain.happened(&Happened::Corrected(removed));
            }
        }
    }

    /// TCP ports that clients, and probes, know the pod by.
    fn wire_ports(&self) -> Vec<u16> {
        let declared = self.facts.iter().flat_map(|f| &f.ports).filter(|p| p.transport == Transport::Tcp);
        let listening = self.listening.iter().filter(|(_, protocol)| *protocol == TCP).map(|(port, _)| *port);
        declared.map(|p| p.port).chain(listening).collect()
    }

    /// Which of the openings were no client's.
    async fn listen_for_noise(&mut self) {
        let (Some(pod), Ok(opens)) = (self.counters(), self.namespace.passive_opens().await) else { return };
        self.noise.read(Moment::now(), opens, pod.new_connections);
    }

    /// Openings of a pod that is polled. The node's own namespace counts everybody's.
    async fn count_openings(&mut self) {
        if self.eyes.by_kernel() || self.namespace.is_node() {
            return;
        }
        let Ok(opens) = self.namespace.passive_opens().await else { return };
        let probes = self.facts.as_ref().map_or(0.0, |f| f.probes_per_second);
        self.openings.read(Moment::now(), opens, probes);
    }

    async fn look_for_listeners(&mut self, dump: &Dump) {
        let named = self.facts.as_ref().is_some_and(|f| !f.ports.is_empty());
        let nothing = !dump.sockets.iter().any(|s| s.state == TcpState::Listen || is_owned(s));
        if named && !nothing {
            self.nobody_listens = false;
            return;
        }
        let listening = self.eyes.listening(dump).await;
        self.nobody_listens = nothing && listening.is_empty() && !self.namespace.is_node();
        if !named && listening != self.listening {
            self.eyes.set_ports(&self.drain, None, &listening);
            self.listening = listening;
        }
    }

    /// When the grace, as far as it is known, asks for an answer.
    fn deadline(&self) -> Moment {
        let known = self.facts.clone().or_else(|| self.drain.identity().facts);
        let bounds = &self.services.bounds;
        let end = self.facts.as_ref().and_then(|f| f.terminating.as_ref());
        let grace = policy::Grace {
            deletion: end.and_then(|e| e.grace),
            termination: known.as_ref().and_then(|f| f.termination_grace),
            unknown: bounds.default_grace,
            shutdown: bounds.node_shutdown.filter(|_| self.stop.is_shutdown()),
            max_drain: bounds.max_drain,
            ..policy::Grace::default()
        };
        let deadline = policy::deadline(self.drain.began, &grace, self.drain.contract.reserve);
        deadline.min(self.drain.promised())
    }

    fn circumstances(&self) -> Circumstances {
        let known = self.facts.clone().or_else(|| self.drain.identity().facts);
        let end = self.facts.as_ref().and_then(|f| f.terminating.as_ref());
        let deadline = self.deadline();
        let bound = self.stop.bound().filter(|_| end.is_none());
        Circumstances {
            began: self.drain.began,
            hook_waiting: self.drain.hooks_waiting() > 0,
            deadline: bound.map_or(deadline, |bound| deadline.min(bound)),
            exposure: known.as_ref().map_or(Exposure::Unknown, |f| f.exposure),
            openings_per_second: self.openings_per_second,
            probes_per_second: known.as_ref().map_or(0.0, |f| f.probes_per_second),
            noise_per_second: self.noise.per_second(),
            min_settle: self.services.bounds.min_settle,
            others_ready: self.others_ready,
            pod_gone: self.was_known && self.facts.is_none(),
            namespace_gone: self.nobody_listens || self.namespace.is_gone(),
            restart: end.is_none() && self.stop.is_restart(),
            observed_by_kernel: self.eyes.by_kernel(),
            dumps: self.dumps,
        }
    }

    fn decide(&mut self, now: Moment) -> (Decision, View, Circumstances) {
        let circumstances = self.circumstances();
        let mut view = self.drain.ledger().view(now, &self.drain.contract);
        if !circumstances.observed_by_kernel {
            view.last_new = view.last_new.max(self.openings.last());
        }
        let decision = policy::decide(&self.drain.contract, &circumstances, &view, now);
        (decision, view, circumstances)
    }
}

/// States in which a connection can still carry something.
fn is_open(state: TcpState) -> bool {
    !matches!(state, TcpState::TimeWait | TcpState::Close | TcpState::Listen)
}

/// Somebody has it, or what was sent on it has not all arrived. A pod that has ended leaves FIN-WAIT-2
/// behind for as long as its clients keep their end.
fn is_owned(socket: &Socket) -> bool {
    is_open(socket.state) && (socket.state != TcpState::FinWait2 || socket.inode != 0)
}
