//! Any history: packets, dumps, reads, delays, duplicates, losses, in any order.
//!
//! Kept: "drained" is never said while something is in flight; every history has its answer by the
//! deadline; a wait ends later than now and not after the deadline; nothing depends on the clock's zero.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::model::{HTTP, InFlight, Report, SQL, World};
use crate::{
    cluster::Exposure,
    contract::{Audience, Contract, Until},
    drain::policy::{Circumstances, Decision, Dumps, Outcome, decide},
    ledger::Ledger,
    moment::Moment,
};

const GRACE: Duration = Duration::from_secs(30);
/// Longer than any history: whether an older connection was answered is then never taken as known by
/// mere time, which is the one thing that the design gives up on.
const NO_DOUBT_IS_RESOLVED: Duration = Duration::from_secs(1000);

#[derive(Clone, Debug)]
enum Event {
    Opens {
        sql: bool,
    },
    OpensAgain {
        of: usize,
    },
    Asks {
        of: usize,
        acked: bool,
    },
    Answers {
        of: usize,
        pieces: u8,
    },
    Sends(usize),
    Acks(usize),
    ClientCloses(usize),
    ServerCloses(usize),
    Resets(usize),
    IsReset {
        of: usize,
        forged: bool,
    },
    GoesSilently(usize),
    Vanishes(usize),
    Retransmits(usize),
    Passes(Duration),
    Reads,
    DumpBegins(u64),
    /// Perhaps interrupted, and without some of the sockets.
    DumpEnds(Option<u64>),
    /// One report arrives: the first, the last or any in between; perhaps it will arrive again.
    Arrives {
        which: usize,
        again: bool,
    },
    IsLost(usize),
    /// The agent does what it does: asks the policy and follows.
    Looks {
        deletes: bool,
        between: Option<(usize, bool)>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let of = 0..4_usize;
    let pause = prop::sample::select(vec![1_u64, 3, 9, 30, 200, 700, 1300, 4000]);
    prop_oneof![
        2 => any::<bool>().prop_map(|sql| Event::Opens { sql }),
        1 => of.clone().prop_map(|of| Event::OpensAgain { of }),
        6 => (of.clone(), any::<bool>()).prop_map(|(of, acked)| Event::Asks { of, acked }),
        5 => (of.clone(), 1..4_u8).prop_map(|(of, pieces)| Event::Answers { of, pieces }),
        3 => of.clone().prop_map(Event::Sends),
        5 => of.clone().prop_map(Event::Acks),
        2 => of.clone().prop_map(Event::ClientCloses),
        2 => of.clone().prop_map(Event::ServerCloses),
        1 => of.clone().prop_map(Event::Resets),
        1 => (of.clone(), any::<bool>()).prop_map(|(of, forged)| Event::IsReset { of, forged }),
        1 => of.clone().prop_map(Event::GoesSilently),
        1 => of.clone().prop_map(Event::Vanishes),
        1 => of.prop_map(Event::Retransmits),
        8 => pause.prop_map(|ms| Event::Passes(Duration::from_millis(ms))),
        3 => Just(Event::Reads),
        3 => any::<u64>().prop_map(Event::DumpBegins),
        3 => prop::option::weighted(0.2, any::<u64>()).prop_map(Event::DumpEnds),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Event::Arrives { which, again }),
        1 => any::<usize>().prop_map(Event::IsLost),
        6 => (any::<bool>(), prop::option::of((0..4_usize, any::<bool>())))
            .prop_map(|(deletes, between)| Event::Looks { deletes, between }),
    ]
}

