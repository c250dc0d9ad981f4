//! How long the pod has to be quiet.

use std::time::Duration;

use proptest::prelude::*;

use super::histories::circumstances;
use crate::{
    cluster::Exposure,
    contract::Contract,
    drain::{
        policy::tests::model::World,
        policy::{Circumstances, Settle, Why, floor, settle},
    },
    ledger::View,
    moment::Moment,
};

const KINDS: [Exposure; 6] = [
    Exposure::None,
    Exposure::Cluster,
    Exposure::Unknown,
    Exposure::LocalLast,
    Exposure::Headless,
    Exposure::LoadBalancerIp,
];

fn of(exposure: Exposure, rate: Option<f64>) -> Circumstances {
    let world = World::new(Moment(1_000_000_000_000), false, 8, false);
    Circumstances { exposure, openings_per_second: rate, ..circumstances(&world, true) }
}

fn default(a: &Circumstances) -> Settle {
    settle(&Contract::default(), a, &View::default())
}

fn seconds(s: Settle) -> (f64, f64) {
    let round = |d: Duration| (d.as_secs_f64() * 100.0).round() / 100.0;
    (round(s.floor), round(s.window))
}

#[test]
fn floors_and_windows_by_kind_and_rate() {
    use Exposure::{Cluster, Headless, LoadBalancerIp, LocalLast, None as NoService, Unknown};
    // (kind, λ) → (floor, window, what is said)
    type Row = (Exposure, Option<f64>, (f64, f64), &'static str);
    let rows: &[Row] = &[
        (Cluster, Some(50.0), (2.0, 2.0), "2 s of silence: 50.0 connections/s prove it"),
        (Cluster, Some(1.5), (3.07, 3.07), "3.1 s of silence: 1.5 connections/s prove it"),
        (Cluster, Some(0.3), (5.0, 5.0), "5 s: 0.3 connections/s, silence proves nothing"),
        (Cluster, Some(0.0), (5.0, 5.0), "5 s: 0.0 connections/s, silence proves nothing"),
        (Cluster, None, (5.0, 5.0), "5 s: not known how often connections came"),
        (NoService, Some(50.0), (2.0, 2.0), "2 s: no Service"),
        (NoService, None, (2.0, 2.0), "2 s: no Service"),
        (Unknown, Some(1.0), (10.0, 4.61), "10 s: the kind of Service is not known"),
        (
            LocalLast,
            Some(50.0),
            (15.0, 2.0),
            "15 s: externalTrafficPolicy Local, and the last ready endpoint of the node",
        ),
        (Headless, Some(50.0), (30.0, 2.0), "30 s: a headless Service, DNS answers live on"),
        (LoadBalancerIp, Some(50.0), (30.0, 2.0), "30 s: a load balancer that targets the pod"),
        (LoadBalancerIp, Some(0.1), (30.0, 30.0), "30 s: a load balancer that targets the pod"),
    ];
    for (kind, rate, expected, said) in rows {
        let s = default(&of(*kind, *rate));
        assert_eq!(seconds(s), *expected, "{kind:?} {rate:?}");
        assert_eq!(s.to_string(), *said);
    }
}

#[test]
fn probes_and_health_checks_are_no_noise() {
    let a = Circumstances { probes_per_second: 0.2, ..of(Exposure::Cluster, Some(5.0)) };
    let view = View { health_per_second: 4.0, ..View::default() };
    assert_eq!(settle(&Contract::default(), &a, &view).per_second.map(|r| (r * 10.0).round()), Some(8.0));
    let view = View { health_per_second: 9.0, ..view };
    let s = settle(&Contract::default(), &a, &view);
    assert_eq!((s.per_second, seconds(s)), (Some(0.0), (5.0, 5.0)), "never negative");
    let a = Circumstances { noise_per_second: 8.5, ..of(Exposure::Cluster, Some(9.0)) };
    let s = settle(&Contract::default(), &a, &View { health_per_second: 3.0, ..view });
    assert_eq!((s.per_second, seconds(s)), (Some(0.5), (5.0, 5.0)), "what was measured holds, not the sum");
}

#[test]
fn clients_that_were_sent_away_prove_it_for_cluster_services_alone() {
    let told = |kind| Circumstances { others_ready: Some(2), ..of(kind, Some(0.0)) };
    let missed =
        |a: &Circumstances, missed| settle(&Contract::default(), a, &View { missed, ..View::default() });
    let cluster = told(Exposure::Cluster);
    let enough = missed(&cluster, 12);
    assert_eq!(seconds(enough), (2.0, 1.0), "(2/3)^12 is less than 1 %, (2/3)^11 is not");
    assert_eq!(enough.to_string(), "1 s of silence: clients that were sent away do not come back");
    assert_eq!(seconds(missed(&cluster, 11)), (5.0, 5.0));
    assert_eq!(seconds(missed(&told(Exposure::Headless), 1000)), (30.0, 30.0));
    let alone = Circumstances { others_ready: Some(0), ..cluster };
    assert_eq!(seconds(missed(&alone, 5)), (2.0, 1.0), "where else could they have gone");
    assert_eq!(seconds(missed(&alone, 4)), (5.0, 5.0));
    let noisy = Circumstances { openings_per_second: Some(1.5), ..cluster };
    assert_eq!(seconds(missed(&noisy, 12)), (2.0, 1.0), "whichever proves it sooner");
    assert_eq!(seconds(missed(&noisy, 11)), (3.07, 3.07));
    let unknown = Circumstances { others_ready: None, ..cluster };
    assert_eq!(seconds(missed(&unknown, 1000)), (5.0, 5.0), "one in how many?");
    let blind = Circumstances { observed_by_kernel: false, ..cluster };
    assert_eq!(seconds(missed(&blind, 1000)), (5.0, 5.0), "nobody would see them come back");
}

#[test]
fn a_floor_that_does_not_fit_is_said_unless_it_is_a_guess() {
    let exceeds = |kind, within| default(&of(kind, None)).exceeds(Duration::from_secs(within));
    assert!(exceeds(Exposure::Headless, 29) && !exceeds(Exposure::Headless, 30));
    assert!(exceeds(Exposure::Cluster, 4) && !exceeds(Exposure::Cluster, 5));
    assert!(!exceeds(Exposure::Unknown, 1), "the Service has not been looked at yet");
    let asked = Contract { settle: Some(Duration::from_secs(40)), ..Contract::default() };
    let asked = settle(&asked, &of(Exposure::Unknown, None), &View::default());
    assert!(asked.exceeds(Duration::from_secs(39)), "what the hook asks for is no guess");
}

#[test]
fn nobody_watching_is_no_silence() {
    let a = Circumstances { observed_by_kernel: false, ..of(Exposure::Cluster, Some(50.0)) };
    assert_eq!(default(&a).to_string(), "5 s: no program watches for new connections");
}

#[test]
fn what_the_hook_asks_for_replaces_the_floor_but_not_the_clusters_minimum() {
    let ask = |s, min, kind, rate| {
        let contract = Contract { settle: Some(Duration::from_secs(s)), ..Contract::default() };
        let a = Circumstances { min_settle: Duration::from_secs(min), ..of(kind, rate) };
        settle(&contract, &a, &View::default())
    };
    assert_eq!(seconds(ask(8, 0, Exposure::Cluster, Some(50.0))), (8.0, 2.0), "λ does not undercut it");
    assert_eq!(seconds(ask(8, 0, Exposure::Headless, None)), (8.0, 8.0));
    assert_eq!(seconds(ask(0, 0, Exposure::Headless, Some(50.0))), (0.0, 0.0));
    let s = ask(1, 3, Exposure::Cluster, None);
    assert_eq!((seconds(s), s.to_string().as_str()), ((3.0, 3.0), "3 s: the cluster's minimum"));
    let minimum = Circumstances { min_settle: Duration::from_secs(4), ..of(Exposure::Cluster, Some(50.0)) };
    assert_eq!(seconds(default(&minimum)), (4.0, 2.0));
    let minimum = Circumstances { min_settle: Duration::from_secs(7), ..minimum };
    assert_eq!(default(&minimum).to_string(), "7 s: the cluster's minimum");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bounds(
        kind in prop::sample::select(KINDS.to_vec()),
        rate in prop::option::of(prop_oneof![Just(0.0), Just(f64::INFINITY), Just(f64::NAN), Just(1e-300), -5.0..500.0_f64]),
        noise in prop_oneof![Just(0.0), -1.0..10.0_f64],
        asked in prop::option::of(0..60_u64),
        min in 0..20_u64,
        observed in any::<bool>(),
        (others, missed) in (prop::option::of(0..20_usize), 0..100_usize),
        last_new in prop::option::of(0..100_u64),
    ) {
        let a = Circumstances {
            probes_per_second: noise,
            min_settle: Duration::from_secs(min),
            observed_by_kernel: observed,
            others_ready: others,
            ..of(kind, rate)
        };
        let contract = Contract { settle: asked.map(Duration::from_secs), ..Contract::default() };
        let view = View { last_new: last_new.map(|s| a.began + Duration::from_secs(s)), missed, ..View::default() };
        let s = settle(&contract, &a, &view);
        let usual = contract.settle.unwrap_or(floor(kind)).max(a.min_settle);
        prop_assert!(s.floor <= usual && s.window <= usual);
        prop_assert!(s.floor >= a.min_settle, "the cluster's minimum binds");
        let shortest = Duration::from_secs(if s.why == Why::LastCallProves { 1 } else { 2 });
        prop_assert!(s.window >= shortest.min(usual));
        if kind != Exposure::Cluster || asked.is_some() {
            prop_assert_eq!(s.floor, usual, "binds whatever the rate");
        }
        let settled = s.settled(a.began, &view);
        prop_assert!(settled >= a.began + s.floor);
        prop_assert!(settled >= view.last_new.unwrap_or(a.began) + s.window);
    }
}
