//! A status as people read it. Pure: the same status is always the same text.

use std::fmt::Write as _;

use super::{
    labels::ConnectionState,
    status::{
        ConnectionStatus, Counts, DrainStatus, EbpfStatus, Known, KnownCounts, LastCallStatus, NodeStatus,
    },
    table::{Table, clean, count, parts, seconds},
};

/// `lastcall status`.
pub fn status(node: &NodeStatus) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        out,
        "lastcall {}, up {}; {}",
        clean(&node.version),
        seconds(node.uptime_seconds),
        ebpf(&node.ebpf)
    );
    for problem in &node.problems {
        let _ = writeln!(out, "problem: {}", clean(problem));
    }
    if node.drains.is_empty() {
        out.push_str("No pod of this node is Terminating.\n");
        return out;
    }
    let going_on = node.drains.iter().filter(|d| d.outcome.is_none()).count() as u64;
    let hooks = node.drains.iter().map(|d| u64::from(d.hooks_waiting)).sum();
    let _ = writeln!(
        out,
        "{} Terminating, {going_on} draining, {} waiting\n",
        count(node.drains.len() as u64, "pod"),
        count(hooks, "hook")
    );
    let calls = node.drains.iter().any(|d| d.last_call.is_some());
    let mut head = vec!["NAMESPACE", "POD", "SINCE", "DEADLINE", "HOOKS", "OPEN", "IN FLIGHT", "FLOWS"];
    if calls {
        head.push("TOLD");
    }
    head.extend(["KNOWN", "WAITING FOR"]);
    let mut table = Table::new(&head, if calls { &[2, 3, 4, 5, 6, 7, 8] } else { &[2, 3, 4, 5, 6, 7] });
    for drain in &node.drains {
        let mut row = vec![
            drain.namespace.clone(),
            drain.name.clone(),
            seconds(drain.began_seconds_ago),
            deadline(drain),
            drain.hooks_waiting.to_string(),
            drain.counts.open.to_string(),
            drain.counts.in_flight.to_string(),
            drain.counts.flows.to_string(),
        ];
        if calls {
            row.push(drain.last_call.as_ref().map_or_else(|| "-".to_owned(), |c| c.told.to_string()));
        }
        row.extend([known_counts(&drain.known), waiting_for(drain)]);
        table.row(row);
    }
    let _ = write!(out, "{table}");
    out
}

/// `lastcall connections POD`.
pub fn connections(drain: &DrainStatus) -> String {
    let addresses: Vec<_> = drain.addresses.iter().map(ToString::to_string).collect();
    let mut out = String::new();
    let _ = writeln!(out, "{}/{}  {}", clean(&drain.namespace), clean(&drain.name), addresses.join(", "));
    let left = match deadline(drain).as_str() {
        "-" => String::new(),
        "over" => ", the deadline is over".to_owned(),
        left => format!(", {left} to the deadline"),
    };
    let _ = writeln!(
        out,
        "Terminating for {}{left}; {} waiting, until={}",
        seconds(drain.began_seconds_ago),
        count(drain.hooks_waiting.into(), "hook"),
        clean(&drain.until)
    );
    let verb = if drain.outcome.is_some() { "ended" } else { "waiting for" };
    let _ = writeln!(out, "{verb}: {}", clean(&waiting_for(drain)));
    if drain.outcome.is_none() && !drain.settle.is_empty() && !drain.waiting_for.contains(&drain.settle) {
        let _ = writeln!(out, "to settle took {}", clean(&drain.settle));
    }
    if let Some(call) = &drain.last_call {
        let _ = writeln!(out, "last call: {}", last_call(call));
    }
    let _ = writeln!(out, "{}", counts(&drain.counts, &drain.known));
    if drain.connections.is_empty() {
        return out;
    }
    let mut sorted: Vec<&ConnectionStatus> = drain.connections.iter().collect();
    sorted.sort_by_key(|c| (c.state, c.peer, c.local));
    let mut head = vec!["PEER", "LOCAL", "PROTOCOL", "STATE", "SINCE", "LAST IN", "LAST OUT", "KNOWN", "WHY"];
    if drain.last_call.is_some() {
        head.push("TOLD TO LEAVE");
    }
    let mut table = Table::new(&head, &[4, 5, 6]);
    for c in sorted {
        let mut row = vec![
            c.peer.to_string(),
            c.local.to_string(),
            c.protocol.clone(),
            state(c.state).to_owned(),
            ago(c.since_seconds),
            ago(c.last_in_seconds),
            ago(c.last_out_seconds),
            known(c.known).to_owned(),
            c.why.clone(),
        ];
        if drain.last_call.is_some() {
            row.push(told(c));
        }
        table.row(row);
    }
    let _ = write!(out, "\n{table}");
    if drain.connections_left_out > 0 {
        let _ = writeln!(out, "and {} more", drain.connections_left_out);
    }
    out
}

