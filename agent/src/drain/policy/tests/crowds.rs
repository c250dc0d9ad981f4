//! A closed loop of clients: what becomes of it when they are told to leave, when they do not listen, when
//! they cannot be told.

use std::time::Duration;

use super::{
    histories::circumstances,
    model::{HTTP, Report, World},
};
use crate::{
    contract::{Audience, Contract},
    drain::policy::{Decision, Outcome, decide},
    ledger::Ledger,
    moment::Moment,
};

const CLIENTS: usize = 6;
const TICK: Duration = Duration::from_millis(10);

/// What the clients do, and what the kernel can do.
#[derive(Clone, Copy)]
struct Crowd {
    /// The last call is on, as far as the agent knows.
    on: bool,
    /// The kernel tells them.
    tells: bool,
    /// Of so many who are told, one goes on.
    one_stays_of: Option<usize>,
    /// Ticks that an answer takes.
    work: usize,
}

/// How the drain ends, and after how long.
fn ends(crowd: Crowd) -> (Outcome, usize, f64) {
    let mut world = World::new(Moment(1_000_000_000_000), false, 64, false);
    world.tells = crowd.tells;
    world.recognised = true;
    for i in 0..CLIENTS {
        world.opens(HTTP, None);
        world.asks(i, true);
        world.pass(Duration::from_millis(20));
    }
    world.attach();
    world.pass(Duration::from_nanos(1));
    let mut ledger = Ledger::new(world.now);
    ledger.ports(&World::ports());
    ledger.tell(if crowd.on { Audience::HttpPorts } else { Audience::Nobody });
    let contract = Contract::default();
    let at = circumstances(&world, true);
    let began = world.now;
    let give = |world: &mut World, ledger: &mut Ledger, report: Report| match report {
        Report::Table { at, entries, pod } => ledger.table(at, &entries, &pod),
        Report::Dump(dump) => {
            let stale = ledger.dump(&dump);
            world.deletes(&stale);
        }
    };
    let dump = world.dump();
    give(&mut world, &mut ledger, dump);
    for tick in 1.. {
        world.pass(TICK);
        for i in (0..CLIENTS).filter(|i| (tick + i) % crowd.work == 0) {
            world.answers(i, 1);
            world.acks(i);
            let obeys = crowd.one_stays_of.is_none_or(|n| i % n != 0);
            if world.is_told(i) && obeys {
                world.client_closes(i);
                world.server_closes(i);
                world.acks(i);
            } else {
                world.asks(i, true);
            }
        }
        let report = world.reads();
        give(&mut world, &mut ledger, report);
        let mut decision = decide(&contract, &at, &ledger.view(world.now, &contract), world.now);
        if decision == Decision::Confirm || tick % 100 == 0 {
            world.pass(Duration::from_nanos(1));
            let report = world.dump();
            give(&mut world, &mut ledger, report);
            world.pass(Duration::from_nanos(1));
            let report = world.reads();
            give(&mut world, &mut ledger, report);
            decision = decide(&contract, &at, &ledger.view(world.now, &contract), world.now);
        }
        if let Decision::Answer(verdict) = decision {
            return (verdict.outcome, verdict.awaited, world.now.since(began).as_secs_f64());
        }
    }
    unreachable!("the deadline answers")
}

const CROWD: Crowd = Crowd { on: true, tells: true, one_stays_of: None, work: 20 };

#[test]
fn who_is_told_goes_and_the_pod_drains() {
    let (outcome, _, after) = ends(CROWD);
    assert_eq!(outcome, Outcome::Drained);
    assert!(after < 2.5, "settled after 2 s, and then {after} s");
    // However long an answer takes: the one that tells is waited for, beyond any patience.
    let (outcome, _, after) = ends(Crowd { work: 700, ..CROWD });
    assert!(outcome == Outcome::Drained && after > 7.0, "{outcome} after {after} s");
}

#[test]
fn without_a_last_call_the_loop_is_given_up() {
    let (outcome, awaited, after) = ends(Crowd { on: false, tells: false, ..CROWD });
    assert_eq!((outcome, awaited), (Outcome::Busy, CLIENTS));
    assert!((7.0..12.1).contains(&after), "settled, patience, an instant without work or patience: {after}");
}

#[test]
fn a_last_call_that_does_not_work_costs_no_more_than_none() {
    let (_, _, none) = ends(Crowd { on: false, tells: false, ..CROWD });
    let (outcome, awaited, after) = ends(Crowd { tells: false, ..CROWD });
    assert_eq!((outcome, awaited), (Outcome::Busy, CLIENTS), "nobody could be told");
    assert!(after <= none + 0.1, "{after} s instead of {none}");
    let (outcome, awaited, after) = ends(Crowd { one_stays_of: Some(1), ..CROWD });
    assert_eq!((outcome, awaited), (Outcome::Busy, CLIENTS), "nobody listens");
    assert!(after <= none + 0.1, "{after} s instead of {none}");
    let (outcome, awaited, after) = ends(Crowd { one_stays_of: Some(3), ..CROWD });
    assert_eq!((outcome, awaited), (Outcome::Busy, 2), "two of six stay");
    assert!(after <= none + 0.1, "{after} s instead of {none}");
}
