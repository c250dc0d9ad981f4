//! The agent, put together: start order, the tasks, and the end.
//!
//! Held hooks before the listeners, which would reset them; those before the hook programs that send calls
//! to them; the programs before the source that starts drains; ready when all are.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{
    causes,
    cli::agent::Attach as AttachFlag,
    cluster::{Changes, PodFacts, PodName, api::Api},
    config::Config,
    drain::{AttachChoice, Drains, Paces, Services, Witnesses},
    hook::{
        held::{HeldStore, MemoryStore, Returned},
        listen::Listeners,
        server::{HookServer, Limits},
    },
    kernel::{self, Attach, Edges, Hook, HookOptions, LastCall, NetnsCookie, Observer},
    last_call,
    report::{
        events::Events,
        metrics::Metrics,
        ready::{Heartbeat, Latch, Readiness},
        serve,
    },
    sockets::{Namespaces, OpeningRates},
};

mod absence;
mod bpffs;
mod desk;
mod hand_over;
mod held;
mod kubelet;
mod log;
mod pages;
mod source;
mod telling;
pub mod uninstall;
mod waits;

/// `SO_MARK` of the listener that says "somebody is home": "last" in ASCII.
const MARK: u32 = 0x6c61_7374;
/// How long an unknown pod's hook sleeps while nobody is home.
const UNKNOWN_WAIT: Duration = Duration::from_secs(5);
/// How long the main loop may take to come round.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long an agent that is told to stop goes on holding hooks.
const STOPPING: Duration = Duration::from_secs(25);

/// Runs the agent until it is told to stop.
pub fn run(config: Config) -> anyhow::Result<()> {
    log::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lastcall")
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve_node(config))
}

