//! The counts and moments that the policy decides by.

use std::{fmt, time::Duration};

use lastcall_ebpf::abi;

use super::{
    Ledger,
    join::Row,
    judge::Frame,
    judgement::{Judgement, Known, State},
    ports::Speaks,
};
use crate::{contract::Until, moment::Moment};

/// How often a connection at work is looked at, at most: its answer is no edge.
const RESAMPLE_MIN: Duration = Duration::from_millis(20);
/// Shortest time over which a rate of health checks is taken.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Whether the view can be relied on, and what is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completeness {
    /// Both witnesses have been heard in their order.
    Complete,
    /// The connection table has not been read: no program, or not yet.
    #[default]
    NeverRead,
    /// No dump yet.
    NeverDumped,
    /// The dump is older than the attach: what was opened in between is in neither.
    DumpedBeforeAttach,
    /// So many connections found no place in the table.
    Refused(u64),
}

/// What is known of a pod's connections at one time, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// TCP connections that count.
    pub open: usize,
    /// Those, and UDP flows, that would lose something, or may, if the pod were stopped now.
    pub in_flight: usize,
    /// Of those in flight: at work this instant, not merely within `idle-after` of it.
    pub at_work: usize,
    /// Open, and nothing is owed.
    pub idle: usize,
    /// The pod has closed its side and everything it sent has arrived.
    pub closing: usize,
    /// The client has not answered six or more retransmissions.
    pub vanished: usize,
    /// In flight because nothing tells.
    pub doubt: usize,
    /// Of those open: judged by packets.
    pub seen: usize,
    /// Of those open: judged by their socket.
    pub inferred: usize,
    /// Of those open: older than the attach, and no payload of them has been seen since.
    pub silent: usize,
    /// Of those: at work.
    pub silent_at_work: usize,
    /// How many like them the kernel had seen the pod end by then.
    pub silent_ends: u64,
    /// UDP flows not yet gone.
    pub flows: usize,
    /// What the contract waits for.
    pub awaited: usize,
    /// Of those awaited: only another dump can show that they are done.
    pub awaited_by_dump: usize,
    /// Last new connection that carried a request and is nobody's health check.
    pub last_new: Option<Moment>,
    /// When UDP will have settled if no more datagram comes in.
    pub udp_settled: Option<Moment>,
    /// Health-check connections a second, seen during the drain.
    pub health_per_second: f64,
    /// Last time a connection that counts was found to have left.
    pub last_left: Option<Moment>,
    /// Each awaited connection has finished an exchange since the drain began and started another.
    pub closed_loop: bool,
    /// Clients told to leave since the drain began.
    pub told: u64,
    /// Of those, whose connections have ended since.
    pub told_left: u64,
    /// Of those, who have gone on instead.
    pub told_stayed: u64,
    /// Of those awaited: their clients may yet leave because of the last call.
    pub being_told: usize,
    /// When that is over for all of them by mere passage of time; `None` where it takes an answer.
    pub being_told_until: Option<Moment>,
    /// Clients told that left after the last new connection and would have asked again by now.
    pub missed: usize,
    /// When the next one would have.
    pub missed_next: Option<Moment>,
    /// Whether both witnesses were heard.
    pub completeness: Completeness,
    /// Begin of the latest read of the table.
    pub read_at: Option<Moment>,
    /// Begin of the read before that.
    pub read_before: Option<Moment>,
    /// Begin of the latest dump that was not interrupted.
    pub dump_started: Option<Moment>,
    /// End of the latest dump, if it was interrupted.
    pub interrupted: Option<Moment>,
    /// No dump since then has shown moved bytes or a new socket.
    pub still_since: Option<Moment>,
    /// Last evidence of a change that concerns the answer, the end of being in flight among them.
    pub changed_at: Moment,
    /// Last time packets of any kind were found to have passed.
    pub stirred_at: Moment,
    /// When something stops being in flight by mere passage of time; later than now.
    pub next_change: Option<Moment>,
    /// Something is at work: look again within this time, for no edge announces its end.
    pub resample: Option<Duration>,
}

impl View {
    /// Both witnesses were heard, in their order.
    pub fn complete(&self) -> bool {
        self.completeness == Completeness::Complete
    }
}

/// Whether the contract waits for it.
pub(super) fn awaits(until: Until, row: &Row, j: &Judgement) -> bool {
    match until {
        Until::Settled => false,
        Until::Auto | Until::Idle => j.state == State::InFlight,
        Until::Closed => !j.over && (j.state == State::InFlight || !row.unimportant),
    }
}

/// Whether it is shown and counted at all. An idle connection to a port that nobody declared may be
/// anything, and keeps nobody waiting but under `closed`.
pub(super) fn counts(until: Until, row: &Row, j: &Judgement) -> bool {
    !row.candidate || j.state == State::InFlight || until == Until::Closed
}

