//! The kernel programs, loaded, with a pod to look at; their pins in a place that goes with the thread.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use lastcall_agent::kernel::{
    self, Observer, Options,
    observer::{Direction, PodNumber, address},
};
use lastcall_ebpf::abi::{Connection, Edge, FlowKey, Pod, Port, PortKey, TCP, UDP, names, protocol};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// The pod's addresses, and one of nobody.
pub(crate) const POD: &str = "10.1.0.9";
pub(crate) const POD6: &str = "fd00:1::9";
pub(crate) const STRANGER: &str = "10.1.0.10";
/// Ports of the pod: of HTTP, of which nothing is known, of HTTP/2, UDP, and one that does not count.
pub(crate) const HTTP: u16 = 8080;
pub(crate) const SQL: u16 = 5432;
pub(crate) const GRPC: u16 = 50051;
pub(crate) const DNS: u16 = 53;
pub(crate) const UNCOUNTED: u16 = 9090;
/// A port whose new connections do not keep the pod unsettled.
pub(crate) const METRICS: u16 = 9100;

/// Programs and maps of one test.
pub(crate) struct Bench {
    pub(crate) observer: Observer,
    pub(crate) pod: PodNumber,
    first: PodNumber,
    pub(crate) pins: std::path::PathBuf,
    edges: RingBuf<MapData>,
}

/// Programs that a test has done with: loading them is most of what a test takes.
static USED: Mutex<Vec<(Observer, RingBuf<MapData>)>> = Mutex::new(Vec::new());

/// Runs a test with a pod of its own, or says loudly that it does not.
pub(crate) fn bench(test: impl FnOnce(&mut Bench) + Send) {
    with_pins(|pins| {
        let used = USED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (observer, edges) = used.unwrap_or_else(|| load(pins, 1024));
        let mut bench = Bench::new(observer, edges, pins);
        test(&mut bench);
        bench.observer.forget(bench.pod);
        bench.observer.forget(bench.first);
        USED.lock().unwrap_or_else(PoisonError::into_inner).push((bench.observer, bench.edges));
    });
}

/// Runs a test with maps of its own, and a connection table of that size.
pub(crate) fn bench_of(table_size: u32, test: impl FnOnce(&mut Bench) + Send) {
    with_pins(|pins| {
        let (observer, edges) = load(pins, table_size);
        test(&mut Bench::new(observer, edges, pins));
    });
}

fn load(pins: &Path, table_size: u32) -> (Observer, RingBuf<MapData>) {
    let options = Options { pins: pins.to_owned(), table_size, debug: false };
    let mut ebpf = kernel::open(&options).expect("open the kernel object");
    let edges = ebpf.take_map(names::EDGES).expect("a map EDGES").try_into().expect("a ring");
    (Observer::load(ebpf).expect("load the observer"), edges)
}

/// Runs on a thread with mounts and a network of its own: they go with it, however it ends.
pub(crate) fn with_pins(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("\n*** SKIPPED: packet tables need root ***\n");
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("namespaces of its own");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
            mount(Some("bpf"), place.path(), Some("bpf"), MsFlags::empty(), none).expect("a BPF file system");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("run ip");
            assert!(up.success());
            test(&place.path().join("lastcall"));
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Bench {
    fn new(observer: Observer, edges: RingBuf<MapData>, pins: &Path) -> Self {
        let addresses: BTreeSet<IpAddr> = [POD, POD6].map(|a| a.parse().expect("an address")).into();
        let pod = observer.track(&addresses, Duration::ZERO).expect("track the pod");
        let port = |port, protocol, speaks, settles| {
            (
                PortKey { pod: 0, port, protocol, pad: 0 },
                Port { protocol: speaks, settles, announce: 0, pad: 0 },
            )
        };
        let ports = [
            port(HTTP, TCP, protocol::HTTP, 1),
            port(SQL, TCP, protocol::UNKNOWN, 1),
            port(GRPC, TCP, protocol::HTTP2, 1),
            port(METRICS, TCP, protocol::HTTP, 0),
            port(DNS, UDP, protocol::UNKNOWN, 1),
        ];
        observer.set_ports(pod, ports).expect("set the ports");
        Self { observer, pod, first: pod, pins: pins.to_owned(), edges }
    }

    /// Goes on with a pod on loopback, one port of which speaks this protocol and has real sockets. A connection
    /// to it is older than the attach: nobody saw its handshake.
    pub(crate) fn older(&mut self, speaks: u8) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let local = listener.local_addr().expect("an address");
        self.pod = self.observer.track(&[local.ip()].into(), Duration::ZERO).expect("track the pod");
        let key = PortKey { pod: 0, port: local.port(), protocol: TCP, pad: 0 };
        self.observer
            .set_ports(self.pod, [(key, Port { protocol: speaks, ..Port::default() })])
            .expect("set the port");
        listener
    }

    /// Shows a packet to the program of its direction, which has to let it pass.
    pub(crate) fn show(&self, direction: Direction, frame: &[u8]) {
        let verdict = self.observer.show(direction, frame).expect("run the program");
        assert_eq!(verdict, -1, "the verdict of others must stand, on {direction:?} of {frame:02x?}");
    }

    pub(crate) fn counters(&self) -> Pod {
        self.observer.pod(self.pod).expect("read the counters")
    }

    pub(crate) fn table(&self) -> Vec<(FlowKey, Connection)> {
        self.observer.connections(self.pod).expect("read the table")
    }

    pub(crate) fn entry(&self, local: SocketAddr, peer: SocketAddr) -> Option<(FlowKey, Connection)> {
        let ends = |k: &FlowKey| {
            (k.local, k.local_port, k.peer, k.peer_port)
                == (address(local.ip()), local.port(), address(peer.ip()), peer.port())
        };
        self.table().into_iter().find(|(k, _)| ends(k))
    }

    /// Edge events since the last call.
    pub(crate) fn edges(&mut self) -> Vec<u32> {
        let mut kinds = Vec::new();
        while let Some(item) = self.edges.next() {
            let word = |at: usize| u32::from_ne_bytes(item[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(item.len(), size_of::<Edge>());
            // A pod of before was forgotten, and with it its connections.
            if word(8) == self.pod.0 {
                kinds.push(word(12));
            }
        }
        kinds
    }
}
