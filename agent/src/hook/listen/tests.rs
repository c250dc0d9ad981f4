use std::{
    error::Error as _,
    io::{Read, Write},
    net::IpAddr,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use super::*;
use crate::sockets::tests_fixture;

const PATIENCE: Duration = Duration::from_secs(60);

fn listeners() -> Listeners {
    Listeners::bind(0, 0).expect("a port")
}

/// As the connect program leaves a call while nobody is home.
async fn dial_on_lo(to: [u8; 4], port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind_device(Some(b"lo"))?;
    socket.connect((Ipv4Addr::from(to), port).into()).await
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a connection").0
}

fn local(stream: &TcpStream) -> IpAddr {
    stream.local_addr().expect("a socket").ip()
}

#[tokio::test]
async fn the_door_sees_the_address_that_was_dialled() {
    let listeners = listeners();
    for to in [[127, 1, 2, 3], [127, 255, 255, 254], [240, 1, 2, 3], [240, 255, 255, 255]] {
        let (caller, taken) = tokio::join!(dial_on_lo(to, listeners.port()), accepted(&listeners.door));
        let caller = caller.expect("taken");
        assert_eq!(local(&taken), IpAddr::from(to));
        assert_eq!(taken.peer_addr().expect("a peer"), caller.local_addr().expect("a socket"));
    }
}

/// What that call leaves in the queue is nobody: it is reset by the time that it is taken.
#[tokio::test]
async fn it_is_known_whether_240_arrives() {
    let mut listeners = listeners();
    assert!(listeners.reached_at_240().await);
    assert!(accepted(&listeners.door).await.peer_addr().is_err());
    listeners.close_presence();
    let port = listeners.port();
    tests_fixture::close(listeners.close());
    let elsewhere = Listeners { port, ..super::Listeners::bind(0, 0).expect("another port") };
    assert!(!elsewhere.reached_at_240().await, "nobody is there");
}

#[tokio::test]
async fn a_v4_mapped_dial_is_an_ipv4_call() {
    let listeners = listeners();
    let to = Ipv4Addr::new(127, 4, 5, 6).to_ipv6_mapped();
    let _caller = TcpStream::connect((to, listeners.port())).await.expect("a dual-stack socket");
    assert_eq!(local(&accepted(&listeners.door).await), IpAddr::from([127, 4, 5, 6]));
}

#[tokio::test]
async fn direct_callers_come_to_the_presence() {
    let listeners = listeners();
    let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, listeners.port())).await.expect("listens");
    let presence = listeners.presence.as_ref().expect("not closed");
    assert_eq!(local(&accepted(presence).await), IpAddr::from(Ipv4Addr::LOCALHOST));
}

