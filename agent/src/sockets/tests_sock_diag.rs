//! Sockets on the real kernel.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    time::{Duration, Instant},
};

use super::{
    Dump, Filter, Namespace, Namespaces, Ports, Socket, States, TcpState,
    cookie::u64_option,
    tests_fixture::{Directory, Pod, close, needs_root},
};

/// A tick of a kernel with HZ=100.
const TICK: Duration = Duration::from_millis(10);

fn cookie(socket: &impl AsRawFd) -> u64 {
    u64_option(socket, libc::SO_COOKIE).unwrap()
}

fn inode(socket: &impl AsRawFd) -> u32 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::metadata(path).unwrap().ino().try_into().unwrap()
}

/// One pod, its namespace held, and the node it is on.
struct Scene {
    ns: Namespace,
    pod: Pod,
    namespaces: Namespaces,
    _node: Directory,
}

impl Scene {
    async fn new() -> Self {
        let node = Directory::new();
        let pod = node.pod("a");
        let namespaces = Namespaces::start(node.path()).unwrap();
        let ns = namespaces.list().await.unwrap().remove(0);
        Self { ns, pod, namespaces, _node: node }
    }

    fn listen(&self, address: &str) -> TcpListener {
        self.pod.inside(|| TcpListener::bind(address).unwrap())
    }

    /// Client's and server's ends of a new connection.
    fn connect(&self, listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
        let client = self.pod.inside(|| TcpStream::connect(to).unwrap());
        let server = listener.accept().unwrap().0;
        (client, server)
    }

    fn pair(&self, address: &str) -> (TcpStream, TcpStream) {
        let listener = self.listen(address);
        self.connect(&listener, listener.local_addr().unwrap())
    }

    fn dump(&self) -> Dump {
        self.ns.dump(&Filter::drain()).unwrap()
    }

    /// The socket with the cookie, once the kernel shows it as wanted.
    fn socket(&self, cookie: u64, wanted: impl Fn(&Socket) -> bool) -> Socket {
        let started = Instant::now();
        loop {
            let dump = self.dump();
            let socket = dump.sockets.iter().find(|s| s.cookie == cookie);
            if let Some(socket) = socket.filter(|s| wanted(s)) {
                return socket.clone();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{cookie}: {dump:#?}");
        }
    }

    fn in_state(&self, cookie: u64, state: TcpState) -> Socket {
        self.socket(cookie, |socket| socket.state == state)
    }
}

/// Writes until the peer's window and the own buffer are full.
fn fill(mut stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.write(&[0; 65536]) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
}

#[tokio::test]
async fn both_ends_of_a_connection_of_either_family_are_shown() {
    needs_root!();
    let scene = Scene::new().await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (client, server) = scene.pair(address);
        for end in [&client, &server] {
            let socket = scene.in_state(cookie(end), TcpState::Established);
            assert_eq!(socket.local, end.local_addr().unwrap());
            assert_eq!(socket.peer, end.peer_addr().unwrap());
            assert_eq!(socket.inode, inode(end));
            assert!(socket.info.is_some());
        }
    }
    let dump = scene.dump();
    assert!(dump.started < dump.finished && !dump.interrupted);
}

#[tokio::test]
async fn ipv4_on_a_dual_stack_socket_is_given_as_ipv4() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("[::]:0");
    let port = listener.local_addr().unwrap().port();
    let (client, server) = scene.connect(&listener, SocketAddr::from(([127, 0, 0, 1], port)));
    assert!(server.peer_addr().unwrap().is_ipv6());
    let socket = scene.in_state(cookie(&server), TcpState::Established);
    assert_eq!(socket.local, client.peer_addr().unwrap());
    assert_eq!(socket.peer, client.local_addr().unwrap());
    let listening = scene.in_state(cookie(&listener), TcpState::Listen);
    assert_eq!(listening.local, listener.local_addr().unwrap(), "that of all addresses stays IPv6");
}

