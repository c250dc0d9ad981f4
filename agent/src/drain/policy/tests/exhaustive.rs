//! Two connections, every order of a few events: a small model, looked at completely.
//!
//! After each event the agent asks, confirms if told to, and asks again. "drained" must never meet a
//! connection in flight, and must be reached in some order at least: a model that never drains proves
//! nothing.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use super::{
    histories::circumstances,
    model::{HTTP, InFlight, Report, SQL, World},
};
use crate::{
    contract::{Audience, Contract},
    drain::policy::{Circumstances, Decision, Outcome, decide},
    ledger::Ledger,
    moment::Moment,
};

#[derive(Clone, Copy, Debug)]
enum Event {
    Opens,
    Asks(usize),
    Answers(usize, u8),
    Sends(usize),
    Acks(usize),
    ClientCloses(usize),
    ServerCloses(usize),
    GoesSilently(usize),
    /// The agent reads the table.
    Reads,
    /// The agent dumps the sockets.
    Dumps,
    /// A dump is made now and arrives later.
    DumpIsDelayed,
    DelayedArrives,
    /// Less than a tick, more than `idle-after`.
    Passes(u64),
}

const GLOBAL: [Event; 7] = [
    Event::Opens,
    Event::Reads,
    Event::Dumps,
    Event::DumpIsDelayed,
    Event::DelayedArrives,
    Event::Passes(2),
    Event::Passes(1200),
];

fn events() -> Vec<Event> {
    let of = |i| {
        [
            Event::Asks(i),
            Event::Answers(i, 1),
            Event::Answers(i, 2),
            Event::Sends(i),
            Event::Acks(i),
            Event::ClientCloses(i),
            Event::ServerCloses(i),
            Event::GoesSilently(i),
        ]
    };
    GLOBAL.into_iter().chain(of(0)).chain(of(1)).collect()
}

#[derive(Clone)]
struct Node {
    world: World,
    ledger: Ledger,
    delayed: Option<Report>,
    /// The truth when the latest dump was made.
    dumped_with: InFlight,
}

struct Search {
    contract: Contract,
    at: Circumstances,
    events: Vec<Event>,
    redirect: bool,
    seen: HashSet<u64>,
    drained: usize,
    nodes: usize,
}

impl Node {
    fn give(&mut self, report: &Report) {
        match report {
            Report::Table { at, entries, pod } => self.ledger.table(*at, entries, pod),
            Report::Dump(dump) => {
                let stale = self.ledger.dump(dump);
                self.world.deletes(&stale);
            }
        }
    }

    fn read(&mut self) {
        self.world.pass(Duration::from_nanos(1));
        let report = self.world.reads();
        self.give(&report);
    }

    fn dump(&mut self) {
        self.world.pass(Duration::from_nanos(1));
        self.dumped_with = self.world.in_flight();
        let report = self.world.dump();
        self.give(&report);
    }

    /// False where the event changes nothing: no need to look further that way.
    fn step(&mut self, event: Event) -> bool {
        let before = format!("{:?}", self.world.conns);
        self.world.pass(Duration::from_nanos(1));
        match event {
            Event::Opens if self.world.conns.len() < 2 => self.world.opens(HTTP, None),
            Event::Asks(i) => self.world.asks(i, false),
            Event::Answers(i, pieces) => self.world.answers(i, pieces),
            Event::Sends(i) => self.world.sends(i),
            Event::Acks(i) => self.world.acks(i),
            Event::ClientCloses(i) => self.world.client_closes(i),
            Event::ServerCloses(i) => self.world.server_closes(i),
            Event::GoesSilently(i) => self.world.goes_silently(i),
            Event::Reads => self.read(),
            Event::Dumps => self.dump(),
            Event::DumpIsDelayed if self.delayed.is_none() => self.delayed = Some(self.world.dump()),
            Event::DelayedArrives => match self.delayed.take() {
                Some(report) => self.give(&report),
                None => return false,
            },
            Event::Passes(ms) => self.world.pass(Duration::from_millis(ms)),
            Event::Opens | Event::DumpIsDelayed => return false,
        }
        let happens_to_the_agent = matches!(
            event,
            Event::Reads | Event::Dumps | Event::DumpIsDelayed | Event::DelayedArrives | Event::Passes(_)
        );
        happens_to_the_agent || before != format!("{:?}", self.world.conns)
    }
}

