//! Which cells are measured.

use super::trial::{Row, Traffic, Trial, Way};

/// A connection every ten seconds and pod, up to a busy Service; clients that stay and clients that do not.
const ALL: [Traffic; 10] = [
    Traffic::kept(false, 0),
    Traffic::kept(true, 0),
    Traffic::kept(false, 200),
    Traffic::kept(true, 200),
    Traffic::fresh(false, 0, 0.2),
    Traffic::fresh(false, 0, 5.0),
    Traffic::fresh(false, 0, 200.0),
    Traffic::fresh(true, 200, 5.0),
    Traffic::fresh(false, 200, 5.0),
    Traffic::fresh(true, 0, 5.0),
];

/// A load, and the Service and the mode of kube-proxy that it is measured behind.
struct Usual {
    traffic: Traffic,
    way: Way,
    mode: &'static str,
    /// What adds something under this load, beside [`ALWAYS`].
    more: &'static [Row],
}

const fn usual(traffic: Traffic, way: Way, mode: &'static str, more: &'static [Row]) -> Usual {
    Usual { traffic, way, mode, more }
}

/// The loads; those of the full experiment are behind every kind of Service, in both modes.
const USUAL: [Usual; 10] = [
    usual(Traffic::kept(false, 0), Way::NodePort, "nftables", &[]),
    usual(
        Traffic::kept(true, 200),
        Way::NodePort,
        "nftables",
        &[Row::Sleep(5), Row::Untold, Row::AgentAbsent],
    ),
    usual(Traffic::fresh(false, 0, 0.2), Way::NodePort, "nftables", &[]),
    usual(Traffic::fresh(true, 200, 5.0), Way::NodePort, "nftables", &[Row::Sleep(5), Row::AgentAbsent]),
    usual(Traffic::fresh(false, 0, 200.0), Way::NodePort, "nftables", &[]),
    usual(Traffic::fresh(false, 0, 20.0), Way::ClusterIp, "nftables", &[]),
    usual(Traffic::fresh(false, 0, 20.0), Way::NodePortLocal, "nftables", &[]),
    usual(Traffic::fresh(false, 0, 20.0), Way::NodePort6, "nftables", &[]),
    usual(Traffic::fresh(false, 0, 20.0), Way::Balancer, "nftables", &[]),
    usual(Traffic::fresh(false, 0, 20.0), Way::NodePort, "iptables", &[]),
];

/// What the promises compare: measured under each load.
const ALWAYS: [Row; 3] = [Row::None, Row::Sleep(20), Row::Lastcall];

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Each load with the rows that tell something about it: some minutes.
    Telling,
    /// Each load with every row.
    EveryRow,
    /// Every load behind every kind of Service in both modes, with every row: an hour.
    Full,
}

/// The cells of one mode of kube-proxy.
pub(super) fn trials(extent: Extent, mode: &str) -> Vec<Trial> {
    let loads: Vec<(Traffic, Way, Vec<Row>)> = if extent == Extent::Full {
        let pairs = ALL.into_iter().flat_map(|traffic| Way::ALL.map(|way| (traffic, way)));
        pairs.map(|(traffic, way)| (traffic, way, Row::ALL.to_vec())).collect()
    } else {
        let measured = |load: &Usual, row: &Row| {
            extent == Extent::EveryRow || ALWAYS.contains(row) || load.more.contains(row)
        };
        let of_mode = USUAL.iter().filter(|load| load.mode == mode);
        of_mode
            .map(|load| {
                let rows = Row::ALL.into_iter().filter(|row| measured(load, row)).collect();
                (load.traffic, load.way, rows)
            })
            .collect()
    };
    let cells = loads.into_iter().enumerate().flat_map(|(number, (traffic, way, rows))| {
        rows.into_iter().enumerate().map(move |(letter, row)| {
            let letter = char::from(b'a' + letter as u8);
            Trial { row, traffic, way, name: format!("t{number}{letter}") }
        })
    });
    cells.collect()
}

/// Cells side by side: as many pods as a small machine stops at once without being late itself.
const SIDE_BY_SIDE: usize = 10;
/// What they may offer together, in new connections a second: beyond that the clients measure the machine.
const MOST: f64 = 260.0;

/// The cells in groups that can be measured side by side: those whose pods stay long together, so that the others
/// need not wait for them; the heaviest first, so that few groups do.
pub(super) fn batches(mut trials: Vec<Trial>) -> Vec<Vec<Trial>> {
    trials.sort_by(|a, b| is_long(b).cmp(&is_long(a)).then(cost(b).total_cmp(&cost(a))));
    let mut batches: Vec<Vec<Trial>> = Vec::new();
    for trial in trials {
        let fits = |batch: &&mut Vec<Trial>| {
            batch.len() < SIDE_BY_SIDE && batch.iter().map(cost).sum::<f64>() + cost(&trial) <= MOST
        };
        match batches.iter_mut().find(fits) {
            Some(batch) => batch.push(trial),
            None => batches.push(vec![trial]),
        }
    }
    batches
}

/// Whether its pods are gone twenty seconds after their deletion, or later, whatever the load does.
fn is_long(trial: &Trial) -> bool {
    match trial.row {
        Row::Sleep(20..) | Row::AgentAbsent => true,
        Row::Lastcall | Row::Untold => trial.way == Way::Balancer,
        Row::None | Row::Sleep(_) => false,
    }
}

/// A request on a connection that stays costs about a tenth of one that needs a new one.
fn cost(trial: &Trial) -> f64 {
    if trial.traffic.keep > 0 { trial.traffic.rate / 10.0 } else { trial.traffic.rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_is_too_heavy_and_none_is_forgotten() {
        for (extent, mode) in [
            (Extent::Telling, "nftables"),
            (Extent::EveryRow, "nftables"),
            (Extent::Full, "nftables"),
            (Extent::Full, "iptables"),
        ] {
            let trials = trials(extent, mode);
            let count = trials.len();
            let batches = batches(trials);
            assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), count);
            assert!(batches.iter().all(|batch| batch.iter().map(cost).sum::<f64>() <= MOST));
        }
    }

    /// A batch takes most of a minute.
    #[test]
    fn the_usual_experiment_has_every_row_and_takes_few_batches() {
        let (mut cells, mut count) = (Vec::new(), 0);
        for mode in ["nftables", "iptables"] {
            let (absent, present): (Vec<Trial>, Vec<Trial>) =
                trials(Extent::Telling, mode).into_iter().partition(|trial| trial.row == Row::AgentAbsent);
            count += batches(present.clone()).len() + batches(absent.clone()).len();
            cells.extend([present, absent].concat());
        }
        assert!(Row::ALL.iter().all(|row| cells.iter().any(|trial| trial.row == *row)));
        assert!(count <= 7, "{count} batches");
        let loads = cells.iter().filter(|trial| trial.row == Row::Lastcall).count();
        assert_eq!(loads, USUAL.len(), "lastcall is measured under each load");
    }
}
