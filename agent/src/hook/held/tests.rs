use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, TcpListener},
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};

use super::*;
use crate::sockets::tests_fixture::close;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A caller and our end of its connection, the request sent and read.
struct Pair {
    caller: TcpStream,
    ours: TcpStream,
}

fn pair() -> Pair {
    let listener = TcpListener::bind("127.3.2.1:0").expect("a port");
    let caller = TcpStream::connect(listener.local_addr().expect("a socket")).expect("it listens");
    greeted(caller, listener.accept().expect("a caller").0)
}

fn greeted(mut caller: TcpStream, mut ours: TcpStream) -> Pair {
    caller.set_read_timeout(Some(PATIENCE)).expect("a socket");
    ours.set_read_timeout(Some(PATIENCE)).expect("a socket");
    ours.set_write_timeout(Some(PATIENCE)).expect("a socket");
    caller.write_all(b"question").expect("sent");
    let mut question = [0; 8];
    ours.read_exact(&mut question).expect("8 bytes");
    Pair { caller, ours }
}

/// The caller asks every second, and gives up a second after its first question without an answer.
fn impatient(caller: &TcpStream) {
    let alive = TcpKeepalive::new()
        .with_time(Duration::from_secs(1))
        .with_interval(Duration::from_secs(1))
        .with_retries(1);
    SockRef::from(caller).set_tcp_keepalive(&alive).expect("a socket");
}

fn hears_nothing_for(caller: &mut TcpStream, time: Duration) {
    let until = Instant::now() + time;
    let heard = loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        caller.set_read_timeout(Some(left)).expect("a socket");
        match caller.read(&mut [0]) {
            // A signal that nobody handles, such as a child's end, still ends a call with a timeout of the socket's.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            heard => break heard,
        }
    };
    assert_eq!(heard.expect_err("held").kind(), ErrorKind::WouldBlock);
}

/// What a caller reads until our end closes.
fn all_of(mut caller: TcpStream) -> io::Result<String> {
    let mut all = String::new();
    caller.read_to_string(&mut all).map(|_| all)
}

#[test]
fn a_held_connection_can_be_neither_read_nor_written_and_a_released_one_can() {
    let Pair { mut caller, mut ours } = pair();
    hold(&ours).expect("root");
    assert_eq!(ours.write(b"x").expect_err("held").raw_os_error(), Some(libc::EINVAL));
    caller.write_all(b"more").expect("the kernel receives");
    assert_eq!(ours.read(&mut [0]).expect_err("held").raw_os_error(), Some(libc::EPERM));
    release(&ours).expect("held");
    let mut more = [0; 4];
    ours.read_exact(&mut more).expect("4 bytes");
    ours.write_all(b"answer").expect("released");
    close(ours);
    assert_eq!((&more, all_of(caller).expect("no reset")), (b"more", "answer".to_owned()));
}

#[test]
fn a_caller_s_keep_alives_are_answered_while_it_is_held() {
    let Pair { mut caller, ours } = pair();
    impatient(&caller);
    hold(&ours).expect("root");
    // Unanswered, the first of them would end the connection after two seconds.
    hears_nothing_for(&mut caller, Duration::from_millis(3500));
    release(&ours).expect("held");
    close(ours);
    assert_eq!(all_of(caller).expect("no reset"), "");
}

#[test]
fn a_connection_is_made_again_and_answered() {
    let Pair { caller, ours } = pair();
    let held = hold(&ours).expect("root");
    close(ours);
    let mut again = restore(&held).expect("nobody holds it");
    assert_eq!(again.local_addr().expect("a socket"), caller.peer_addr().expect("a socket"));
    again.write_all(b"answer").expect("restored");
    drop(again);
    assert_eq!(all_of(caller).expect("no reset"), "answer");
}

#[test]
fn what_is_made_again_is_what_was_held() {
    let Pair { mut caller, mut ours } = pair();
    // Both windows have grown.
    let mut much = vec![0; 200_000];
    std::thread::scope(|s| {
        s.spawn(|| caller.write_all(&[1; 200_000]).expect("read"));
        ours.read_exact(&mut much).expect("written");
    });
    let held = hold(&ours).expect("root");
    close(ours);
    let again = hold(&restore(&held).expect("nobody holds it")).expect("root");
    // A millisecond each, and the next even number.
    let passed = again.at.saturating_sub(held.at) / 1_000_000;
    let counted = u64::from(again.timestamp.wrapping_sub(held.timestamp));
    assert!(again.at > held.at && counted < passed + 1000, "{counted} in {passed} ms");
    // The probe that asks whether the peer is there moves these marks, not the window.
    let window = Window { snd_wl1: held.window.snd_wl1, rcv_wup: held.window.rcv_wup, ..again.window };
    assert_eq!(HeldConnection { at: held.at, timestamp: held.timestamp, window, ..again }, held);
    assert_ne!((held.mss, held.options, held.rcv_wscale, held.window.snd_wnd), (0, 0, 0, 0));
}

