//! The rules by their names, which stay what they are: people write them into their CI.

use clap::{ValueEnum, builder::PossibleValue};

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $rule:ident $id:literal $help:literal;)+) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $rule,)+
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$rule),+];

            /// Its name in every output and in `--ignore`.
            pub fn id(self) -> &'static str {
                match self { $(Self::$rule => $id,)+ }
            }

            /// One sentence.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$rule => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Why it matters, and when it does not.
            pub fn help(self) -> &'static str {
                match self { $(Self::$rule => $help,)+ }
            }
        }
    };
}

rules! {
    /// A container that serves has no readiness probe.
    NoReadinessProbe "no-readiness-probe"
        "Without one a new pod counts as ready as soon as its process runs, and the rollout stops the old pod \
         before the new one can serve. A startup probe is taken instead: until it succeeds the pod is not ready.";
    /// The rollout may stop the last pod that serves.
    LastPodMayGo "last-pod-may-go"
        "With maxUnavailable at or above the number of replicas, or one replica and no surge, nothing serves for \
         a moment. A StatefulSet of one replica cannot do otherwise.";
    /// All old pods stop before the first new one starts.
    Recreate "recreate"
        "Strategy Recreate is downtime by design. It is a warning only where the pod mounts a \
         PersistentVolumeClaim, which often allows nothing else.";
    /// The grace leaves no room for the shortest drain.
    GraceTooShort "grace-too-short"
        "The agent waits at least the floor of the pod's kind of Service for routing to turn away from the pod, \
         and leaves the reserve to the app. A grace that is shorter than both clips one of them.";
    /// Nothing holds the pod while clients still arrive.
    NoHook "no-hook"
        "SIGTERM comes in the moment in which the pod is taken out of its Services, while new connections still \
         arrive and requests are in flight. The hook holds it until they are through; the label \
         lastcall.dev/inject on the pod or its namespace gives it the hook.";
    /// A container without a hook beside one that is held.
    ContainerWithoutHook "container-without-hook"
        "Hooks are a container's own: one without gets SIGTERM at once, while the others still serve. Native \
         sidecars outlive the others and need none.";
    /// A preStop sleep.
    LeftoverSleep "leftover-sleep"
        "A sleep is too short on a bad day and too long on all others; lastcall's hook ends when the pod has \
         drained, and is a sleep where no agent answers.";
    /// A preStop hook that is not lastcall's, in a container that serves.
    OtherHook "other-hook"
        "A container has one preStop hook. One that does something else than wait leaves nobody to hold the pod \
         until its connections have drained; what it does may be the app's own drain, and enough.";
    /// A preStop command that cannot be run as it is written.
    ExecHook "exec-hook"
        "The kubelet runs the command in the container, without a shell of its own. An image without a shell \
         (distroless, scratch) fails the hook, and SIGTERM comes at once.";
    /// A preStop command that calls the agent.
    ExecCallsAgent "exec-calls-agent"
        "The agent listens on the node's loopback and takes calls from the kubelet only: from inside the pod \
         nothing answers.";
    /// Parameters of the hook that are not understood.
    HookParameters "hook-parameters"
        "What is not understood never shortens a drain: its default stands. It is not what the author meant, \
         though.";
    /// The hook's path is not the agent's.
    HookPath "hook-path"
        "Without `host` any path is taken for /drain, with a warning; on 127.0.0.1 the path has to name the pod \
         or its workload, or the call is refused and SIGTERM comes at once.";
    /// The hook is called by HTTPS.
    HookScheme "hook-scheme"
        "The agent answers plain HTTP, on the node's loopback. The kubelet's handshake would fail, and SIGTERM \
         come at once.";
    /// The pod itself uses the hook's port.
    HookPortTaken "hook-port-taken"
        "Where a container declares or probes the port, calls to it are the pod's own and do not reach the \
         agent. The hook needs no containerPort.";
    /// Injection is asked for and does not happen.
    InjectionSkipped "injection-skipped"
        "The injection policy leaves hostNetwork pods, and pods with a grace of 2 s or less, as they are.";
    /// A hostNetwork pod whose hook has no host.
    HostNetworkWithoutHost "host-network-without-host"
        "Without `host` the kubelet dials the pod's address, which here is the node's own: the call fails and \
         SIGTERM comes at once.";
    /// A `host` that Pod Security does not admit.
    HostUnderPodSecurity "host-under-pod-security"
        "Levels baseline and restricted refuse any `host` in a hook or probe from Kubernetes 1.34 on: the pods \
         would not be created.";
    /// A `host` in a hook that needs none.
    HostNotNeeded "host-not-needed"
        "A pod with a network of its own reaches the agent without `host`, and Pod Security baseline admits no \
         other form.";
    /// externalTrafficPolicy or internalTrafficPolicy Local with one replica.
    LocalPolicyOneReplica "local-policy-one-replica"
        "Each update moves the only endpoint to another node, and traffic fails until whatever stands before \
         the nodes has noticed.";
    /// A load balancer that targets pods, and no `settle` for it.
    LoadBalancerWithoutSettle "load-balancer-without-settle"
        "It goes on sending to a pod for as long as its deregistration takes. The agent knows of it by the pod's \
         readinessGates, or by `settle=` on the hook.";
    /// Busy clients are not told to leave.
    LastCallOff "last-call-off"
        "Keep-alive clients that always have a request in flight never leave by themselves. With last-call=http \
         they are told to. Not needed where agents run with --last-call=auto.";
    /// Clients of a TLS port cannot be told to leave.
    TlsPort "tls-port"
        "The last call is never spoken into TLS. Busy keep-alive clients are waited for until the drain is \
         given up as busy; an app that closes its connections on SIGTERM loses nothing (until=settled).";
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id())
    }
}

impl ValueEnum for Rule {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.id()).help(self.summary()))
    }
}