impl Search {
    fn ask(&self, node: &Node) -> Decision {
        let view = node.ledger.view(node.world.now, &self.contract);
        decide(&self.contract, &self.at, &view, node.world.now)
    }

    /// The agent looks, and is believed.
    fn check(&mut self, node: &Node, path: &[Event]) {
        let mut node = node.clone();
        // What it says with the reads it has, which may be old, must hold as well as with a new one.
        for read in [false, true] {
            if read {
                node.read();
            }
            let mut decision = self.ask(&node);
            if decision == Decision::Confirm {
                node.dump();
                node.read();
                decision = self.ask(&node);
            }
            if let Decision::Answer(verdict) = decision
                && verdict.outcome == Outcome::Drained
                && (read || node.ledger.view(node.world.now, &self.contract).read_at == Some(node.world.now))
            {
                self.drained += 1;
                let mut truth = node.world.in_flight();
                if self.redirect {
                    // Such a request shows when the pod acknowledges it, or in the next dump.
                    truth.retain(|c| node.dumped_with.contains(c));
                }
                assert!(truth.is_empty(), "drained with {truth:?} after {path:?}: {:#?}", node.world);
            }
        }
    }

    fn descend(&mut self, node: &Node, path: &mut Vec<Event>, depth: usize) {
        self.nodes += 1;
        self.check(node, path);
        if depth == 0 {
            return;
        }
        for event in self.events.clone() {
            let mut next = node.clone();
            if !next.step(event) {
                continue;
            }
            if depth > 1 {
                // Two orders that lead to the same state have the same future.
                let mut hasher = DefaultHasher::new();
                (format!("{:?} {:?}", next.world, next.delayed), depth).hash(&mut hasher);
                format!("{:?}", next.ledger.view(next.world.now, &self.contract)).hash(&mut hasher);
                if !self.seen.insert(hasher.finish()) {
                    continue;
                }
            }
            path.push(event);
            self.descend(&next, path, depth - 1);
            path.pop();
        }
    }
}

fn search(redirect: bool, wire: u16, asked: bool, depth: usize) -> (usize, usize) {
    let mut world = World::new(Moment(1_000_000_000_000), redirect, 8, false);
    world.opens(wire, None);
    world.pass(Duration::from_millis(50));
    if asked {
        world.asks(0, true);
        world.pass(Duration::from_millis(50));
    }
    world.attach();
    world.pass(Duration::from_nanos(1));
    // Every answer that can tells its client to leave, which must make nobody believe in an early end.
    world.tells = true;
    world.recognised = true;
    let mut ledger = Ledger::new(world.now);
    ledger.ports(&World::ports());
    ledger.tell(Audience::EveryPort);
    let contract = Contract {
        settle: Some(Duration::ZERO),
        doubt_after: Duration::from_secs(1000),
        ..Contract::default()
    };
    let at = circumstances(&world, true);
    let mut search =
        Search { contract, at, events: events(), redirect, seen: HashSet::new(), drained: 0, nodes: 0 };
    search.descend(
        &Node { world, ledger, delayed: None, dumped_with: InFlight::new() },
        &mut Vec::new(),
        depth,
    );
    (search.nodes, search.drained)
}

#[test]
fn no_order_of_events_drains_while_something_is_in_flight() {
    let mut total = 0;
    for redirect in [false, true] {
        for (wire, asked) in [(HTTP, false), (HTTP, true), (SQL, false)] {
            let (nodes, drained) = search(redirect, wire, asked, DEPTH);
            assert!(drained > 0, "never drained: redirect {redirect}, port {wire}, asked {asked}");
            total += nodes;
        }
    }
    println!("{total} states");
}

/// Events in a row.
const DEPTH: usize = 4;
