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

/// What is measured where there is half an hour for everything.
const USUAL: [(Traffic, Way, &str); 10] = [
    (Traffic::kept(false, 0), Way::NodePort, "nftables"),
    (Traffic::kept(true, 200), Way::NodePort, "nftables"),
    (Traffic::fresh(false, 0, 0.2), Way::NodePort, "nftables"),
    (Traffic::fresh(true, 200, 5.0), Way::NodePort, "nftables"),
    (Traffic::fresh(false, 0, 200.0), Way::NodePort, "nftables"),
    (Traffic::fresh(false, 0, 20.0), Way::ClusterIp, "nftables"),
    (Traffic::fresh(false, 0, 20.0), Way::NodePortLocal, "nftables"),
    (Traffic::fresh(false, 0, 20.0), Way::NodePort6, "nftables"),
    (Traffic::fresh(false, 0, 20.0), Way::Balancer, "nftables"),
    (Traffic::fresh(false, 0, 20.0), Way::NodePort, "iptables"),
];

/// The cells of one mode of kube-proxy.
pub(super) fn trials(full: bool, mode: &str) -> Vec<Trial> {
    let pairs: Vec<(Traffic, Way)> = if full {
        ALL.into_iter().flat_map(|traffic| Way::ALL.map(|way| (traffic, way))).collect()
    } else {
        USUAL.into_iter().filter(|(_, _, of)| *of == mode).map(|(traffic, way, _)| (traffic, way)).collect()
    };
    let cells = pairs.into_iter().enumerate().flat_map(|(number, (traffic, way))| {
        Row::ALL.into_iter().enumerate().map(move |(letter, row)| {
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

/// The cells in groups that can be measured side by side, the heaviest first.
pub(super) fn batches(mut trials: Vec<Trial>) -> Vec<Vec<Trial>> {
    trials.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
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

/// A request on a connection that stays costs about a tenth of one that needs a new one.
fn cost(trial: &Trial) -> f64 {
    if trial.traffic.keep > 0 { trial.traffic.rate / 10.0 } else { trial.traffic.rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_is_too_heavy_and_none_is_forgotten() {
        for mode in ["nftables", "iptables"] {
            let trials = trials(true, mode);
            let count = trials.len();
            let batches = batches(trials);
            assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), count);
            assert!(batches.iter().all(|batch| batch.iter().map(cost).sum::<f64>() <= MOST));
        }
    }
}
