//! One row: two pods with a server, clients before them, and the end of one pod.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use lastcall_tests::{Agent, Hook, Node, Pod};
use serde::Serialize;

use crate::client::{self, Kind, Report, Running};
use crate::kits::{Kits, words};
use crate::server::{APP_PORT, PORT, Place, Server};

/// From the first connections to the deletion.
const BEFORE: Duration = Duration::from_secs(2);
/// So many connections, and one of them to the old pod: a Service deals them out by chance, and the
/// fewest that a client opens are 16.
const CONNECTED: u64 = 8;
/// From the start of the clients to their connections.
const CONNECT: Duration = Duration::from_secs(90);
/// From the end of the pod to the end of the load.
const AFTER: Duration = Duration::from_millis(500);
/// No answer comes later: the grace ends before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A server and who asks it.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) server: Server,
    pub(crate) client: Kind,
}

/// What a pair came to; these names are the JSON's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) client: &'static str,
    pub(crate) protocol: &'static str,
    /// All requests, on both pods.
    pub(crate) requests: u64,
    /// Those without a complete and right answer.
    pub(crate) failed: u64,
    /// Connections whose client was told to leave, as the agent counts them.
    pub(crate) told: u64,
    /// Those among them that ended while the drain lasted.
    pub(crate) moved: u64,
    /// Connections that the other pod accepted meanwhile, as its kernel counts them: where they went.
    pub(crate) reopened: u64,
    /// Answers that said `Connection: close`, as the client counts them, where it does.
    pub(crate) closes: Option<u64>,
    /// Whether every answer was, byte for byte, what it must be; nothing: this client does not compare.
    pub(crate) exact: Option<bool>,
    /// From the start of the hook to its answer.
    pub(crate) answered_s: Option<f64>,
    /// The answer's outcome.
    pub(crate) outcome: String,
    /// Whether the hook asked for the last call, for clients that stay.
    #[serde(skip)]
    pub(crate) asked: bool,
    /// What one has to know to read the row.
    pub(crate) note: Option<&'static str>,
    /// Why requests may fail all the same: a known gap.
    pub(crate) gap: Option<&'static str>,
    /// Why there are no numbers: something is not to be had here.
    pub(crate) not_available: Option<String>,
    /// Why there are no numbers: it did not work.
    pub(crate) error: Option<String>,
    /// The first failed requests.
    pub(crate) errors: Vec<String>,
}

impl Row {
    /// Whether the row is what it must be: nothing lost, nothing changed, and clients gone when told.
    pub(crate) fn is_good(&self) -> bool {
        let exact = self.error.is_none() && self.requests > 0 && self.exact != Some(false);
        let told = self.moved > 0 || !self.asked;
        // A farewell costs a client at most the call that it gets wrong.
        let excused = if self.gap.is_some() { self.told } else { 0 };
        exact && told && self.failed <= excused && self.outcome == "drained"
    }
}

/// Runs a pair; what goes wrong is part of the row.
pub(crate) fn run(pair: Pair, kits: &Kits, hook: &str, verbose: bool) -> Row {
    let Pair { server, client } = pair;
    let row = Row {
        server: server.name,
        client: client.name(),
        protocol: server.protocol.name(),
        note: client.note(),
        gap: client.gap(),
        // curl is often done with a connection before it could be told.
        asked: hook.contains("last-call=http") && client != Kind::Curl,
        ..Row::default()
    };
    let needed = [&[server.kit], client.kits()].concat();
    if let Some(reason) = needed.into_iter().find_map(|kit| kits.why_not(kit)) {
        return Row { not_available: Some(reason.to_owned()), ..row };
    }
    let result = Node::new().and_then(|node| {
        let result = try_run(&row, pair, kits, hook, &node, verbose);
        if verbose && !result.as_ref().is_ok_and(|measured| measured.is_good()) {
            eprintln!("{}", node.diagnostics());
        }
        result
    });
    match result {
        Ok(measured) => measured,
        Err(error) => Row { error: Some(format!("{error:#}")), ..row },
    }
}

