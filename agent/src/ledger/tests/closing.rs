//! Connections on their way out, and clients that went without a word.

use lastcall_ebpf::abi::flag;

use super::fixtures::*;
use crate::{
    contract::{Contract, Until},
    sockets::{Socket, TcpState},
};

fn says(port: u16, s: Socket, contract: &Contract) -> String {
    let mut ledger = ledger();
    ledger.dumps(1001.0, &[Socket { local: socket(1, port, 1).local, ..s }]);
    ledger.reads(1001.1, &[]);
    ledger.says(1001.1, contract).remove(0)
}

fn closing(state: TcpState, inode: u32, send_queue: u32) -> Socket {
    Socket { state, inode, send_queue, ..socket(1, HTTP, 40_000) }
}

#[test]
fn data_behind_a_close_is_in_flight_and_a_bare_fin_is_not() {
    use TcpState::{Closing, FinWait1, LastAck};
    for state in [FinWait1, Closing, LastAck] {
        let data = says(HTTP, closing(state, 0, 2), &Contract::default());
        assert_eq!(data, "!*in flight (data not acknowledged), inferred", "{state:?}");
        let fin = says(HTTP, closing(state, 0, 1), &until(Until::Closed));
        assert_eq!(fin, "closing (closed, last acknowledgement outstanding), inferred", "{state:?}");
    }
}

#[test]
fn a_half_closed_connection_counts_as_long_as_somebody_owns_it() {
    let closed = until(Until::Closed);
    let orphan = closing(TcpState::FinWait2, 0, 0);
    let owned = closing(TcpState::FinWait2, 77, 0);
    let done = "closing (closed, last acknowledgement outstanding), inferred";
    assert_eq!(says(HTTP, orphan.clone(), &Contract::default()), done);
    assert_eq!(says(HTTP, orphan.clone(), &closed), done);
    assert_eq!(says(SQL, orphan, &Contract::default()), done);
    assert_eq!(says(HTTP, owned.clone(), &Contract::default()), done);
    assert_eq!(says(HTTP, owned.clone(), &closed), format!("!{done}"));
    let open = "!in flight (open, protocol unknown), inferred";
    assert_eq!(says(SQL, owned, &Contract::default()), open, "the client may still be sending");
}

#[test]
fn a_client_that_has_closed_its_side_may_still_wait_for_the_answer() {
    let mut ledger = ledger();
    let c = new(1001.0).asks(1002.0).flags(flag::FIN_IN | flag::FIN_IN_ACKED);
    ledger.reads(1009.0, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1009.0, &Contract::default()), ["!*in flight (request unanswered), seen"]);
    let unanswered =
        Socket { state: TcpState::CloseWait, info: Some(ages(3000, 5000, 3000)), ..socket(1, HTTP, 1) };
    assert_eq!(
        says(HTTP, unanswered.clone(), &Contract::default()),
        "!in flight (older than the attach, not known whether answered), doubt"
    );
    // A FIN that the app has not read is no request.
    let unread = Socket { receive_queue: 1, info: Some(answered()), ..unanswered.clone() };
    assert_eq!(says(HTTP, unread, &Contract::default()), "idle (answered), inferred");
    let data = Socket { receive_queue: 2, info: Some(answered()), ..unanswered };
    assert_eq!(says(HTTP, data, &Contract::default()), "!*in flight (data queued), inferred");
}

#[test]
fn behind_the_pods_own_fin_only_unacknowledged_data_counts() {
    let mut ledger = ledger();
    let c = new(1001.0).asks(1002.0).answers(1002.1).flags(flag::FIN_OUT | flag::RESPONSE_CHUNKED);
    ledger.reads(1002.2, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.says(1002.2, &Contract::default()), ["!*in flight (data not acknowledged), seen"]);
    ledger.reads(1002.3, &[(key(HTTP, 40_000), c.acks(1002.25))]);
    let done = ["closing (closed, last acknowledgement outstanding), seen"];
    assert_eq!(ledger.says(1002.3, &Contract::default()), done, "at once, without idle-after");
}

#[test]
fn a_vanished_client_is_waited_for_under_closed_alone() {
    let gone = Socket { retransmits: 7, send_queue: 100, ..socket(1, HTTP, 40_000) };
    let mut ledger = ledger();
    let c = new(1001.0).cookie(1).on(HTTP).asks(1002.0).answers(1002.1).packet(1025.0);
    ledger.dumps(1026.0, std::slice::from_ref(&gone));
    ledger.reads(1026.1, &[(key(HTTP, 40_000), c)]);
    for (contract, mark) in [(Until::Auto, ""), (Until::Idle, ""), (Until::Closed, "!"), (Until::Settled, "")]
    {
        assert_eq!(
            ledger.says(1026.1, &until(contract)),
            [format!("{mark}vanished (client vanished), seen")]
        );
    }
    // A packet since then, perhaps its answer: only a later dump tells.
    ledger.reads(1026.2, &[(key(HTTP, 40_000), c.packet(1026.15))]);
    assert_eq!(ledger.says(1026.2, &Contract::default()), ["!*in flight (data not acknowledged), seen"]);
    ledger.dumps(1026.3, &[gone]);
    assert_eq!(ledger.auto(1026.3).vanished, 1);
}

#[test]
fn retransmissions_in_quick_succession_are_an_outage_and_not_a_client_that_went() {
    // A retransmission is data that was sent.
    let silent = |ack| Socket {
        retransmits: 9,
        send_queue: 100,
        info: Some(ages(ack, 200, ack)),
        ..socket(1, HTTP, 40_000)
    };
    let waits = "!*in flight (data not acknowledged), inferred";
    assert_eq!(says(HTTP, silent(9900), &Contract::default()), waits);
    let gone = "vanished (client vanished), inferred";
    assert_eq!(says(HTTP, silent(10_000), &Contract::default()), gone);
}

#[test]
fn a_reset_that_came_in_is_for_a_dump_to_judge() {
    let mut ledger = ledger();
    let c = new(1001.0).cookie(1).on(HTTP).asks(1002.0);
    ledger.dumps(1002.1, &[socket(1, HTTP, 40_000)]);
    ledger.reads(1002.2, &[(key(HTTP, 40_000), c)]);
    assert_eq!(ledger.auto(1002.2).awaited_by_dump, 0, "its answer is a packet");
    let reset = c.flags(flag::RESET_IN).packet(1002.3);
    ledger.reads(1002.3, &[(key(HTTP, 40_000), reset)]);
    let view = ledger.auto(1002.3);
    assert_eq!((view.awaited, view.awaited_by_dump), (1, 1));
    assert_eq!(ledger.dumps(1002.4, &[]).len(), 1, "the socket has gone");
    assert_eq!(ledger.auto(1002.4).awaited, 0);
}
