//! The observer's maps, typed: which pods and ports to look at, and what was seen.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, lpm_trie},
    programs::SchedClassifier,
};
use ipnet::IpNet;
use lastcall_ebpf::{
    abi::{
        Address, Command, Connection, FlowKey, HealthPath, Pod, Port, PortKey, ProbeKey, StreamKey, command,
        names, path_hash,
    },
    flow::mapped,
};

use super::{Error, map_error, sys, take};
use crate::moment::Moment;

/// A draining pod's number in the kernel's maps. Never used twice in one run of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodNumber(pub u32);

/// When a connection of the kubelet's closes that has not: later than any time.
pub const OPEN: Moment = Moment(u64::MAX);

/// An address as the maps have it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address of the maps as everybody else has it.
pub fn ip(a: &Address) -> IpAddr {
    IpAddr::V6((*a).into()).to_canonical()
}

/// The connection table and what steers it.
pub struct Observer {
    pub(super) ebpf: Mutex<Ebpf>,
    maps: Mutex<Maps>,
    connections: HashMap<MapData, FlowKey, Connection>,
    /// The program [`names::COMMAND`], by itself: running it waits for no attach.
    command: OwnedFd,
    /// The same map, for reading in batches.
    batch: OwnedFd,
    probes: HashMap<MapData, ProbeKey, u64>,
    next: AtomicU32,
}

/// A direction of a link, seen from the pod.
pub use lastcall_ebpf::tcp::Direction;

struct Maps {
    locals: HashMap<MapData, Address, u32>,
    pods: HashMap<MapData, u32, Pod>,
    ports: HashMap<MapData, PortKey, Port>,
    health_paths: HashMap<MapData, HealthPath, u8>,
    ignored: lpm_trie::LpmTrie<MapData, Address, u8>,
    streams: HashMap<MapData, StreamKey, u8>,
}

