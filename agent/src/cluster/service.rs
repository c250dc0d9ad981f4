//! What is kept of a Service: whom it selects, and which floor it means.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceRecord {
    /// Empty: it selects nobody by itself (its slices are written by hand).
    selector: BTreeMap<String, String>,
    /// clusterIP is `None`: clients hold DNS answers.
    pub(super) headless: bool,
    /// externalTrafficPolicy or internalTrafficPolicy is Local: the node's last ready endpoint matters.
    pub(super) local: bool,
}

impl ServiceRecord {
    pub(super) fn new(service: &Service) -> Self {
        let Some(spec) = &service.spec else {
            return Self { selector: BTreeMap::new(), headless: false, local: false };
        };
        let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
        // An ExternalName is a CNAME: its selector, if any, is not used.
        let external = is(&spec.type_, "ExternalName");
        Self {
            selector: spec.selector.clone().filter(|_| !external).unwrap_or_default(),
            headless: is(&spec.cluster_ip, "None")
                || spec.cluster_ips.as_ref().is_some_and(|ips| ips.iter().any(|ip| ip == "None")),
            local: is(&spec.external_traffic_policy, "Local") || is(&spec.internal_traffic_policy, "Local"),
        }
    }

    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}
