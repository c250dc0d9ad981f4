//! Which cells are measured.

use super::trial::{Row, Traffic, Trial, Way};

/// Two requests a minute and pod up to a busy Service, clients that stay and clients that do not.
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