impl Observer {
    /// Loads the TC programs; attaches nothing.
    pub fn load(mut ebpf: Ebpf) -> Result<Self, Error> {
        for name in [names::OBSERVE_INGRESS, names::OBSERVE_EGRESS, names::COMMAND] {
            let program: &mut SchedClassifier = program(&mut ebpf, name)?;
            program.load().map_err(|e| Error::Program { name, source: Box::new(e) })?;
        }
        let command: &mut SchedClassifier = program(&mut ebpf, names::COMMAND)?;
        let command = command.fd().and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?));
        let command = command.map_err(|e| Error::Program { name: names::COMMAND, source: Box::new(e) })?;
        let batch = match ebpf.map(names::CONNECTIONS) {
            Some(aya::maps::Map::HashMap(data)) => data.fd().as_fd().try_clone_to_owned(),
            _ => return Err(Error::Missing(names::CONNECTIONS)),
        };
        Ok(Self {
            command,
            batch: batch.map_err(map_error("open", names::CONNECTIONS))?,
            maps: Mutex::new(Maps {
                locals: take(&mut ebpf, names::LOCALS)?,
                pods: take(&mut ebpf, names::PODS)?,
                ports: take(&mut ebpf, names::PORTS)?,
                health_paths: take(&mut ebpf, names::HEALTH_PATHS)?,
                ignored: take(&mut ebpf, names::IGNORED_SOURCES)?,
                streams: take(&mut ebpf, names::STREAMS)?,
            }),
            connections: take(&mut ebpf, names::CONNECTIONS)?,
            probes: take(&mut ebpf, names::PROBES)?,
            ebpf: Mutex::new(ebpf),
            next: AtomicU32::new(1),
        })
    }

    fn maps(&self) -> std::sync::MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to look at a pod: from here on its packets count, wherever a program sees them.
    ///
    /// An address that another draining pod has already (two networks with the same range) makes
    /// this fail: that pod is polled instead. `told_within`: how long it takes until all its clients may have
    /// been told to leave.
    pub fn track(&self, addresses: &BTreeSet<IpAddr>, told_within: Duration) -> Result<PodNumber, Error> {
        let number = PodNumber(self.next.fetch_add(1, Ordering::Relaxed));
        let mut maps = self.maps();
        let told_within = u64::try_from(told_within.as_nanos()).unwrap_or(u64::MAX);
        let pod = Pod { began: Moment::now().0, told_within, ..Pod::default() };
        maps.pods.insert(number.0, pod, 0).map_err(map_error("insert into", names::PODS))?;
        let mut done = Vec::new();
        for &ip in addresses {
            // BPF_NOEXIST
            if let Err(e) = maps.locals.insert(address(ip), number.0, 1) {
                for ip in done {
                    let _ = maps.locals.remove(&address(ip));
                }
                let _ = maps.pods.remove(&number.0);
                return Err(map_error("insert into", names::LOCALS)(e));
            }
            done.push(ip);
        }
        Ok(number)
    }

    /// Addresses that a pod has got since.
    pub fn add_addresses(&self, pod: PodNumber, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let mut maps = self.maps();
        for &ip in addresses {
            maps.locals.insert(address(ip), pod.0, 1).map_err(map_error("insert into", names::LOCALS))?;
        }
        Ok(())
    }

    /// Sets the ports that count, in place of those before.
    pub fn set_ports(
        &self,
        pod: PodNumber,
        ports: impl IntoIterator<Item = (PortKey, Port)>,
    ) -> Result<(), Error> {
        let mut maps = self.maps();
        let wanted: std::collections::BTreeMap<(u16, u8), Port> =
            ports.into_iter().map(|(k, p)| ((k.port, k.protocol), p)).collect();
        let old: Vec<PortKey> = maps.ports.keys().filter_map(Result::ok).filter(|k| k.pod == pod.0).collect();
        for key in old {
            if !wanted.contains_key(&(key.port, key.protocol)) {
                let _ = maps.ports.remove(&key);
            }
        }
        for ((port, protocol), value) in wanted {
            let key = PortKey { pod: pod.0, port, protocol, pad: 0 };
            maps.ports.insert(key, value, 0).map_err(map_error("insert into", names::PORTS))?;
        }
        Ok(())
    }

    /// Adds paths that only health checks ask for.
    pub fn add_health_paths<'a>(
        &self,
        pod: PodNumber,
        paths: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let mut maps = self.maps();
        for path in paths {
            let key = HealthPath { pod: pod.0, hash: path_hash(path.as_bytes()) };
            maps.health_paths.insert(key, 1, 0).map_err(map_error("insert into", names::HEALTH_PATHS))?;
        }
        Ok(())
    }

    /// Sources whose new connections do not keep a pod unsettled.
    pub fn ignore_sources(&self, sources: &[IpNet]) -> Result<(), Error> {
        let mut maps = self.maps();
        for net in sources {
            let bits = u32::from(net.prefix_len()) + if matches!(net, IpNet::V4(_)) { 96 } else { 0 };
            let key = lpm_trie::Key::new(bits, address(net.network()));
            maps.ignored.insert(&key, 1, 0).map_err(map_error("insert into", names::IGNORED_SOURCES))?;
        }
        Ok(())
    }

    /// Asks for one event at the pod's next removal. Read the table after this, not before: what
    /// happened before it sends no event.
    pub fn arm(&self, pod: PodNumber) -> Result<(), Error> {
        let key = FlowKey { pod: pod.0, ..FlowKey::default() };
        self.run(&Command { key, kind: command::ARM, last_packet: 0 }).map(|_| ())
    }

    /// The pod's counters.
    pub fn pod(&self, pod: PodNumber) -> Result<Pod, Error> {
        self.maps().pods.get(&pod.0, 0).map_err(map_error("read", names::PODS))
    }

    /// The pod's part of the connection table.
    pub fn connections(&self, pod: PodNumber) -> Result<Vec<(FlowKey, Connection)>, Error> {
        let mut entries = Vec::new();
        let mut each = |k: &FlowKey, c: &Connection| {
            if k.pod == pod.0 {
                entries.push((*k, *c));
            }
        };
        match sys::read_all(self.batch.as_fd(), &mut each) {
            Ok(()) => Ok(entries),
            // Kernels before 5.6 read one by one.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                entries.clear();
                for entry in self.connections.iter().flatten() {
                    if entry.0.pod == pod.0 {
                        entries.push(entry);
                    }
                }
                Ok(entries)
            }
            Err(e) => Err(map_error("read", names::CONNECTIONS)(e)),
        }
    }

    /// One entry of the connection table.
    pub fn connection(&self, key: &FlowKey) -> Option<Connection> {
        self.connections.get(key, 0).ok()
    }

    /// Takes an entry out that a dump has proved gone, unless it has moved since `seen` was read.
    pub fn remove_stale(&self, key: FlowKey, seen: &Connection) -> Result<bool, Error> {
        self.run(&Command { key, kind: command::REMOVE, last_packet: seen.last_packet })
    }

    fn run(&self, asked: &Command) -> Result<bool, Error> {
        const ETHERNET: usize = 14;
        let key = &asked.key;
        let mut packet = vec![0u8; ETHERNET];
        packet.extend(key.pod.to_ne_bytes());
        packet.extend(key.local_port.to_ne_bytes());
        packet.extend(key.peer_port.to_ne_bytes());
        packet.extend(key.local);
        packet.extend(key.peer);
        packet.extend([key.protocol, 0, 0, 0]);
        packet.extend(asked.kind.to_ne_bytes());
        packet.extend(asked.last_packet.to_ne_bytes());
        let result = sys::run_program(self.command.as_fd(), &packet, 1);
        result
            .map(|r| r == 1)
            .map_err(|e| Error::Program { name: names::COMMAND, source: Box::new(e.into()) })
    }

    /// Shows a program a frame that is on no link (`BPF_PROG_TEST_RUN`), and gives its verdict. The packet
    /// tables run on it.
    pub fn show(&self, direction: Direction, frame: &[u8]) -> Result<i32, Error> {
        let name = match direction {
            Direction::In => names::OBSERVE_INGRESS,
            Direction::Out => names::OBSERVE_EGRESS,
        };
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |e| Error::Program { name, source: Box::new(e) };
        let program: &mut SchedClassifier = program(&mut ebpf, name)?;
        let fd = program.fd().map_err(failed)?.as_fd();
        sys::run_program(fd, frame, 1).map(|verdict| verdict as i32).map_err(|e| failed(e.into()))
    }

    /// Was this tuple a connection of the kubelet's, and until when? [`OPEN`] where its end still is.
    pub fn probe(&self, key: &ProbeKey) -> Option<Moment> {
        let closed_at = self.probes.get(key, 0).ok()?;
        Some(if closed_at == 0 { OPEN } else { Moment(closed_at) })
    }

    /// Forgets a pod: its packets pass unseen again.
    pub fn forget(&self, pod: PodNumber) {
        let stale: Vec<_> = self.connections(pod).unwrap_or_default();
        for (key, c) in &stale {
            let _ = self.remove_stale(*key, c);
        }
        let mut maps = self.maps();
        let addresses: Vec<Address> =
            maps.locals.iter().filter_map(Result::ok).filter(|(_, n)| *n == pod.0).map(|(a, _)| a).collect();
        for a in addresses {
            let _ = maps.locals.remove(&a);
        }
        let ports: Vec<PortKey> =
            maps.ports.keys().filter_map(Result::ok).filter(|k| k.pod == pod.0).collect();
        for k in ports {
            let _ = maps.ports.remove(&k);
        }
        let paths: Vec<HealthPath> =
            maps.health_paths.keys().filter_map(Result::ok).filter(|k| k.pod == pod.0).collect();
        for k in paths {
            let _ = maps.health_paths.remove(&k);
        }
        // Of connections that ended with streams open.
        let streams: Vec<StreamKey> =
            maps.streams.keys().filter_map(Result::ok).filter(|k| k.pod == pod.0).collect();
        for k in streams {
            let _ = maps.streams.remove(&k);
        }
        let _ = maps.pods.remove(&pod.0);
    }
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|e| Error::Program { name, source: Box::new(e) })
}