fn last_call(call: &LastCallStatus) -> String {
    let mut out = format!("{} told to leave, {} left", count(call.told, "client"), call.left);
    if call.stayed > 0 {
        let _ = write!(out, ", {} went on all the same", call.stayed);
    }
    if let Some(why) = &call.unable {
        let _ = write!(out, "; none can be told: {}", clean(why));
    }
    out
}

/// When its client was told, or how it stands.
fn told(c: &ConnectionStatus) -> String {
    match (c.told_seconds, c.last_call.as_deref()) {
        (Some(at), Some("told") | None) => format!("{} ago", seconds(at)),
        (Some(at), Some(words)) => format!("{} ago: {words}", seconds(at)),
        (None, Some(words)) => words.to_owned(),
        (None, None) => "-".to_owned(),
    }
}

fn ebpf(ebpf: &EbpfStatus) -> String {
    if ebpf.available {
        let how = clean(&ebpf.how);
        format!("eBPF by {how}, {} of {} connections in the table", ebpf.table_entries, ebpf.table_capacity)
    } else {
        format!("no eBPF ({}): sockets are polled", clean(&ebpf.how))
    }
}

fn deadline(drain: &DrainStatus) -> String {
    match drain.outcome {
        Some(_) => "-".to_owned(),
        None if drain.deadline_in_seconds <= 0.0 => "over".to_owned(),
        None => seconds(drain.deadline_in_seconds),
    }
}

fn waiting_for(drain: &DrainStatus) -> String {
    match drain.outcome {
        Some(outcome) if drain.waiting_for.is_empty() => outcome.to_string(),
        Some(outcome) => format!("{outcome}: {}", drain.waiting_for),
        None => drain.waiting_for.clone(),
    }
}

fn counts(c: &Counts, known: &KnownCounts) -> String {
    let states = parts(&[
        (c.in_flight, state(ConnectionState::InFlight)),
        (c.doubt, state(ConnectionState::Doubt)),
        (c.closing, state(ConnectionState::Closing)),
        (c.vanished, state(ConnectionState::Vanished)),
        (c.idle, state(ConnectionState::Idle)),
    ]);
    let mut out = format!("{} open", c.open);
    if !states.is_empty() {
        let _ = write!(out, " ({states})");
    }
    if c.flows > 0 {
        let _ = write!(out, ", {}", count(c.flows, "UDP flow"));
    }
    let known = known_counts(known);
    if known != "-" {
        let _ = write!(out, "; {known}");
    }
    out
}

fn known_counts(k: &KnownCounts) -> String {
    let text = parts(&[
        (k.seen, known(Known::Seen)),
        (k.inferred, known(Known::Inferred)),
        (k.doubt, known(Known::Doubt)),
    ]);
    if text.is_empty() { "-".to_owned() } else { text }
}

fn state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::InFlight => "in flight",
        other => other.as_str(),
    }
}

fn known(known: Known) -> &'static str {
    match known {
        Known::Seen => "seen",
        Known::Inferred => "inferred",
        Known::Doubt => "doubt",
    }
}

fn ago(s: Option<f64>) -> String {
    s.map_or_else(|| "-".to_owned(), seconds)
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