#[tokio::test]
async fn the_kernel_filters_ports() {
    needs_root!();
    let scene = Scene::new().await;
    let listeners: Vec<_> =
        ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].iter().map(|a| scene.listen(a)).collect();
    let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
    let _connections: Vec<_> = listeners.iter().map(|l| scene.connect(l, l.local_addr().unwrap())).collect();
    let all = scene.dump().sockets;
    assert_eq!(all.len(), 9);

    let same = |filter: Filter, expected: &dyn Fn(&Socket) -> bool| {
        // The agent filters only where it has no program for the kernel.
        assert!(filter.bytecode().is_some());
        let mut found: Vec<_> = scene.ns.dump(&filter).unwrap().sockets.iter().map(|s| s.cookie).collect();
        let mut wanted: Vec<_> = all.iter().filter(|s| expected(s)).map(|s| s.cookie).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{filter:?}");
        found.len()
    };
    let local = Filter::drain().on(Ports::Local(ports[..2].to_vec()));
    assert_eq!(same(local, &|s| ports[..2].contains(&s.local.port())), 4);
    let either = Filter::drain().on(Ports::EitherEnd(vec![ports[2]]));
    assert_eq!(same(either, &|s| [s.local.port(), s.peer.port()].contains(&ports[2])), 3);
    assert_eq!(same(Filter::drain().on(Ports::Local(vec![1])), &|_| false), 0);
    let listening = Filter::listeners().on(Ports::Local(ports.clone()));
    assert_eq!(same(listening, &|s| s.state == TcpState::Listen), 3);
}

#[tokio::test]
async fn more_ports_than_the_kernel_takes_are_filtered_by_the_agent() {
    needs_root!();
    let scene = Scene::new().await;
    let (wanted, other) = (scene.listen("127.0.0.1:0"), scene.listen("127.0.0.1:0"));
    let port = wanted.local_addr().unwrap().port();
    let ports = (1..=1000).chain([port]).collect();
    let dump = scene.ns.dump(&Filter::listeners().on(Ports::Local(ports))).unwrap();
    let cookies: Vec<_> = dump.sockets.iter().map(|s| s.cookie).collect();
    assert_eq!(cookies, [cookie(&wanted)], "and not {}", cookie(&other));
    // The longest program that the agent writes passes the kernel's audit.
    let ports: Vec<u16> = (1..1000).chain([port]).collect();
    let filter = Filter::listeners().on(Ports::Local(ports));
    assert!(filter.bytecode().is_some());
    assert_eq!(scene.ns.dump(&filter).unwrap().sockets.len(), 1);
}

#[tokio::test]
async fn half_closed_connections_are_fin_wait_2_and_close_wait() {
    needs_root!();
    let scene = Scene::new().await;
    let (client, mut server) = scene.pair("127.0.0.1:0");
    client.shutdown(Shutdown::Write).unwrap();
    scene.in_state(cookie(&client), TcpState::FinWait2);
    let socket = scene.in_state(cookie(&server), TcpState::CloseWait);
    assert_eq!(socket.receive_queue, 1, "the FIN, until it is read");
    assert_eq!(server.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(scene.in_state(cookie(&server), TcpState::CloseWait).receive_queue, 0);
}

#[tokio::test]
async fn a_close_with_data_under_way_is_fin_wait_1_or_last_ack() {
    needs_root!();
    let scene = Scene::new().await;
    let (client, server) = scene.pair("127.0.0.1:0");
    let cookies = (cookie(&client), cookie(&server));
    fill(&client);
    let filled = scene.in_state(cookies.1, TcpState::Established);
    assert!(filled.receive_queue > 0 && filled.inode != 0);
    drop(client);
    let orphan = scene.in_state(cookies.0, TcpState::FinWait1);
    assert!(orphan.send_queue > 0);
    assert_eq!(orphan.inode, 0, "orphaned");

    let (client, server) = scene.pair("[::1]:0");
    let cookies = (cookie(&client), cookie(&server));
    client.shutdown(Shutdown::Write).unwrap();
    scene.in_state(cookies.1, TcpState::CloseWait);
    fill(&server);
    assert_eq!((&server).read(&mut [0; 9]).unwrap(), 0, "unread, the close would be a reset");
    drop(server);
    let orphan = scene.in_state(cookies.1, TcpState::LastAck);
    assert!(orphan.send_queue > 0);
}

#[tokio::test]
async fn a_close_from_both_ends_with_data_under_way_is_closing() {
    needs_root!();
    let scene = Scene::new().await;
    let (client, server) = scene.pair("127.0.0.1:0");
    fill(&client);
    client.shutdown(Shutdown::Write).unwrap(); // waits behind data that the server does not take
    scene.in_state(cookie(&client), TcpState::FinWait1);
    server.shutdown(Shutdown::Write).unwrap();
    assert!(scene.in_state(cookie(&client), TcpState::Closing).send_queue > 0);
    scene.in_state(cookie(&server), TcpState::FinWait2);
}

#[tokio::test]
async fn a_half_open_connection_is_syn_received_without_info() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("127.0.0.1:0");
    let to = listener.local_addr().unwrap();
    scene.pod.run("nft", "add table t");
    scene.pod.run("nft", "add chain t output { type filter hook output priority 0 ; }");
    scene.pod.run("nft", &format!("add rule t output tcp sport {} drop", to.port()));
    let client = socket2::SockAddr::from(to);
    let connecting = scene.pod.inside(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(&client).unwrap_err();
        socket
    });
    let from = connecting.local_addr().unwrap().as_socket().unwrap();
    let half_open = |dump: &Dump| dump.sockets.iter().find(|s| s.peer == from).cloned();
    let socket = half_open(&scene.dump()).unwrap();
    assert_eq!((socket.state, socket.inode, socket.info), (TcpState::SynReceived, 0, None));
    let filter = Filter { states: States::of(&[TcpState::Established]), ports: Ports::All };
    assert_eq!(half_open(&scene.ns.dump(&filter).unwrap()), None);
}