#[derive(Clone, Debug)]
struct Setting {
    until: Until,
    redirect: bool,
    capacity: usize,
    /// The program was refused: dumps alone.
    observed: bool,
    before: Vec<Event>,
    settle: Duration,
    /// Clients are told to leave, as far as the kernel can.
    tells: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        prop::sample::select(vec![Until::Auto, Until::Auto, Until::Auto, Until::Closed]),
        any::<bool>(),
        prop::sample::select(vec![1_usize, 64, 64, 64]),
        prop::sample::select(vec![true, true, false]),
        prop::collection::vec(event(), 0..14),
        prop::sample::select(vec![0_u64, 0, 3]),
        any::<bool>(),
    )
        .prop_map(|(until, redirect, capacity, observed, before, settle, tells)| Setting {
            tells,
            until,
            redirect,
            capacity,
            observed,
            before,
            settle: Duration::from_secs(settle),
        })
}

/// The truth at the time of each snapshot, for the judgement of an answer.
#[derive(Default)]
struct Truth {
    reads: BTreeMap<Moment, InFlight>,
    dumps: BTreeMap<Moment, InFlight>,
}

struct Run {
    world: World,
    ledger: Ledger,
    contract: Contract,
    at: Circumstances,
    setting: Setting,
    truth: Truth,
    dump_begins_with: InFlight,
    on_the_way: Vec<Report>,
    trace: Vec<(u64, String)>,
}

impl Run {
    fn new(setting: Setting, zero: Moment) -> Self {
        let mut world = World::new(
            zero + Duration::from_secs(1000),
            setting.redirect,
            setting.capacity,
            !setting.observed,
        );
        for event in setting.before.clone() {
            happen(&mut world, &event);
        }
        // A response that pauses unseen is what ages cannot tell: it is over before anybody looks.
        for i in 0..world.conns.len() {
            while world.conns[i].to_send > 0 && world.conns[i].open && !world.conns[i].server_fin {
                let before = world.conns[i].to_send;
                world.sends(i);
                if world.conns[i].to_send == before {
                    break;
                }
            }
        }
        if setting.observed {
            world.attach();
            world.tells = setting.tells;
        }
        let contract = Contract {
            until: setting.until,
            settle: Some(setting.settle),
            doubt_after: NO_DOUBT_IS_RESOLVED,
            ..Contract::default()
        };
        world.pass(Duration::from_nanos(1));
        let mut ledger = Ledger::new(world.now);
        ledger.ports(&World::ports());
        if setting.tells {
            ledger.tell(Audience::HttpPorts);
        }
        let at = circumstances(&world, setting.observed);
        Self {
            world,
            ledger,
            contract,
            at,
            setting,
            truth: Truth::default(),
            dump_begins_with: InFlight::new(),
            on_the_way: Vec::new(),
            trace: Vec::new(),
        }
    }

    fn truth_now(&self) -> InFlight {
        match self.setting.until {
            Until::Closed => self.world.open(),
            _ => self.world.in_flight(),
        }
    }

    fn read(&mut self) -> Option<Report> {
        self.tick();
        self.truth.reads.insert(self.world.now, self.truth_now());
        self.setting.observed.then(|| self.world.reads())
    }

    fn dump_begins(&mut self, early: u64) {
        // A dump takes time: what ends by the clock ends at last.
        self.world.pass(Duration::from_micros(500));
        self.dump_begins_with = self.truth_now();
        self.world.dump_begins(early);
    }

    fn dump_ends(&mut self, lost: Option<u64>) -> Option<Report> {
        self.tick();
        let (started, report) = self.world.dump_ends(lost)?;
        let through = self.dump_begins_with.intersection(&self.truth_now()).copied().collect();
        self.truth.dumps.insert(started, through);
        Some(report)
    }

    /// No two things happen at the same nanosecond.
    fn tick(&mut self) {
        self.world.pass(Duration::from_nanos(1));
    }

    fn give(&mut self, report: &Report, deletes: bool) {
        match report {
            Report::Table { at, entries, pod } => self.ledger.table(*at, entries, pod),
            Report::Dump(dump) => {
                let stale = self.ledger.dump(dump);
                if deletes {
                    self.world.deletes(&stale);
                }
            }
        }
    }

