//! Clients that were told to leave and stay away: what is proof, against an account of its own.

use std::time::Duration;

use lastcall_ebpf::abi::{self, Connection, FlowKey, flag, protocol};
use proptest::prelude::*;

use super::{histories::circumstances, model::World};
use crate::{
    cluster::Exposure,
    contract::{Audience, Contract},
    drain::policy::{Circumstances, Why, settle},
    ledger::Ledger,
    moment::Moment,
};

const MS: u64 = 1_000_000;

/// One client's stay: its requests, and when it goes.
#[derive(Clone, Copy, Debug)]
struct Client {
    comes: u64,
    stays: u64,
    exchanges: u32,
    told: bool,
    /// From its being told to its end: shorter than the time between two reads, or not.
    goes_within: u64,
}

fn client() -> impl Strategy<Value = Client> {
    (0..4000_u64, 50..3000_u64, 1..6_u32, prop::bool::weighted(0.8), 0..200_u64).prop_map(
        |(comes, stays, exchanges, told, goes_within)| Client { comes, stays, exchanges, told, goes_within },
    )
}

impl Client {
    /// As the table has it at `now`, milliseconds; nothing before it comes and after it has gone.
    fn entry(&self, port: u16, began: Moment, now: u64) -> Option<(FlowKey, Connection)> {
        let at = |ms: u64| began.0 + ms * MS;
        let gone = self.comes + self.stays;
        (self.comes <= now && now < gone).then(|| {
            let key = FlowKey {
                pod: 1,
                local_port: 8080,
                peer_port: port,
                protocol: abi::TCP,
                ..FlowKey::default()
            };
            let told = self.told && gone - self.goes_within.min(self.stays) < now;
            let told_at = if told { at(gone - self.goes_within.min(self.stays)) } else { 0 };
            let c = Connection {
                first_seen: at(self.comes),
                last_out: at(now),
                last_packet: at(now),
                exchanges: self.exchanges,
                flags: flag::BOUNDARY | flag::IN | flag::OUT,
                protocol: protocol::HTTP1,
                told_at,
                ..Connection::default()
            };
            (key, c)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The floor is left early only where so many told clients have gone since the last one came that
    /// somebody would have come back.
    #[test]
    fn proof_is_enough_clients_that_could_have_come_back(
        clients in prop::collection::vec(client(), 0..40),
        reads in prop::collection::vec(20..400_u64, 1..30),
        newcomer in prop::option::of(0..5000_u64),
        others in prop::option::of(0..4_usize),
    ) {
        let world = World::new(Moment(1_000_000_000_000), false, 8, false);
        let began = world.now;
        let mut ledger = Ledger::new(began);
        ledger.ports(&World::ports());
        ledger.tell(Audience::HttpPorts);
        let at = Circumstances {
            exposure: Exposure::Cluster,
            openings_per_second: Some(0.0),
            others_ready: others,
            ..circumstances(&world, true)
        };
        let mut now = 0;
        for pause in reads {
            now += pause;
            let last_new = newcomer.filter(|n| *n <= now);
            let entries: Vec<_> = (1..).zip(&clients).filter_map(|(p, c)| c.entry(p, began, now)).collect();
            let came = clients.iter().filter(|c| c.comes <= now).count();
            let left = clients.iter().filter(|c| c.told && c.comes + c.stays <= now).count();
            let pod = abi::Pod {
                last_new: last_new.map_or(0, |n| began.0 + n * MS),
                new_connections: came as u64,
                left: [left as u64, 0],
                ..abi::Pod::default()
            };
            ledger.table(began + Duration::from_millis(now), &entries, &pod);
            let view = ledger.view(began + Duration::from_millis(now), &Contract::default());
            let settled = settle(&Contract::default(), &at, &view);
            let gone = |c: &&Client| {
                let went = c.comes + c.stays;
                c.told && c.exchanges > 1 && went <= now && last_new.is_none_or(|n| went > n)
            };
            let missed = clients.iter().filter(gone).count();
            prop_assert!(view.missed <= missed, "{} of {missed} missed at {now}", view.missed);
            if settled.why == Why::LastCallProves {
                let endpoints = others.map_or(f64::INFINITY, |n| n as f64 + 1.0);
                // The chance that none of them was sent here, though all still could have been.
                let chance = if endpoints > 1.0 { (1.0 - 1.0 / endpoints).powi(missed as i32) } else { 0.0 };
                prop_assert!(missed >= 5 && chance <= 0.01, "{missed} of {endpoints}: {chance}");
                prop_assert_eq!(settled.window, Duration::from_secs(1));
            }
        }
    }
}
