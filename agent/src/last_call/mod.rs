//! Tells clients to leave: keeps the kernel's part of it going, and takes out what was left behind.
//!
//! In: the sockets in the map, and what the observer knows of their connections. Out: the lease renewed,
//! four times a second, and leftovers removed. The announcement itself is the kernel programs' alone.

pub mod sockmap_fixes;

use std::{sync::Arc, time::Duration};

use lastcall_ebpf::abi::{Connection, flag, protocol};

use sockmap_fixes::SockmapFixes;

pub use crate::kernel::last_call::{LastCall, LastCallCounts, REFUSALS, Unavailable};
use crate::{kernel::Observer, moment::Moment};

/// How long the programs may go on without the agent.
const LEASE: Duration = Duration::from_secs(1);
/// How often the lease is renewed and leftovers are looked for.
const TURN: Duration = Duration::from_millis(250);
/// A response that began longer ago than this has taken its socket out, or never will.
const LEFT_OVER: Duration = Duration::from_millis(200);

/// What tells clients to leave, where this kernel is known to do that without harm; else why not.
pub fn open(ebpf: &mut aya::Ebpf) -> Result<LastCall, String> {
    let fixes = SockmapFixes::of_this_kernel();
    if !fixes.http1 {
        return Err(format!("kernel {}", fixes.found));
    }
    LastCall::load(ebpf, fixes.http2).map_err(|e| crate::causes(&e))
}

/// Keeps the last call going, for as long as the agent lives.
pub async fn keep(last_call: Arc<LastCall>, observer: Arc<Observer>) {
    let mut turn = tokio::time::interval(TURN);
    let mut before = last_call.counts();
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let now = Moment::now();
        if let Err(e) = last_call.renew(now + LEASE) {
            tracing::warn!(error = %crate::causes(&e), "no client can be told to leave");
        }
        let counts = last_call.counts();
        if counts != before {
            tracing::debug!(?counts, "the last call");
            before = counts;
        }
        for key in last_call.sockets() {
            if is_left_over(observer.connection(&key).as_ref(), now) {
                tracing::debug!(pod = key.pod, peer_port = key.peer_port, "took a left over socket out");
                last_call.remove(&key);
            }
        }
    }
}

/// A socket in the map makes blocking calls of its app return early. It has to be there from the request to
/// the response's first segment, and is left over where nobody answers any more.
fn is_left_over(connection: Option<&Connection>, now: Moment) -> bool {
    let Some(c) = connection else { return true };
    let answered = c.protocol != protocol::HTTP2 && c.flags & flag::WAITING == 0;
    let silent = now.since(Moment(c.last_out.max(c.last_in))) > LEFT_OVER;
    (c.told_at != 0 || answered) && silent
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(10_000_000_000);

    fn left_over(flags: u32, protocol: u8, told: bool, silent_ms: u64) -> bool {
        let last_out = NOW.0 - silent_ms * 1_000_000;
        let told_at = if told { last_out } else { 0 };
        is_left_over(Some(&Connection { flags, protocol, told_at, last_out, ..Connection::default() }), NOW)
    }

    #[test]
    fn a_socket_waits_for_its_answer_however_long_that_takes() {
        assert!(!left_over(flag::WAITING, protocol::HTTP1, false, 9_000));
        assert!(!left_over(0, protocol::HTTP2, false, 9_000));
    }

    #[test]
    fn an_answer_takes_its_socket_out_or_the_agent_does() {
        assert!(!left_over(0, protocol::HTTP1, false, 100), "the kernel is at it");
        assert!(left_over(0, protocol::HTTP1, false, 300));
        assert!(left_over(flag::WAITING, protocol::HTTP1, true, 300), "told already");
        assert!(left_over(0, protocol::HTTP2, true, 300));
        assert!(is_left_over(None, NOW), "the connection is gone");
    }
}