#[tokio::test]
async fn the_presence_has_the_mark_and_no_device_and_the_door_the_reverse() {
    let listeners = Listeners::bind(0, 0xca11).expect("root");
    let presence = SockRef::from(listeners.presence.as_ref().expect("not closed"));
    assert_eq!((presence.mark().expect("a mark"), presence.device().expect("no device")), (0xca11, None));
    let door = SockRef::from(&listeners.door);
    assert_eq!(door.mark().expect("no mark"), 0);
    assert!(door.device().expect("a device").is_some_and(|name| name.starts_with(b"lo")));
    for socket in [&presence, &door] {
        assert!(socket.nonblocking().expect("a flag"));
        // SAFETY: asks for the flags of a descriptor that lives.
        let flags = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&**socket), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

#[tokio::test]
async fn a_call_that_waits_for_an_agent_is_taken_over() {
    let port = listeners().port();
    let mut caller = tokio::spawn(async move { dial_on_lo([240, 1, 2, 3], port).await });
    // Nothing refuses it: it waits.
    timeout(Duration::from_millis(200), &mut caller).await.expect_err("nobody is home");
    let listeners = Listeners::bind(port, 0).expect("the port is free");
    let taken = accepted(&listeners.door).await;
    assert_eq!(local(&taken), IpAddr::from([240, 1, 2, 3]));
    let mut caller = timeout(PATIENCE, caller).await.expect("in time").expect("no panic").expect("connected");
    let mut taken = taken;
    taken.write_all(b"here").await.expect("sent");
    let mut word = [0; 4];
    timeout(PATIENCE, caller.read_exact(&mut word)).await.expect("in time").expect("4 bytes");
    assert_eq!(&word, b"here");
}

#[tokio::test]
async fn without_the_presence_the_door_is_still_open() {
    let mut listeners = listeners();
    assert!(listeners.close_presence().is_empty());
    assert!(listeners.close_presence().is_empty());
    let (caller, taken) =
        tokio::join!(dial_on_lo([240, 1, 2, 3], listeners.port()), accepted(&listeners.door));
    caller.expect("taken");
    assert_eq!(local(&taken), IpAddr::from([240, 1, 2, 3]));
}

#[tokio::test]
async fn closing_resets_nobody() {
    let listeners = listeners();
    let port = listeners.port();
    let mut callers = Vec::new();
    for to in [[127, 0, 0, 1], [127, 1, 2, 3], [127, 1, 2, 4]] {
        callers.push(std::net::TcpStream::connect((Ipv4Addr::from(to), port)).expect("the kernel accepts"));
    }
    let taken = listeners.close();
    assert_eq!(taken.len(), 3);
    for mut stream in taken {
        stream.write_all(b"here").await.expect("sent");
    }
    for mut caller in callers {
        let mut all = String::new();
        caller.read_to_string(&mut all).expect("no reset");
        assert_eq!(all, "here");
        caller.write_all(b"x").ok();
    }
}

#[tokio::test]
async fn a_call_that_comes_while_the_door_closes_is_taken_by_the_next() {
    let first = listeners();
    let port = first.port();
    first.shut();
    let mut caller = tokio::spawn(async move { dial_on_lo([127, 1, 2, 3], port).await });
    timeout(Duration::from_millis(100), &mut caller).await.expect_err("not answered, not refused");
    tests_fixture::close(first);
    let next = Listeners::bind(port, 0).expect("the port is free");
    accepted(&next.door).await;
    caller.await.expect("no panic").expect("connected");
}

#[tokio::test]
async fn a_taken_port_is_named_with_how_to_find_its_owner() {
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let other = std::net::TcpListener::bind((address, 0)).expect("a port");
        let port = other.local_addr().expect("a socket").port();
        let error = Listeners::bind(port, 0).expect_err("taken");
        assert!(matches!(error, ListenError::PortTaken { .. }), "{error:?}");
        assert!(error.to_string().ends_with(&format!(
            ":{port} is taken by another process: `ss -ltnp 'sport = :{port}'` shows by whom"
        )));
    }
}

#[tokio::test]
async fn two_agents_may_listen_during_an_upgrade() {
    let first = listeners();
    Listeners::bind(first.port(), 0).expect("the same user's");
}

#[test]
fn a_missing_right_is_named() {
    let without_net_admin = || {
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN)
            .expect("this thread's own");
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW).expect("this thread's own");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { Listeners::bind(0, 7).expect_err("not permitted") })
    };
    let error = std::thread::spawn(without_net_admin).join().expect("no panic");
    assert_eq!(error.to_string(), "IP_TRANSPARENT on 0.0.0.0:0 needs CAP_NET_ADMIN");
    assert!(error.source().is_some());
}

#[test]
fn only_a_lack_of_room_makes_the_loop_pause() {
    let after = |code, previous| pause_after(&io::Error::from_raw_os_error(code), previous);
    let ms = Duration::from_millis;
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert_eq!(after(code, Duration::ZERO), Some(ms(10)));
        assert_eq!(after(code, ms(40)), Some(ms(80)));
        assert_eq!(after(code, ms(900)), Some(ms(1000)));
    }
    for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::ENETDOWN, libc::EPERM] {
        assert_eq!(after(code, ms(40)), None);
    }
}