fn try_run(row: &Row, pair: Pair, kits: &Kits, hook: &str, node: &Node, verbose: bool) -> Result<Row> {
    let Pair { server, client } = pair;
    let agent = node.agent().start().context("start the agent")?;
    let name = server.protocol.port_name();
    let service = node.service("web").port(name, 80, PORT).start()?;
    let [(old, app), (other, other_app)] =
        [pod(node, "old", &server, kits, hook)?, pod(node, "other", &server, kits, hook)?];
    node.proxy_synced()?;
    let outside = node.client()?;
    let place = place(node, kits, "client")?;
    // Probes have come already.
    let (before, other_before) = (accepted(&old)?, accepted(&other)?);
    let running = client::start(client, &server, &place, &outside, service.address)?;
    // A virtual machine needs a while until its clients have connected.
    let until = Instant::now() + CONNECT;
    loop {
        let (here, there) = (accepted(&old)? - before, accepted(&other)? - other_before);
        if here > 0 && here + there >= CONNECTED {
            break;
        }
        if Instant::now() > until {
            bail!("the client does not connect");
        }
        work_for(Duration::from_millis(100), &running)?;
    }
    work_for(BEFORE, &running)?;

    let opened = accepted(&other)?;
    let stop = node.kubelet().delete(&old)?;
    let deleted = Timestamp::now();
    let answer = stop.answered_within(LIMIT);
    let answered = Timestamp::now();
    let reopened = accepted(&other)? - opened;
    let told = sum(&agent, "lastcall_announcements_total")?;
    let left = sum(&agent, "lastcall_announced_left_total")?;
    stop.gone_within(LIMIT)?;
    thread::sleep(AFTER);
    let Report { requests, failed, wrong, closes, errors } = running.finish()?;
    drop((app, other_app));
    if verbose {
        let failures = errors.join("\n  ");
        println!(
            "{} with {}: deleted {deleted}, answered {answered}\n  {failures}",
            server.name,
            client.name()
        );
    }
    let answer = answer?;
    Ok(Row {
        requests,
        failed,
        told,
        moved: left,
        reopened,
        closes,
        exact: wrong.map(|wrong| wrong == 0),
        answered_s: Some((answer.waited.as_secs_f64() * 10.0).round() / 10.0),
        outcome: answer.outcome().to_owned(),
        errors,
        ..row.clone()
    })
}

/// Lets the load run; one that has ended by itself is no load.
fn work_for(time: Duration, running: &Running) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if running.has_ended() {
            bail!("the client ended before its time");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn place<'a>(node: &Node, kits: &'a Kits, name: &str) -> Result<Place<'a>> {
    let inside = format!("/run/compat/{name}");
    let outside = node.host().outside(&inside);
    fs::create_dir_all(&outside)?;
    Ok(Place { kits, inside, outside })
}

/// A pod with the server, and the app behind it if it is a proxy.
fn pod(
    node: &Node,
    name: &str,
    server: &Server,
    kits: &Kits,
    hook: &str,
) -> Result<(Pod, Option<lastcall_tests::process::Process>)> {
    let command = (server.command)(&place(node, kits, name)?)?;
    let port = server.protocol.port_name();
    let pod = node.pod(name).of("web").program(&command, port, PORT).hook(Hook::http(hook)).start()?;
    let app = server.is_proxy.then(|| {
        let app = words(&[&kits.built("go/bin/server"), "-address", &format!("127.0.0.1:{APP_PORT}")]);
        pod.start_program(&app, APP_PORT)
    });
    Ok((pod, app.transpose()?))
}

/// How many connections the pod has accepted so far (`PassiveOpens` of its namespace).
fn accepted(pod: &Pod) -> Result<u64> {
    let netns = pod.netns().context("the pod is gone")?;
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no Tcp in snmp")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "PassiveOpens").context("no PassiveOpens in snmp")?;
    Ok(found.1.parse()?)
}

/// The sum of a metric over its labels.
fn sum(agent: &Agent, name: &str) -> Result<u64> {
    let metrics = agent.metrics()?;
    let ours = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let values: Vec<f64> = ours.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if values.is_empty() {
        bail!("the agent has no metric {name}");
    }
    Ok(values.iter().sum::<f64>() as u64)
}