/// The kubelet's keep-alives have seen newer timestamps than the saved one.
#[test]
fn a_connection_held_through_keep_alives_is_made_again_and_answered() {
    let Pair { caller, ours } = pair();
    impatient(&caller);
    let held = hold(&ours).expect("root");
    let mut caller = caller;
    // The next one is a second away from the last: it must not find nobody.
    hears_nothing_for(&mut caller, Duration::from_millis(1200));
    close(ours);
    let mut again = restore(&held).expect("nobody holds it");
    again.write_all(b"answer").expect("restored");
    drop(again);
    caller.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(all_of(caller).expect("heard"), "answer");
}

#[test]
fn it_can_be_held_and_made_again_many_times() {
    let Pair { caller, mut ours } = pair();
    for _ in 0..20 {
        let held = hold(&ours).expect("root");
        close(ours);
        ours = restore(&held).expect("nobody holds it");
    }
    let long = "x".repeat(200_000);
    let reader = std::thread::spawn(|| all_of(caller));
    ours.set_nonblocking(false).expect("a socket");
    ours.set_write_timeout(Some(PATIENCE)).expect("a socket");
    ours.write_all(long.as_bytes()).expect("restored");
    close(ours);
    assert_eq!(reader.join().expect("no panic").expect("no reset").len(), long.len());
}

#[test]
fn the_address_nobody_has_can_be_made_again() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.set_ip_transparent_v4(true).expect("root");
    listener.bind_device(Some(b"lo")).expect("root");
    listener.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into()).expect("a port");
    listener.listen(1).expect("a port");
    let port = v4(listener.local_addr()).expect("IPv4").port();
    let caller = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    caller.bind_device(Some(b"lo")).expect("root");
    caller.connect(&SocketAddrV4::new(Ipv4Addr::new(240, 3, 2, 1), port).into()).expect("taken over");
    let Pair { caller, ours } = greeted(caller.into(), listener.accept().expect("a caller").0.into());
    let held = hold(&ours).expect("root");
    assert_eq!(held.local, [240, 3, 2, 1]);
    close((ours, listener));
    let mut again = restore(&held).expect("nobody holds it");
    again.write_all(b"answer").expect("restored");
    drop(again);
    assert_eq!(all_of(caller).expect("no reset"), "answer");
}

#[test]
fn what_another_process_holds_is_not_made_twice() {
    for bound in [false, true] {
        let Pair { caller, mut ours } = pair();
        if bound {
            SockRef::from(&ours).bind_device(Some(b"lo")).expect("root");
        }
        let held = hold(&ours).expect("root");
        let error = restore(&held).expect_err("it lives");
        assert!(matches!(error, HeldError::StillHeld { .. }), "{error:?}");
        release(&ours).expect("held");
        assert!(matches!(restore(&held), Err(HeldError::StillHeld { .. })));
        ours.write_all(b"answer").expect("unharmed");
        close(ours);
        assert_eq!(all_of(caller).expect("no reset"), "answer");
    }
}