pub(super) fn view(ledger: &Ledger, frame: &Frame<'_>) -> View {
    let memory = &ledger.memory;
    let pod = ledger.table.as_ref().map(|t| t.pod).unwrap_or_default();
    let mut view = View {
        last_new: memory.new_by_table,
        health_per_second: health_rate(ledger),
        last_left: ledger.last_left,
        closed_loop: true,
        completeness: completeness(ledger),
        read_at: ledger.table.as_ref().map(|t| t.at),
        read_before: memory.read_before,
        dump_started: ledger.sockets.as_ref().and_then(|s| s.complete_since),
        interrupted: ledger.sockets.as_ref().filter(|s| !s.complete).map(|s| s.finished),
        still_since: memory.still_since,
        changed_at: ledger.attached.max(memory.edges_lost).max(ledger.last_left.unwrap_or_default()),
        stirred_at: memory.stirred,
        silent_ends: pod.silent_ends,
        told: pod.told.iter().sum(),
        told_left: pod.left.iter().sum(),
        told_stayed: memory.stayed,
        ..View::default()
    };
    let mut untold = false;
    if !matches!(view.completeness, Completeness::Complete | Completeness::NeverDumped) {
        view.last_new = view.last_new.max(memory.new_by_dumps);
    }
    view.changed_at = view.changed_at.max(view.last_new.unwrap_or_default());
    let mut last_datagram = None;
    for row in &ledger.joined.rows {
        let j = frame.judge(row);
        if !counts(frame.contract.until, row, &j) {
            continue;
        }
        view.count(row, &j);
        if row.udp {
            let last_in = row.entry.map(|(_, c)| c.last_in).filter(|at| *at != 0 && !row.unimportant);
            last_datagram = last_datagram.max(last_in);
            let settled = last_in.map(|at| Moment(at) + frame.udp_idle(row.ends.local.1));
            view.udp_settled = view.udp_settled.max(settled);
        }
        if awaits(frame.contract.until, row, &j) {
            view.awaited += 1;
            view.awaited_by_dump += usize::from(j.by_dump);
            view.closed_loop &= !row.udp
                && row.speaks == Speaks::Exchanges
                && row.entry.is_some_and(|(key, c)| memory.loops(&key, &c));
            if let Some(until) = frame.call(row).and_then(|c| c.under_way(frame.now, frame.contract.patience))
            {
                view.being_told += 1;
                untold |= until.is_none();
                view.being_told_until = view.being_told_until.max(until);
            }
        }
        if j.state == State::InFlight {
            view.next_change = [view.next_change, j.ends].into_iter().flatten().min();
        } else if !row.unimportant {
            view.changed_at = view.changed_at.max(j.since);
        }
    }
    // Datagrams of a flow that has no entry any more, or never found a place.
    if pod.last_datagram > last_datagram.unwrap_or(0) {
        let settled = Moment(pod.last_datagram) + frame.contract.udp_idle;
        view.udp_settled = view.udp_settled.max(Some(settled));
    }
    view.being_told_until = view.being_told_until.filter(|_| !untold);
    view.closed_loop &= view.awaited > 0;
    (view.missed, view.missed_next) = ledger.departures.missed(view.last_new.unwrap_or_default(), frame.now);
    view.resample = (view.at_work > 0).then(|| (frame.contract.idle_after / 2).max(RESAMPLE_MIN));
    view
}

impl View {
    fn count(&mut self, row: &Row, j: &Judgement) {
        match (row.udp, j.state) {
            (true, State::InFlight) => self.flows += 1,
            (true, _) => {}
            (false, _) => {
                self.open += 1;
                self.idle += usize::from(j.state == State::Idle);
                self.closing += usize::from(j.state == State::Closing);
                self.vanished += usize::from(j.state == State::Vanished);
                self.doubt += usize::from(j.known == Known::Doubt);
                self.seen += usize::from(j.known == Known::Seen);
                self.inferred += usize::from(j.known == Known::Inferred);
                let silent = row.entry.is_none_or(|(_, c)| abi::is_silent(c.flags));
                self.silent += usize::from(silent);
                self.silent_at_work += usize::from(silent && j.at_work);
            }
        }
        if j.state == State::InFlight {
            self.in_flight += 1;
            self.at_work += usize::from(j.at_work);
        }
    }
}

fn completeness(ledger: &Ledger) -> Completeness {
    match (&ledger.table, ledger.sockets.as_ref().and_then(|s| s.complete_since)) {
        (None, _) => Completeness::NeverRead,
        (Some(t), _) if t.pod.refused > 0 => Completeness::Refused(t.pod.refused),
        (_, None) => Completeness::NeverDumped,
        (_, Some(started)) if started < ledger.attached => Completeness::DumpedBeforeAttach,
        _ => Completeness::Complete,
    }
}

fn health_rate(ledger: &Ledger) -> f64 {
    let (Some(table), Some((base_at, base))) = (&ledger.table, ledger.memory.health_base) else { return 0.0 };
    let over = table.at.since(base_at);
    if over < RATE_OVER {
        return 0.0;
    }
    table.pod.health_connections.saturating_sub(base) as f64 / over.as_secs_f64()
}

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::NeverRead => f.write_str("no program watches the packets"),
            Self::NeverDumped => f.write_str("the sockets have not been dumped"),
            Self::DumpedBeforeAttach => f.write_str("the sockets were dumped before the attach"),
            Self::Refused(n) => write!(f, "{n} connections found no place in the table"),
        }
    }
}
