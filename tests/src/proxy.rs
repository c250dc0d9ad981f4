//! What kube-proxy does: nftables rules that send new connections to the endpoints, a second late.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::journal::Journal;
use crate::manifest::{PodObject, ServiceKind, ServiceObject};
use crate::netns::Netns;

/// How long the rules lag behind the endpoints: kube-proxy's `minSyncPeriod`, which binds in any rollout.
pub const LAG: Duration = Duration::from_secs(1);

/// Applies rules in order, each [`LAG`] after it was decided. Established connections stay where conntrack
/// has them, as they do with kube-proxy.
#[derive(Debug)]
pub struct Proxy {
    decided: Mutex<Sender<Update>>,
    count: AtomicU64,
    applied: Arc<Journal<u64>>,
}

struct Update {
    due: Instant,
    rules: String,
    number: u64,
}

impl Proxy {
    /// Starts the proxy of the node whose network is `netns`.
    pub fn new(netns: Netns) -> Self {
        let (decided, updates) = channel();
        let applied = Arc::new(Journal::default());
        let journal = Arc::clone(&applied);
        thread::spawn(move || apply(&netns, &updates, &journal));
        Self { decided: Mutex::new(decided), count: AtomicU64::new(0), applied }
    }

    /// Decides where new connections go from [`LAG`] on; the very first rules apply at once.
    pub fn update(&self, services: &[ServiceObject], pods: &[PodObject], masquerade: bool) {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let due = Instant::now() + if number == 1 { Duration::ZERO } else { LAG };
        let update = Update { due, rules: rules(services, pods, masquerade), number };
        let _ = self.decided.lock().unwrap_or_else(PoisonError::into_inner).send(update);
    }

    /// Waits until everything decided so far is in force.
    pub fn synced(&self) -> bool {
        let wanted = self.count.load(Ordering::SeqCst);
        let enough = |number: &u64| (*number >= wanted).then_some(());
        wanted == 0 || self.applied.wait(LAG * 60, enough).is_some()
    }
}

fn apply(netns: &Netns, updates: &Receiver<Update>, applied: &Journal<u64>) {
    for update in updates {
        // This pause is the thing under test: the lag between an endpoint's change and the rules.
        thread::sleep(update.due.saturating_duration_since(Instant::now()));
        if let Err(error) = netns.command("nft", &["-f", "-"], &update.rules) {
            eprintln!("the proxy's rules were refused: {error:#}");
        }
        applied.push(update.number);
    }
}

/// The whole table; replacing it is one transaction, and connections keep their translation.
fn rules(services: &[ServiceObject], pods: &[PodObject], masquerade: bool) -> String {
    let mut text = String::from("table inet proxy {}\ndelete table inet proxy\ntable inet proxy {\n");
    let mut vias = String::new();
    for service in services.iter().filter(|service| service.kind != ServiceKind::Headless) {
        for (number, port) in &service.ports {
            for ipv6 in [false, true] {
                let to = endpoints(service, pods, ipv6);
                let chain = format!("{}-{}-{number}", service.name, if ipv6 { 6 } else { 4 });
                let protocol = port.protocol.to_lowercase();
                let _ = writeln!(
                    text,
                    "  chain {chain} {{\n    meta l4proto {protocol} {}\n  }}",
                    balance(&to, port.number, ipv6)
                );
                let family = if ipv6 { "ip6" } else { "ip" };
                for ip in service.ips.iter().filter(|ip| ip.is_ipv6() == ipv6) {
                    let _ = writeln!(vias, "    {family} daddr {ip} {protocol} dport {number} goto {chain}");
                }
                if let Some(node_port) = service.node_port {
                    let nfproto = if ipv6 { "ipv6" } else { "ipv4" };
                    let _ = writeln!(
                        vias,
                        "    meta nfproto {nfproto} fib daddr type local {protocol} dport {node_port} goto {chain}"
                    );
                }
            }
        }
    }
    let _ = writeln!(text, "  chain services {{\n{vias}  }}");
    text += "  chain prerouting {\n    type nat hook prerouting priority dstnat;\n    jump services\n  }\n";
    text += "  chain output {\n    type nat hook output priority -100;\n    jump services\n  }\n";
    if masquerade {
        text += "  chain postrouting {\n    type nat hook postrouting priority srcnat;\n    ct status dnat masquerade\n  }\n";
    }
    text + "}\n"
}

/// Ready endpoints; when there is none, those that still serve while they terminate.
fn endpoints(service: &ServiceObject, pods: &[PodObject], ipv6: bool) -> Vec<IpAddr> {
    let selected = || pods.iter().filter(|pod| service.selects(pod) && pod.ready);
    let ips = |pod: &PodObject| pod.ips.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
    let ready: Vec<IpAddr> = selected().filter(|pod| pod.takes_traffic()).filter_map(ips).collect();
    if ready.is_empty() { selected().filter_map(ips).collect() } else { ready }
}

fn balance(to: &[IpAddr], port: u16, ipv6: bool) -> String {
    let family = if ipv6 { "ip6" } else { "ip" };
    match to {
        // A nat chain cannot reject; nobody listens on this port of the node, which refuses as well.
        [] => "redirect to :9".to_owned(),
        [only] => format!("dnat {family} to {}", at(*only, port)),
        _ => {
            let map: Vec<String> = to.iter().enumerate().map(|(i, ip)| format!("{i} : {ip}")).collect();
            format!("dnat {family} to numgen random mod {} map {{ {} }}:{port}", to.len(), map.join(", "))
        }
    }
}

fn at(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}