#[test]
fn a_caller_that_gave_up_meanwhile_is_found_out_at_once() {
    let Pair { caller, ours } = pair();
    let held = hold(&ours).expect("root");
    close((ours, caller));
    let mut again = restore(&held).expect("the kernel cannot know yet");
    again.set_nonblocking(false).expect("a socket");
    again.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(again.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_closing_connection_is_not_held_and_stays_as_it_was() {
    let Pair { caller, mut ours } = pair();
    caller.shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(ours.read(&mut [0]).expect("an end"), 0);
    assert!(matches!(hold(&ours), Err(HeldError::NotEstablished)));
    ours.write_all(b"answer").expect("not in TCP_REPAIR");
    close(ours);
    assert_eq!(all_of(caller).expect("no reset"), "answer");
}

#[test]
fn without_the_right_it_says_so_and_nothing_is_changed() {
    let Pair { caller, mut ours } = pair();
    let powerless = |ours: &TcpStream| {
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN)
            .expect("this thread's own");
        hold(ours).expect_err("not permitted")
    };
    let error = std::thread::scope(|s| s.spawn(|| powerless(&ours)).join()).expect("no panic");
    assert!(matches!(error, HeldError::NotPermitted(_)), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"));
    ours.write_all(b"answer").expect("not in TCP_REPAIR");
    close(ours);
    assert_eq!(all_of(caller).expect("no reset"), "answer");
}

/// A listener without SO_REUSEPORT finds its port free, whatever was answered there.
#[test]
fn an_answered_hook_does_not_keep_the_port() {
    for made_again in [false, true] {
        let Pair { caller, mut ours } = pair();
        let held = hold(&ours).expect("root");
        match made_again {
            true => {
                close(ours);
                ours = restore(&held).expect("nobody holds it");
            }
            false => release(&ours).expect("held"),
        }
        close(ours);
        let port = held.local_port;
        close(TcpListener::bind(("127.3.2.1", port)).expect("while its connection ends"));
        all_of(caller).expect("no reset");
        TcpListener::bind(("127.3.2.1", port)).expect("in TIME_WAIT");
    }
}

#[test]
fn a_timestamp_goes_on_while_nobody_counts() {
    let held = HeldConnection { at: 1_000_000_000, timestamp: 5000, ..HeldConnection::default() };
    let at = |options, ms| {
        let now = Moment(held.at) + Duration::from_millis(ms);
        HeldConnection { options, ..held }.timestamp_at(now)
    };
    assert_eq!(at(OPTION_TIMESTAMPS, 0), 5002);
    assert_eq!(at(OPTION_TIMESTAMPS, 1500), 6502);
    assert_eq!(at(OPTION_TIMESTAMPS, 1501) & 1, 0, "never microseconds by accident");
    assert_eq!(at(OPTION_TIMESTAMPS | OPTION_USEC_TS, 3), 8001);
    let wraps = HeldConnection { timestamp: u32::MAX, ..held };
    assert_eq!(wraps.timestamp_at(Moment(held.at) + Duration::from_millis(7)), 8);
}

#[test]
fn a_record_keeps_what_was_asked() {
    let pod: IpAddr = "10.1.2.3".parse().expect("an address");
    let record = HeldRecord::new("/drain?until=closed", Some(pod), true, Moment(5)).expect("short");
    assert_eq!((record.target(), record.pod()), (Some("/drain?until=closed"), Some(pod)));
    assert!(record.has(held_flag::FROM_KUBELET) && !record.has(held_flag::QUERY_LOST));
    assert_eq!((record.began, record.deadline), (5, 0));

    let v6: IpAddr = "fd00::1".parse().expect("an address");
    assert_eq!(HeldRecord::new("/drain", Some(v6), false, Moment(5)).expect("short").pod(), Some(v6));
    assert_eq!(HeldRecord::new("/drain", None, false, Moment(5)).expect("short").pod(), None);

    let exact = format!("/drain?{}", "x".repeat(TARGET_MAX - 7));
    let record = HeldRecord::new(&exact, None, false, Moment(5)).expect("it fits");
    assert_eq!((record.target(), record.flags), (Some(&*exact), 0));
    let record = HeldRecord::new(&format!("{exact}y"), None, false, Moment(5)).expect("the path fits");
    assert_eq!((record.target(), record.flags), (Some("/drain"), held_flag::QUERY_LOST));
    assert_eq!(HeldRecord::new(&"x".repeat(TARGET_MAX + 1), None, false, Moment(5)), None);
}

#[test]
fn a_record_of_noise_is_nobody_s_request() {
    let mut record = HeldRecord::new("/drain", None, false, Moment(5)).expect("short");
    record.target_len = u32::MAX;
    assert_eq!(record.target(), None);
    record.target_len = 4;
    record.target[..4].copy_from_slice(b"\xff\xfe\xfd\xfc");
    assert_eq!(record.target(), None);
}

#[test]
fn the_store_of_tests_keeps_one_record_a_connection() {
    let store = MemoryStore::default();
    let record = HeldRecord::new("/drain", None, false, Moment(5)).expect("short");
    store.save(&record).expect("memory");
    store.save(&HeldRecord { deadline: 9, ..record }).expect("memory");
    assert_eq!(store.load_all(), [HeldRecord { deadline: 9, ..record }]);
    store.remove(&record.key());
    store.remove(&record.key());
    assert_eq!(store.load_all(), []);
}

#[test]
fn the_specification_s_sizes_are_the_types() {
    use lastcall_ebpf::abi;
    let sizes = [
        ("FlowKey", size_of::<abi::FlowKey>()),
        ("Connection", size_of::<abi::Connection>()),
        ("H2Position", size_of::<abi::H2Position>()),
        ("StreamKey", size_of::<abi::StreamKey>()),
        ("Pod", size_of::<abi::Pod>()),
        ("Command", size_of::<abi::Command>()),
        ("PortKey", size_of::<abi::PortKey>()),
        ("Port", size_of::<abi::Port>()),
        ("Handshake", size_of::<abi::Handshake>()),
        ("ProbeKey", size_of::<abi::ProbeKey>()),
        ("Edge", size_of::<abi::Edge>()),
        ("HealthPath", size_of::<abi::HealthPath>()),
        ("HookConfig", size_of::<abi::HookConfig>()),
        ("HookWait", size_of::<abi::HookWait>()),
        ("Dial", size_of::<abi::Dial>()),
        ("LastCallConfig", size_of::<abi::LastCallConfig>()),
        ("Unread", size_of::<abi::Unread>()),
        ("Announcing", size_of::<abi::Announcing>()),
        ("HeldConnection", size_of::<HeldConnection>()),
        ("HeldRecord", size_of::<HeldRecord>()),
    ];
    let names: Vec<&str> = sizes.iter().map(|(name, _)| *name).collect();
    let numbers: Vec<String> = sizes.iter().map(|(_, size)| size.to_string()).collect();
    let text = include_str!("../../../SPECIFICATION.md");
    for row in [format!("| {} |", names.join(" | ")), format!("| {} |", numbers.join(" | "))] {
        assert!(text.contains(&row), "SPECIFICATION.md has no row {row}");
    }
    let version = format!("folder of the version's name, `v{}`", abi::ABI_VERSION);
    assert!(text.contains(&version), "SPECIFICATION.md does not say: {version}");
}
