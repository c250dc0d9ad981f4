//! The hook programs: pinned, so that a kubelet's call is a sleep while nobody is home.
//!
//! The agent that comes next finds the pins and puts its own program behind the same link, in one
//! step: no call of the kubelet ever passes unredirected in between.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{CgroupSockAddr, SockOps},
};
use lastcall_ebpf::abi::{Address, Dial, HookConfig, HookWait, ProbeKey, hook_count, names};

use super::{
    Error, map_error,
    observer::{address, ip, program},
    sys, take,
};

/// Who is the kubelet, and where its calls go.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// The cgroup (v2) that every caller is in: its root.
    pub root: PathBuf,
    /// The kubelet's cgroup id, where known.
    pub kubelet_cgroup: Option<u64>,
    /// The kubelet's process name, where that is how it is known.
    pub kubelet_process: Option<String>,
    /// The hook's port.
    pub port: u16,
    /// Calls that find the agent go to `127.x.y.z`, since `240.x.y.z` does not get through on this node.
    pub to_loopback: bool,
    /// Mark of the agent's listener.
    pub mark: u32,
    /// How long an unknown pod's hook sleeps while nobody is home.
    pub unknown_wait: Duration,
    /// The same of a hostNetwork pod, which has no address of its own to know it by.
    pub direct_wait: Duration,
    /// Cookie of the node's network namespace.
    pub netns_cookie: u64,
}

/// The pinned programs' maps.
pub struct Hook {
    maps: Mutex<Maps>,
    config: Mutex<(Array<MapData, HookConfig>, HookOptions)>,
}

struct Maps {
    waits: HashMap<MapData, Address, HookWait>,
    dials: HashMap<MapData, u32, Dial>,
    probes: HashMap<MapData, ProbeKey, u64>,
    counts: Array<MapData, u64>,
}

/// What the hook programs have done since they were first pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// Calls sent to an agent.
    pub home: u64,
    /// Calls that found nobody home and slept.
    pub nobody_home: u64,
    /// Calls passed through to a pod that listens on the port itself.
    pub passed_through: u64,
    /// Calls to the port by somebody who is not the kubelet.
    pub not_the_kubelet: u64,
    /// Calls whose 24 bits were all taken.
    pub no_name: u64,
}

/// The hook programs, loaded, not yet attached.
pub struct Loaded {
    pins: PathBuf,
    config: Array<MapData, HookConfig>,
    maps: Maps,
    programs: Vec<(&'static str, Attacher)>,
}

/// A program by its descriptor: what attaching needs once the object belongs to the observer.
struct Attacher {
    program: OwnedFd,
    kind: u32,
}

/// `enum bpf_attach_type` (`include/uapi/linux/bpf.h`).
const CGROUP_SOCK_OPS: u32 = 3;
pub(super) const CGROUP_INET4_CONNECT: u32 = 10;
const CGROUP_INET6_CONNECT: u32 = 11;

impl Loaded {
    /// Writes the configuration, and puts the programs behind the pinned links.
    ///
    /// Call it once the listeners are up: from here on calls are sent to them.
    pub fn attach(mut self, options: &HookOptions) -> Result<Hook, Error> {
        self.config.set(0, configuration(options), 0).map_err(map_error("write", names::HOOK_CONFIG))?;
        let root = File::open(&options.root).map_err(file("open the cgroup", &options.root))?;
        let id = root.metadata().map_err(file("look at the cgroup", &options.root))?.ino();
        for (name, attacher) in &self.programs {
            replace_or_pin(&self.pins, name, id, attacher, &root)?;
        }
        remove_others(&self.pins, id);
        remove_other_versions(&self.pins);
        Ok(Hook { maps: Mutex::new(self.maps), config: Mutex::new((self.config, options.clone())) })
    }
}

impl Hook {
    /// Loads the programs out of the object.
    pub fn load(ebpf: &mut Ebpf, pins: &Path) -> Result<Loaded, Error> {
        let mut programs = Vec::with_capacity(3);
        for (name, kind) in [(names::HOOK4, CGROUP_INET4_CONNECT), (names::HOOK6, CGROUP_INET6_CONNECT)] {
            let p: &mut CgroupSockAddr = program(ebpf, name)?;
            let fd = p.load().and_then(|()| Ok(p.fd()?.as_fd().try_clone_to_owned()?));
            let program = fd.map_err(|e| Error::Program { name, source: Box::new(e) })?;
            programs.push((name, Attacher { program, kind }));
        }
        let name = names::PROBE;
        let p: &mut SockOps = program(ebpf, name)?;
        let fd = p.load().and_then(|()| Ok(p.fd()?.as_fd().try_clone_to_owned()?));
        let program = fd.map_err(|e| Error::Program { name, source: Box::new(e) })?;
        programs.push((name, Attacher { program, kind: CGROUP_SOCK_OPS }));
        Ok(Loaded {
            config: take(ebpf, names::HOOK_CONFIG)?,
            maps: Maps {
                waits: take(ebpf, names::HOOK_WAITS)?,
                dials: take(ebpf, names::DIALS)?,
                counts: take(ebpf, names::HOOK_COUNTS)?,
                probes: reopen(pins, names::PROBES)?,
            },
            programs,
            pins: pins.to_owned(),
        })
    }

