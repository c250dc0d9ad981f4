//! What the agent asks of the API server, each with its reason.
//!
//! The ClusterRole in `deploy/` is checked against this table, and so is every request that the agent
//! makes of the stub API server in the tests: none is missing here, and none is here that is never made.

/// A right, as a rule of a ClusterRole has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// apiGroups; empty for core.
    pub group: &'static str,
    /// resources
    pub resource: &'static str,
    /// verbs
    pub verbs: &'static [&'static str],
    /// Without it the agent goes on, and something is coarser; else it is of little use.
    pub optional: bool,
    /// Why it is asked for, and what is lost without it.
    pub why: &'static str,
}

/// All of them.
pub const RIGHTS: &[Right] = &[
    Right {
        group: "",
        resource: "pods",
        verbs: &["get", "list", "watch"],
        optional: false,
        why: "who is Terminating on this node, with which grace and which hooks; a pod is asked for by itself \
              where its hook came without a deletion, and where a list lacks it while its hook is held",
    },
    Right {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        verbs: &["list", "watch"],
        optional: true,
        why: "ports, protocols and Services of draining pods, and when they were withdrawn; without it a \
              drain settles as behind a Service of unknown kind (--endpoint-slices=none)",
    },
    Right {
        group: "",
        resource: "services",
        verbs: &["get"],
        optional: true,
        why: "the kind of Service behind a draining pod: it sets how long routing takes to settle",
    },
    Right {
        group: "",
        resource: "nodes",
        verbs: &["get"],
        optional: true,
        why: "whether this node shuts down or is under pressure, where a hook came without a deletion; without \
              it an Event alone can tell",
    },
    Right {
        group: "",
        resource: "events",
        verbs: &["list"],
        optional: true,
        why: "what the kubelet said of a pod whose hook came without a deletion: only that tells a container's \
              restart from a pod's end; without it such a hook drains, for 10 s at most",
    },
    Right {
        group: "events.k8s.io",
        resource: "events",
        verbs: &["create", "patch"],
        optional: true,
        why: "Warnings about drains that went wrong, beside the pod or this node (--events)",
    },
];