    fn step(&mut self, event: &Event) -> Result<bool, TestCaseError> {
        self.tick();
        match event {
            Event::Reads => {
                let report = self.read();
                self.on_the_way.extend(report);
            }
            Event::DumpBegins(early) => self.dump_begins(*early),
            Event::DumpEnds(lost) => {
                let report = self.dump_ends(*lost);
                self.on_the_way.extend(report);
            }
            Event::Arrives { which, again } if !self.on_the_way.is_empty() => {
                let i = which % self.on_the_way.len();
                let report = if *again { self.on_the_way[i].clone() } else { self.on_the_way.remove(i) };
                self.give(&report, true);
            }
            Event::IsLost(which) if !self.on_the_way.is_empty() => {
                self.on_the_way.remove(which % self.on_the_way.len());
            }
            Event::Looks { deletes, between } => return self.look(*deletes, *between),
            event => happen(&mut self.world, event),
        }
        Ok(false)
    }

    /// One round of the task: read, ask; where it says so, dump, read, ask again, with a request or an
    /// answer in between. True: answered.
    fn look(&mut self, deletes: bool, between: Option<(usize, bool)>) -> Result<bool, TestCaseError> {
        if let Some(report) = self.read() {
            self.give(&report, deletes);
        }
        match self.ask()? {
            Decision::Answer(_) => return Ok(true),
            Decision::Wait { .. } => return Ok(false),
            Decision::Confirm => {}
        }
        self.dump_begins(0b0101);
        if let Some((i, true)) = between {
            self.world.asks(i, true);
            self.world.answers(i, 2);
        }
        if let Some(report) = self.dump_ends(None) {
            self.give(&report, deletes);
        }
        if let Some((i, false)) = between {
            self.world.asks(i, false);
        }
        if let Some(report) = self.read() {
            self.give(&report, deletes);
        }
        Ok(matches!(self.ask()?, Decision::Answer(_)))
    }

    fn ask(&mut self) -> Result<Decision, TestCaseError> {
        self.tick();
        let now = self.world.now;
        let view = self.ledger.view(now, &self.contract);
        let decision = decide(&self.contract, &self.at, &view, now);
        let since = |m: Moment| m.0 - self.at.began.0;
        self.trace.push((
            since(now),
            match decision {
                Decision::Wait { until, why } => format!("wait {} {why}", since(until)),
                other => format!("{other:?}"),
            },
        ));
        match decision {
            Decision::Wait { until, .. } => {
                prop_assert!(until > now, "waits into the past");
                prop_assert!(until <= self.at.deadline, "waits beyond the deadline");
            }
            Decision::Answer(verdict) if verdict.outcome == Outcome::Drained => {
                prop_assert!(now >= self.at.began + self.setting.settle, "answered before it had settled");
                let none = InFlight::new();
                let dumped = view.dump_started.and_then(|d| self.truth.dumps.get(&d)).unwrap_or(&none);
                let read = view.read_at.and_then(|r| self.truth.reads.get(&r)).unwrap_or(&none);
                let whole = self.setting.observed && !self.world.refused();
                let cut: InFlight = match (whole, self.setting.redirect) {
                    // By dumps alone: what was in flight all through the dump.
                    (false, _) => dumped.clone(),
                    // A redirected request shows when the pod acknowledges it, or in the next dump.
                    (true, true) => dumped.intersection(read).copied().collect(),
                    (true, false) => read.clone(),
                };
                prop_assert!(cut.is_empty(), "drained with {cut:?} in flight: {view:#?} {:#?}", self.world);
            }
            _ => {}
        }
        Ok(decision)
    }