    fn maps(&self) -> std::sync::MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kubelet is another by now: a restarted service has a new cgroup.
    pub fn set_kubelet(&self, cgroup: Option<u64>, process: Option<String>) -> Result<(), Error> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, options) = &mut *config;
        if (options.kubelet_cgroup, &options.kubelet_process) == (cgroup, &process) {
            return Ok(());
        }
        tracing::info!(?cgroup, ?process, "the kubelet's calls are known by these from now on");
        options.kubelet_cgroup = cgroup;
        options.kubelet_process = process;
        map.set(0, configuration(options), 0).map_err(map_error("write", names::HOOK_CONFIG))
    }

    /// Sets how long the hook of the pod with this address sleeps while nobody is home.
    pub fn set_wait(&self, pod: IpAddr, wait: Duration, pass_through: bool) -> Result<(), Error> {
        let value = HookWait { wait_ms: milliseconds(wait), pass_through: u32::from(pass_through) };
        self.maps().waits.insert(address(pod), value, 0).map_err(map_error("insert into", names::HOOK_WAITS))
    }

    /// Forgets a pod that is gone.
    pub fn remove_wait(&self, pod: IpAddr) {
        let _ = self.maps().waits.remove(&address(pod));
    }

    /// Addresses with a wait: after a restart some may be of pods long gone.
    pub fn waits(&self) -> Vec<IpAddr> {
        self.maps().waits.keys().filter_map(Result::ok).map(|a| ip(&a)).collect()
    }

    /// Which pod a dial to `240.x.y.z` or `127.x.y.z` was meant for.
    pub fn dialled(&self, bits: u32) -> Option<IpAddr> {
        self.maps().dials.get(&bits, 0).ok().map(|d| ip(&d.pod))
    }

    /// Did the kubelet make this connection? `local` is where it arrived.
    pub fn is_kubelets(&self, local: std::net::SocketAddr, peer: std::net::SocketAddr) -> bool {
        let key = ProbeKey {
            local: address(local.ip()),
            peer: address(peer.ip()),
            local_port: local.port(),
            peer_port: peer.port(),
        };
        self.maps().probes.get(&key, 0).is_ok_and(|closed_at| closed_at == 0)
    }

    /// What the programs did.
    pub fn counts(&self) -> HookCounts {
        let maps = self.maps();
        let get = |i| maps.counts.get(&i, 0).unwrap_or(0);
        HookCounts {
            home: get(hook_count::HOME),
            nobody_home: get(hook_count::NOBODY_HOME),
            passed_through: get(hook_count::PASSED_THROUGH),
            not_the_kubelet: get(hook_count::NOT_THE_KUBELET),
            no_name: get(hook_count::NO_NAME),
        }
    }
}

fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

fn configuration(o: &HookOptions) -> HookConfig {
    let mut comm = [0u8; 16];
    if let Some(name) = &o.kubelet_process {
        // The kernel keeps fifteen bytes of a process's name.
        let n = name.len().min(15);
        comm[..n].copy_from_slice(&name.as_bytes()[..n]);
    }
    HookConfig {
        netns_cookie: o.netns_cookie,
        cgroup: o.kubelet_cgroup.unwrap_or(0),
        comm,
        port: o.port,
        to_loopback: u16::from(o.to_loopback),
        mark: o.mark,
        unknown_wait_ms: milliseconds(o.unknown_wait),
        direct_wait_ms: milliseconds(o.direct_wait),
    }
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

/// A second handle to a map that the observer has taken.
fn reopen(pins: &Path, name: &'static str) -> Result<HashMap<MapData, ProbeKey, u64>, Error> {
    let data = MapData::from_pin(pins.join(name)).map_err(map_error("open", name))?;
    HashMap::try_from(aya::maps::Map::LruHashMap(data)).map_err(map_error("open", name))
}

/// The pin's name holds the cgroup's id: a link to another cgroup is another link.
fn pin(pins: &Path, name: &str, cgroup: u64) -> PathBuf {
    pins.join(format!("{name}-{cgroup}"))
}

fn replace_or_pin(
    pins: &Path,
    name: &'static str,
    cgroup: u64,
    attacher: &Attacher,
    root: &File,
) -> Result<(), Error> {
    let path = pin(pins, name, cgroup);
    let error =
        |source: io::Error| Error::Attach { name, to: path.display().to_string(), source: source.into() };
    if path.exists() {
        let link = sys::open_pin(&path).map_err(file("open the pin", &path))?;
        match sys::update_link(link.as_fd(), attacher.program.as_fd()) {
            Ok(()) => return Ok(()),
            // The cgroup is gone, and with it what was attached there.
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {
                fs::remove_file(&path).map_err(file("remove the pin", &path))?;
            }
            Err(e) => return Err(error(e)),
        }
    }
    let link =
        sys::create_link(attacher.program.as_fd(), root.as_raw_fd() as u32, attacher.kind).map_err(error)?;
    sys::pin(link.as_fd(), &path).map_err(file("pin a link as", &path))
}

/// Everything that an agent with other wire types has pinned: its connect programs would name pods in maps
/// that nobody reads any more. The next version's agent does the same to ours, and so does a rollback.
fn remove_other_versions(pins: &Path) {
    let Some(parent) = pins.parent() else { return };
    let Ok(entries) = fs::read_dir(parent) else { return };
    for folder in entries.flatten().map(|e| e.path()).filter(|p| p != pins && is_version(p)) {
        tracing::info!("removing {}: pins of another version", folder.display());
        for pin in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let _ = fs::remove_file(pin.path());
        }
        let _ = fs::remove_dir(&folder);
    }
}

/// `v1`, `v2`, …
pub(super) fn is_version(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok()) && folder.is_dir()
}

/// Links of an earlier configuration: once ours are in place, theirs only do the work twice.
fn remove_others(pins: &Path, cgroup: u64) {
    let ours: Vec<PathBuf> = [names::HOOK4, names::HOOK6, names::PROBE].map(|n| pin(pins, n, cgroup)).into();
    let Ok(entries) = fs::read_dir(pins) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let link =
            [names::HOOK4, names::HOOK6, names::PROBE].iter().any(|n| name.starts_with(&format!("{n}-")));
        if link && !ours.contains(&path) {
            tracing::info!("removing {}: a link of an earlier configuration", path.display());
            let _ = fs::remove_file(&path);
        }
    }
}