#[tokio::test]
async fn a_connection_that_waits_for_accept_has_no_inode() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("127.0.0.1:0");
    let mut client = scene.pod.inside(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    client.write_all(b"request").unwrap();
    let of_client = |s: &&Socket| s.peer == client.local_addr().unwrap();
    let dump = scene.dump();
    let waiting = dump.sockets.iter().find(of_client).unwrap().clone();
    assert_eq!((waiting.state, waiting.inode), (TcpState::Established, 0));
    assert_eq!(waiting.receive_queue, 7);
    assert_eq!(scene.in_state(cookie(&listener), TcpState::Listen).receive_queue, 1);

    let server = listener.accept().unwrap().0;
    assert_eq!(cookie(&server), waiting.cookie, "and keeps its identity when accepted");
    let accepted = scene.in_state(waiting.cookie, TcpState::Established);
    assert_eq!(accepted.inode, inode(&server));
    let listening = scene.in_state(cookie(&listener), TcpState::Listen);
    assert_eq!((listening.receive_queue, listening.info), (0, None));
}

#[tokio::test]
async fn queues_bytes_and_ages_are_the_connections() {
    needs_root!();
    let scene = Scene::new().await;
    let opens = Instant::now();
    let (mut client, mut server) = scene.pair("127.0.0.1:0");
    let quiet = scene.in_state(cookie(&server), TcpState::Established).info.unwrap();
    assert_eq!(quiet.bytes_received, 0);
    // Long enough that a later age cannot be taken for the connection's.
    while scene.in_state(cookie(&server), TcpState::Established).info.unwrap().last_data_received < 5 * TICK {
    }
    assert!(opens.elapsed() + 2 * TICK > 5 * TICK);

    let sent = Instant::now();
    client.write_all(&[1; 1000]).unwrap();
    let socket = scene.socket(cookie(&server), |socket| socket.receive_queue > 0);
    let info = socket.info.unwrap();
    assert_eq!((socket.receive_queue, info.bytes_received), (1000, 1000));
    assert!(info.last_data_received <= sent.elapsed() + TICK, "{info:?}");
    assert!(info.last_data_sent >= 5 * TICK, "nothing sent since it was opened: {info:?}");
    server.read_exact(&mut [0; 400]).unwrap();
    assert_eq!(scene.in_state(cookie(&server), TcpState::Established).receive_queue, 600);
    let acked = scene.socket(cookie(&client), |s| s.info.is_some_and(|info| info.bytes_acked >= 1000));
    // The SYN counts as one.
    assert!(acked.info.unwrap().bytes_acked <= 1001, "{acked:?}");
    assert_eq!((acked.send_queue, acked.info.unwrap().not_sent), (0, 0));

    let answered = Instant::now();
    server.write_all(&[2; 10]).unwrap();
    let info = scene.in_state(cookie(&server), TcpState::Established).info.unwrap();
    assert!(info.last_data_sent <= answered.elapsed() + TICK, "{info:?}");

    fill(&server);
    let full = scene.socket(cookie(&server), |s| s.info.is_some_and(|info| info.not_sent > 0));
    assert!(full.send_queue >= full.info.unwrap().not_sent);
}

#[tokio::test]
async fn the_mark_and_the_cgroup_are_shown() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("127.0.0.1:0");
    socket2::SockRef::from(&listener).set_mark(0x1ca11).unwrap();
    let socket = scene.in_state(cookie(&listener), TcpState::Listen);
    assert_eq!(socket.mark, 0x1ca11);
    assert_ne!(socket.cgroup, 0);
}