    /// Nothing happens any more, and the task goes on by itself until it answers.
    fn runs_out(&mut self) -> Result<Outcome, TestCaseError> {
        let mut reconciled = self.world.now;
        for _ in 0..20_000 {
            if let Some(report) = self.read() {
                self.give(&report, true);
            }
            let decision = self.ask()?;
            let poll = !self.setting.observed || self.world.refused();
            match decision {
                Decision::Answer(verdict) => return Ok(verdict.outcome),
                Decision::Confirm => {
                    self.dump_begins(0);
                    let report = self.dump_ends(None);
                    report.iter().for_each(|r| self.give(r, true));
                }
                Decision::Wait { until, .. } => {
                    let next = reconciled + Duration::from_millis(if poll { 100 } else { 1000 });
                    self.world.now = until.min(next).max(self.world.now);
                    if self.world.now >= next {
                        reconciled = self.world.now;
                        self.dump_begins(0);
                        let report = self.dump_ends(None);
                        report.iter().for_each(|r| self.give(r, true));
                    }
                }
            }
        }
        let last = self.trace.len().saturating_sub(6);
        Err(TestCaseError::fail(format!("no answer: {:#?}", &self.trace[last..])))
    }
}

fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Opens { sql } => world.opens(if sql { SQL } else { HTTP }, None),
        Event::OpensAgain { of } => {
            if let Some(wire) = world.conns.get(of).map(|c| c.wire) {
                world.opens(wire, Some(of));
            }
        }
        Event::Asks { of, acked } => world.asks(of, acked),
        Event::Answers { of, pieces } => world.answers(of, pieces),
        Event::Sends(i) => world.sends(i),
        Event::Acks(i) => world.acks(i),
        Event::ClientCloses(i) => world.client_closes(i),
        Event::ServerCloses(i) => world.server_closes(i),
        Event::Resets(i) => world.resets(i),
        Event::IsReset { of, forged } => world.is_reset(of, forged),
        Event::GoesSilently(i) => world.goes_silently(i),
        Event::Vanishes(i) => world.vanishes(i),
        Event::Retransmits(i) => world.retransmits(i),
        Event::Passes(time) => world.pass(time),
        _ => {}
    }
}

pub(super) fn circumstances(world: &World, observed: bool) -> Circumstances {
    Circumstances {
        began: world.now,
        hook_waiting: true,
        deadline: world.now + GRACE,
        exposure: Exposure::None,
        openings_per_second: None,
        probes_per_second: 0.0,
        noise_per_second: 0.0,
        min_settle: Duration::ZERO,
        others_ready: None,
        pod_gone: false,
        namespace_gone: false,
        restart: false,
        observed_by_kernel: observed,
        dumps: Dumps::Possible,
    }
}

fn play(setting: &Setting, events: &[Event], zero: Moment) -> Result<Vec<(u64, String)>, TestCaseError> {
    let mut run = Run::new(setting.clone(), zero);
    for event in events {
        if run.step(event)? {
            return Ok(run.trace);
        }
    }
    let began = run.at.began;
    let outcome = run.runs_out()?;
    prop_assert!(run.world.now <= run.at.deadline + Duration::from_millis(1), "too late");
    // When nothing is left, and nothing but time can tell more, "drained" must come.
    let clear = run.world.in_flight().is_empty() && run.world.conns.iter().all(|c| !c.open);
    if clear && run.world.now.since(began) < GRACE / 2 {
        prop_assert_eq!(outcome, Outcome::Drained);
    }
    Ok(run.trace)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_drained_while_in_flight_and_always_an_answer(
        setting in setting(),
        events in prop::collection::vec(event(), 0..70),
    ) {
        play(&setting, &events, Moment(0))?;
    }

    #[test]
    fn the_clocks_zero_does_not_matter(
        setting in setting(),
        events in prop::collection::vec(event(), 0..40),
        // Whole jiffies, so that ties stay ties.
        shift in 0..1_000_000_000_u64,
    ) {
        let here = play(&setting, &events, Moment(0))?;
        let there = play(&setting, &events, Moment(shift * 4_000_000))?;
        prop_assert_eq!(here, there);
    }
}

/// `LASTCALL_CASES` histories, for a long night.
fn cases() -> u32 {
    std::env::var("LASTCALL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256)
}
