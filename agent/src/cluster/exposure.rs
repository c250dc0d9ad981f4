//! How strangers reach a pod, and so how long word of its end takes to reach them.

use super::Exposure;

/// A Service that sends traffic to the pod: by its selector, or by a believed slice that names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// The Service object is known; else only its slice is.
    pub(super) known: bool,
    /// No cluster address: clients hold DNS answers.
    pub(super) headless: bool,
    /// externalTrafficPolicy or internalTrafficPolicy Local.
    pub(super) local: bool,
    /// Another endpoint of it on this node is ready.
    pub(super) others_ready: bool,
}

/// The strictest of what is known of a pod.
///
/// - A readiness gate that a load balancer's controller writes (AWS, GKE) says that the balancer's
///   target is the pod's own address: its slow deregistration counts, whatever the Services say.
/// - Headless: clients use the address for as long as their DNS answer lives.
/// - Policy Local and nobody else ready on the node: the node itself must drop out of the load
///   balancer, by health checks. With another ready endpoint here, kube-proxy only turns its rules.
/// - A slice without its Service: no kind of Service can be ruled out but the headless one.
/// - Nobody selects it: that is only known where the source shows Services and slices at all
///   (`complete`).
pub(super) fn exposure(
    load_balancer_gate: bool,
    routes: impl IntoIterator<Item = Route>,
    complete: bool,
) -> Exposure {
    let nobody = if complete { Exposure::None } else { Exposure::Unknown };
    if load_balancer_gate {
        return Exposure::LoadBalancerIp;
    }
    routes.into_iter().map(of).max().unwrap_or(nobody)
}

fn of(route: Route) -> Exposure {
    match route {
        Route { headless: true, .. } => Exposure::Headless,
        Route { known: false, .. } => Exposure::Unknown,
        Route { local: true, others_ready: false, .. } => Exposure::LocalLast,
        _ => Exposure::Cluster,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictest_wins() {
        let cluster = Route { known: true, ..Route::default() };
        let unknown = Route::default();
        let last = Route { local: true, ..cluster };
        let not_last = Route { local: true, others_ready: true, ..cluster };
        let headless = Route { headless: true, ..cluster };
        let headless_slice = Route { headless: true, ..unknown };
        let rows: &[(bool, &[Route], bool, Exposure)] = &[
            (false, &[], true, Exposure::None),
            (false, &[], false, Exposure::Unknown),
            (false, &[cluster], false, Exposure::Cluster),
            (false, &[not_last], true, Exposure::Cluster),
            (false, &[last], true, Exposure::LocalLast),
            (false, &[unknown], true, Exposure::Unknown),
            (false, &[unknown, last], true, Exposure::LocalLast),
            (false, &[cluster, unknown], true, Exposure::Unknown),
            (false, &[headless], true, Exposure::Headless),
            (false, &[headless_slice], true, Exposure::Headless),
            (false, &[last, headless, cluster], true, Exposure::Headless),
            (true, &[], false, Exposure::LoadBalancerIp),
            (true, &[headless], true, Exposure::LoadBalancerIp),
        ];
        for (gate, routes, complete, want) in rows {
            assert_eq!(
                exposure(*gate, routes.iter().copied(), *complete),
                *want,
                "gate {gate}, complete {complete}, {routes:?}"
            );
        }
    }
}