#[tokio::test]
async fn the_nodes_listeners_can_be_asked_for_by_port() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let filter = Filter::listeners().on(Ports::Local(vec![listener.local_addr().unwrap().port()]));
    let dump = scene.namespaces.node().dump_async(filter).await.unwrap();
    assert_eq!(dump.sockets.iter().map(|s| s.cookie).collect::<Vec<_>>(), [cookie(&listener)]);
}

#[tokio::test]
async fn one_socket_can_be_looked_up_alone() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("[::]:0");
    let port = listener.local_addr().unwrap().port();
    for to in [SocketAddr::from(([127, 0, 0, 1], port)), format!("[::1]:{port}").parse().unwrap()] {
        let (client, server) = scene.connect(&listener, to);
        let shown = scene.in_state(cookie(&server), TcpState::Established);
        let look_up = |cookie| scene.ns.look_up(shown.local, shown.peer, cookie).unwrap();
        assert_eq!(look_up(shown.cookie).map(|s| (s.cookie, s.inode)), Some((shown.cookie, shown.inode)));
        assert_eq!(look_up(shown.cookie + 1), None, "another socket's");
        // A reset leaves nothing behind.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        close((client, server));
        assert_eq!(look_up(shown.cookie), None);
    }
    assert_eq!(scene.dump().sockets.len(), 1, "after errors the socket is as good as new");
}

#[tokio::test]
async fn udp_sockets_that_take_datagrams_from_anybody_are_listed() {
    needs_root!();
    let scene = Scene::new().await;
    let bind = |address: &str| scene.pod.inside(|| UdpSocket::bind(address).unwrap());
    let (v4, v6, connected) = (bind("0.0.0.0:0"), bind("[::1]:0"), bind("127.0.0.1:0"));
    connected.connect("127.0.0.1:9").unwrap();
    let mut expected = [&v4, &v6].map(|s| s.local_addr().unwrap().port());
    expected.sort_unstable();
    assert_eq!(scene.ns.listening_udp_ports().unwrap(), expected);
}

#[tokio::test]
async fn a_dump_of_many_batches_is_complete() {
    needs_root!();
    let scene = Scene::new().await;
    let listener = scene.listen("127.0.0.1:0");
    let to = listener.local_addr().unwrap();
    let connections: Vec<_> = (0..400).map(|_| scene.connect(&listener, to)).collect();
    let mut expected: Vec<_> = connections.iter().flat_map(|(c, s)| [cookie(c), cookie(s)]).collect();
    let filter = Filter { states: States::LIVE, ports: Ports::EitherEnd(vec![to.port()]) };
    let dump = scene.ns.dump(&filter).unwrap();
    let mut found: Vec<_> = dump.sockets.iter().map(|s| s.cookie).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drains_ask_at_the_same_time_without_mixing_answers() {
    needs_root!();
    let node = Directory::new();
    let pods: Vec<_> = ["a", "b"].iter().map(|name| node.pod(name)).collect();
    let namespaces = Namespaces::start(node.path()).unwrap();
    let mut drains = tokio::task::JoinSet::new();
    for (ns, (pod, count)) in namespaces.list().await.unwrap().into_iter().zip(pods.iter().zip([3, 40])) {
        let listeners: Vec<_> =
            pod.inside(|| (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect());
        let mut expected: Vec<_> = listeners.iter().map(cookie).collect();
        expected.sort_unstable();
        // Two drains of the same pod share its sockets; a third asks from outside.
        let outsider = namespaces.list().await.unwrap().into_iter().find(|o| o.inode() == ns.inode());
        for ns in [ns.clone(), ns, outsider.unwrap()] {
            let (expected, listeners) = (expected.clone(), listeners.iter().map(|l| l.try_clone().unwrap()));
            let listeners: Vec<_> = listeners.collect();
            drains.spawn(async move {
                for _ in 0..50 {
                    let dump = ns.dump_async(Filter::drain()).await.unwrap();
                    let mut found: Vec<_> = dump.sockets.iter().map(|s| s.cookie).collect();
                    found.sort_unstable();
                    assert_eq!(found, expected, "{ns:?}");
                    assert_eq!(ns.links_async().await.unwrap().len(), 1);
                    assert_eq!(ns.passive_opens().await.unwrap(), 0);
                }
                drop(listeners);
            });
        }
    }
    drains.join_all().await;
}