async fn serve_node(config: Config) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "lastcall agent starts");
    let readiness = Readiness::new();
    let (source_read, listening, programs) = (
        readiness.latch("source read"),
        readiness.latch("hook listener"),
        readiness.latch("kernel programs"),
    );
    let cluster = source::cluster(&config);
    let source = source::Source::open(&config, &cluster).await?;
    let heartbeat = Heartbeat::new(HEARTBEAT);
    let metrics = Arc::new(Metrics::new());
    let pages = serve::Pages {
        metrics: Arc::clone(&metrics),
        readiness: readiness.clone(),
        heartbeat: heartbeat.clone(),
    };
    let Some(metrics_listener) = hand_over::bind(config.metrics_address, config.hand_over_wait).await? else {
        return Ok(());
    };
    tokio::spawn(async move { serve::serve(metrics_listener, pages).await });

    let namespaces = Namespaces::start(&config.netns_dir).context("watch the pods' network namespaces")?;
    let rates = OpeningRates::start(&namespaces);
    let kernel = Kernel::open(&config).inspect_err(|e| {
        tracing::warn!(error = %causes(&**e), "no kernel programs: pods are judged by polling their sockets");
    });
    let (mut edges, observer, ebpf_hook, announcer) = match kernel {
        Ok(kernel) => (Some(kernel.edges), Some(kernel.observer), Some(kernel.hook), Some(kernel.announcer)),
        Err(_) => (None, None, None, None),
    };
    // Without any programs that is what is said.
    let (announcer, no_announcer) = match announcer {
        Some(Ok(announcer)) => (Some(announcer), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    if let (Some(announcer), Some(observer)) = (&announcer, &observer) {
        tokio::spawn(last_call::keep(Arc::clone(announcer), Arc::clone(observer)));
    }
    let has_programs = observer.is_some();

    let store: Arc<dyn HeldStore> = match held::PinnedStore::open(&pins(&config.bpf_dir)) {
        Ok(store) => Arc::new(store),
        Err(e) => {
            tracing::warn!(error = %causes(&e), "held hooks will not survive this process");
            Arc::new(MemoryStore::default())
        }
    };
    let returned = Returned::from_store(&store).await;
    let listeners = Listeners::bind(config.hook_port, MARK).context("listen for hooks")?;
    listening.done(format!("port {}", config.hook_port));
    let hook = match ebpf_hook {
        Some(pending) => {
            match pending.attach(&config, &namespaces, !listeners.reached_at_240().await).await {
                Ok(hook) => Some(Arc::new(hook)),
                Err(e) => {
                    tracing::error!(
                        error = %causes(&*e),
                        "the kubelet's calls to pods are not led here: only hooks that name the pod by path are answered"
                    );
                    None
                }
            }
        }
        None => None,
    };

    if let Some(hook) = &hook {
        tokio::spawn(kubelet::follow(config.clone(), namespaces.clone(), Arc::clone(hook)));
    }

    let events = match source.api() {
        Some(api) => Events::start(api.client(), api.live().node(), config.events, Arc::clone(&metrics)),
        None => Events::nowhere(Arc::clone(&metrics)),
    };
    if let Some(hook) = &hook {
        absence::tell(hook, &pins(&config.bpf_dir), &events);
    }
    let told = telling::Telling::new(Arc::clone(&metrics), source.api().cloned(), events);
    let services = Arc::new(Services {
        cluster: cluster.clone(),
        witnesses: source.api().map(|api| Arc::new(Witnesses::new(Arc::clone(api.live())))),
        observer: observer.clone(),
        announcer,
        no_announcer,
        namespaces,
        rates,
        attach: attach_choice(config.attach),
        paces: Paces::default(),
        health_paths: config.health_paths.clone(),
        ignored: config.ignore_sources.clone(),
        contract: config.contract.clone(),
        bounds: config.bounds.clone(),
        last_call: config.last_call,
        told_within: config.told_within,
        listener: told.listener(),
        wakes: Services::no_wakes(),
    });
    programs.done(if has_programs { services.attach.describe() } else { "none: sockets are polled" });
    if let Some(observer) = &observer
        && let Err(e) = observer.ignore_sources(&config.ignore_sources)
    {
        tracing::warn!(error = %causes(&e), "--ignore-sources: connections of some will count");
    }
    let drains = Arc::new(Drains::new(Arc::clone(&services)));
    let node = Arc::new(pages::Node::new(&config, Arc::clone(&drains), hook.clone(), source.told()));
    metrics.read_from({
        let node = Arc::clone(&node);
        move || node.reading()
    });

    if let Some(mut edges) = edges.take() {
        let (services, node) = (Arc::clone(&services), Arc::clone(&node));
        tokio::spawn(async move {
            let ring = |edge: lastcall_ebpf::abi::Edge| {
                node.count_edge();
                if let Some(wake) = services.wakes().get(&kernel::observer::PodNumber(edge.pod)) {
                    wake.ring(&edge);
                }
            };
            while edges.next(ring).await.is_ok() {}
        });
    }
    // What is known already is in the kernel before the agent says that it is ready: from then on its
    // absence is a sleep of the right length.
    let mut follower = Follower::new(Arc::clone(&drains), hook.clone(), config.bounds.nobody_home_wait);
    follower.api = source.api().cloned();
    follower.catch_up();
    if let Some(health) = source.told().health().cloned() {
        readiness.condition("API server", move || health.pods());
    }
    let draining = drains.draining();
    let read = source.follow(&cluster, Arc::new(draining));
    tokio::spawn(follower.run(read, source_read));

    let stop = CancellationToken::new();
    let desk = Arc::new(desk::NodeDesk::new(drains, hook.clone(), Arc::clone(&node), metrics));
    let server = HookServer::new(desk, store, Limits::default());
    let held = server.held();
    let serving = tokio::spawn(server.serve(listeners, returned, stop.clone()));
    tracing::info!(source = %config.source, hook_port = config.hook_port, "hooks are answered");
    main_loop(&heartbeat, held).await?;
    stop.cancel();
    serving.await.context("the hook server ended badly")?;
    tracing::info!("stopped");
    Ok(())
}

/// Starts drains as pods become Terminating, and keeps the kernel's waits up to date.
struct Follower {
    drains: Arc<Drains>,
    waits: waits::Waits,
    changes: Changes,
    api: Option<Api>,
}

impl Follower {
    fn new(drains: Arc<Drains>, hook: Option<Arc<Hook>>, nobody_home: Duration) -> Self {
        let changes = drains.services().cluster.subscribe();
        let waits = waits::Waits::new(hook, nobody_home, drains.services());
        Self { drains, waits, changes, api: None }
    }

    /// Everything that is known by now.
    fn catch_up(&mut self) {
        let cluster = self.drains.services().cluster.clone();
        for facts in cluster.snapshot() {
            self.look_at(&facts);
        }
    }

    /// `read`: all pods are known. What an earlier agent left in the kernel is worth more until then.
    async fn run(mut self, read: oneshot::Receiver<()>, latch: Latch) {
        let mut read = Some((read, latch));
        loop {
            let known = async {
                match &mut read {
                    Some((read, _)) => read.await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                known = known => {
                    let latch = read.take().map(|(_, latch)| latch);
                    if known {
                        self.catch_up();
                        self.waits.forget_strangers(&self.drains.services().cluster);
                        latch.into_iter().for_each(|latch| latch.done("all pods of the node are known"));
                    }
                }
                names = self.changes.next() => self.news(names),
            }
        }
    }

    fn news(&mut self, names: BTreeSet<PodName>) {
        for name in names {
            match self.drains.services().cluster.pod(&name) {
                Some(facts) => self.look_at(&facts),
                None => self.waits.remove(&name),
            }
        }
        // A drain may have got its name by it, and so its namespace.
        self.api.iter().for_each(Api::look);
    }

    fn look_at(&mut self, facts: &Arc<PodFacts>) {
        self.waits.set(facts);
        if !facts.finished {
            self.drains.terminating(facts);
        }
    }
}

/// Beats until a signal; then until nothing is held, a second signal, or the time is up.
async fn main_loop(
    heartbeat: &Heartbeat,
    mut held: tokio::sync::watch::Receiver<usize>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = beat.tick() => heartbeat.beat(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let holding = *held.borrow();
    if holding > 0 {
        tracing::info!(holding, "told to stop: holding the hooks until they are answered");
        let by = tokio::time::sleep(STOPPING);
        tokio::pin!(by);
        loop {
            tokio::select! {
                _ = beat.tick() => heartbeat.beat(),
                r = held.wait_for(|n| *n == 0) => { let _ = r; break }
                () = &mut by => break,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
    }
    Ok(())
}

fn attach_choice(flag: AttachFlag) -> AttachChoice {
    match flag {
        AttachFlag::Auto => AttachChoice::auto(Attach::best()),
        AttachFlag::Tcx => AttachChoice::only(Some(Attach::Tcx)),
        AttachFlag::Clsact => AttachChoice::only(Some(Attach::Clsact)),
        AttachFlag::None => AttachChoice::only(None),
    }
}

/// The kernel's part, opened: maps made, programs of the observer loaded.
struct Kernel {
    edges: Edges,
    observer: Arc<Observer>,
    hook: PendingHook,
    /// Or why nobody can be told to leave.
    announcer: Result<Arc<LastCall>, String>,
}

impl Kernel {
    fn open(config: &Config) -> anyhow::Result<Self> {
        bpffs::ensure(&config.bpf_dir)?;
        let pins = pins(&config.bpf_dir);
        let mut ebpf = kernel::open(&kernel::Options {
            pins: pins.clone(),
            table_size: config.table_size,
            debug: tracing::enabled!(target: "lastcall_ebpf", tracing::Level::DEBUG),
        })?;
        kernel::logs::forward(&mut ebpf);
        let edges = Edges::take(&mut ebpf)?;
        let netns = NetnsCookie::load(&mut ebpf)?;
        let hook = PendingHook(Hook::load(&mut ebpf, &pins)?, netns);
        let announcer = last_call::open(&mut ebpf)
            .inspect_err(|why| tracing::warn!(why, "no client can be told to leave on this node"))
            .map(Arc::new);
        Ok(Self { edges, observer: Arc::new(Observer::load(ebpf)?), hook, announcer })
    }
}

/// The hook programs, loaded, not yet attached.
struct PendingHook(kernel::hook::Loaded, NetnsCookie);

impl PendingHook {
    async fn attach(
        self,
        config: &Config,
        namespaces: &Namespaces,
        to_loopback: bool,
    ) -> anyhow::Result<Hook> {
        if to_loopback {
            tracing::warn!(
                "240.0.0.0/4 does not get through on lo, by a firewall's rule perhaps: calls are led to 127.0.0.0/8, \
                 and a held hook fails where this agent is away when the kubelet looks for it, once in 15 s"
            );
        }
        let who = kubelet::find(config, namespaces).await;
        let netns_cookie = match namespaces.node().cookie() {
            Some(cookie) => cookie,
            None => self.1.ask(&config.cgroup_root)?,
        };
        let options = HookOptions {
            root: config.cgroup_root.clone(),
            kubelet_cgroup: who.cgroup,
            kubelet_process: who.process,
            port: config.hook_port,
            to_loopback,
            mark: MARK,
            unknown_wait: UNKNOWN_WAIT.min(config.bounds.nobody_home_wait),
            direct_wait: waits::wait(
                config.bounds.nobody_home_wait,
                config.bounds.default_grace,
                config.contract.reserve,
            ),
            netns_cookie,
        };
        Ok(self.0.attach(&options)?)
    }
}

/// Pins of this version of the wire types.
fn pins(bpf_dir: &Path) -> std::path::PathBuf {
    bpf_dir.join(format!("v{}", lastcall_ebpf::abi::ABI_VERSION))
}
