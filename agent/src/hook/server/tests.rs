use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{self, timeout},
};

use super::*;
use crate::{
    cluster::PodName,
    contract::Until,
    hook::{
        answer::{Answer, Outcome, Remained, Reply},
        desk::{Call, StatusRequest},
        fault::Fault,
        held::MemoryStore,
        identity::Page,
    },
    moment::Moment,
};

mod bad_input;
mod restart;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers every hook when the test says so.
pub(super) struct TestDesk {
    calls: Mutex<Vec<Call>>,
    arrived: watch::Sender<usize>,
    /// Drain futures that ended without an answer.
    dropped: watch::Sender<usize>,
    answer: watch::Sender<bool>,
    faults: watch::Sender<Vec<Fault>>,
    kubelet: AtomicBool,
    panics: AtomicBool,
    /// The map of dials is empty.
    forgets: AtomicBool,
}

impl Default for TestDesk {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            arrived: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
            answer: watch::Sender::new(false),
            faults: watch::Sender::new(Vec::new()),
            kubelet: AtomicBool::new(true),
            panics: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
        }
    }
}

impl TestDesk {
    async fn arrivals(&self, n: usize) {
        reaches(&self.arrived, n).await;
    }

    fn answer(&self) {
        self.answer.send_replace(true);
    }

    /// What was wrong so far, as soon as that is `n` things. Some are counted after their answer.
    async fn faults(&self, n: usize) -> Vec<Fault> {
        let mut faults = self.faults.subscribe();
        let enough = timeout(PATIENCE, faults.wait_for(|all| all.len() >= n)).await;
        enough.unwrap_or_else(|_| panic!("no {n} of {:?}", *self.faults.borrow())).expect("it lives").clone()
    }

    fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }
}

async fn reaches(count: &watch::Sender<usize>, n: usize) {
    let mut count = count.subscribe();
    let reached = timeout(PATIENCE, count.wait_for(|now| *now == n)).await.map(|r| r.map(|_| ()));
    reached.unwrap_or_else(|_| panic!("{} instead of {n}", *count.borrow())).expect("its sender lives");
}

struct Dropped<'a>(Option<&'a TestDesk>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some(desk) = self.0 {
            desk.dropped.send_modify(|n| *n += 1);
        }
    }
}

impl Desk for TestDesk {
    /// 127.x.y.z stands for 10.x.y.z.
    fn dialled(&self, bits: u32) -> Option<IpAddr> {
        let pod = Ipv4Addr::from_bits(0x0a00_0000 | bits).into();
        (!self.forgets.load(Ordering::Relaxed)).then_some(pod)
    }

    fn is_kubelet(&self, _: SocketAddr, _: SocketAddr) -> bool {
        self.kubelet.load(Ordering::Relaxed)
    }

    fn fault(&self, fault: Fault) {
        self.faults.send_modify(|faults| faults.push(fault));
    }

    async fn drain(&self, call: Call) -> Answer {
        let mut dropped = Dropped(Some(self));
        call.book.deadline(Moment(77));
        lock(&self.calls).push(call.clone());
        self.arrived.send_modify(|n| *n += 1);
        assert!(!self.panics.swap(false, Ordering::Relaxed), "told to panic");
        self.answer.subscribe().wait_for(|now| *now).await.expect("the desk lives");
        dropped.0 = None;
        Answer {
            outcome: Outcome::Drained,
            waited: Duration::from_millis(3210),
            remained: Remained { open: 2, ..Remained::default() },
            last_call: None,
            why: format!("until {:?}", call.contract.until).to_lowercase(),
            warnings: vec!["of the drain".to_owned()],
            last_close_to_answer: None,
        }
    }

    async fn status(&self, request: StatusRequest) -> Reply {
        match request.page {
            Page::Connections(_) => std::future::pending().await,
            page => Reply::json(&format!("{page:?} {}", request.query)),
        }
    }
}

/// Times short enough for tests, long enough for a busy machine.
pub(super) fn limits() -> Limits {
    Limits {
        // Longer than a test that does send its head can be kept from it.
        header: Duration::from_secs(2),
        status: Duration::from_millis(200),
        farewell: Duration::from_secs(3),
        take_back: Duration::from_millis(50),
        last_orders: Duration::from_millis(1),
        ..Limits::default()
    }
}

/// A server that runs.
struct Served {
    desk: Arc<TestDesk>,
    store: Arc<dyn HeldStore>,
    shared: Arc<Shared<TestDesk>>,
    port: u16,
    held: watch::Receiver<usize>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        Self::with(limits(), Arc::new(MemoryStore::default()), 0)
    }

    fn with(limits: Limits, store: Arc<dyn HeldStore>, port: u16) -> Self {
        let listeners = Listeners::bind(port, 0).expect("a port");
        Self::behind(listeners, limits, store, Returned::default())
    }

    fn behind(listeners: Listeners, limits: Limits, store: Arc<dyn HeldStore>, returned: Returned) -> Self {
        let (desk, port, stop) = (Arc::<TestDesk>::default(), listeners.port(), CancellationToken::new());
        let server = HookServer::new(Arc::clone(&desk), Arc::clone(&store), limits);
        let (held, shared) = (server.held(), Arc::clone(&server.0));
        let task = tokio::spawn(server.serve(listeners, returned, stop.clone()));
        Self { desk, store, shared, port, held, stop, task }
    }

    async fn connect(&self, to: [u8; 4]) -> TcpStream {
        TcpStream::connect((Ipv4Addr::from(to), self.port)).await.expect("the server listens")
    }

    /// A hook that has been sent; its answer is to come.
    async fn hook(&self, to: [u8; 4], target: &str) -> TcpStream {
        let mut stream = self.connect(to).await;
        stream.write_all(get(target).as_bytes()).await.expect("the request is sent");
        stream
    }

    /// The same before the server's task can run: one thread, nothing awaited.
    fn hook_at_once(&self, to: [u8; 4], target: &str) -> TcpStream {
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::from(to), self.port)).expect("it listens");
        std::io::Write::write_all(&mut stream, get(target).as_bytes()).expect("sent");
        stream.set_nonblocking(true).expect("a socket");
        TcpStream::from_std(stream).expect("a runtime")
    }

    async fn held_reaches(&mut self, n: usize) {
        timeout(PATIENCE, self.held.wait_for(|now| *now == n)).await.expect("in time").expect("a server");
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("in time").expect("no panic");
    }
}

/// As the kubelet sends it.
fn get(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: 10.5.6.7:9902\r\nUser-Agent: kube-lifecycle/1.34\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
}

/// Everything until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end in time").expect("no reset");
    String::from_utf8(bytes).expect("text")
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1
}

/// One answer, complete, after which the connection is closed.
fn assert_well_formed(answer: &str) {
    let head = answer.split("\r\n\r\n").next().expect("a head").to_lowercase();
    assert!(head.contains("\r\nconnection: close"), "{answer:?}");
    let length = head.split("\r\ncontent-length: ").nth(1).and_then(|l| l.lines().next()?.parse().ok());
    assert_eq!(length, Some(body(answer).len()), "{answer:?}");
    let answers = answer.matches("HTTP/1.1 ").count() + answer.matches("HTTP/1.0 ").count();
    assert_eq!(answers, 1, "{answer:?}");
}

#[tokio::test]
async fn a_hook_is_answered_when_its_pod_has_drained() {
    let mut served = Served::start();
    let caller = served.hook([127, 5, 6, 7], "/drain?until=closed&settle=5&x=1").await;
    served.desk.arrivals(1).await;
    served.held_reaches(1).await;
    let call = served.desk.calls().remove(0);
    assert_eq!(call.callee, Callee::Dialled { bits: 0x05_06_07, pod: Some([10, 5, 6, 7].into()) });
    assert!(call.from_kubelet && call.deadline.is_none());
    assert_eq!(call.query, "until=closed&settle=5&x=1");
    assert_eq!((call.contract.until, call.contract.settle), (Until::Closed, None));
    served.desk.answer();
    let answer = rest(caller).await;
    assert_well_formed(&answer);
    assert_eq!(status(&answer), 200);
    let json: serde_json::Value = serde_json::from_str(body(&answer)).expect("JSON");
    assert_eq!(json["outcome"], "drained");
    assert_eq!(json["waited_seconds"], 3.21);
    assert_eq!(json["remained"]["open"], 2);
    assert_eq!(json["why"], "until closed");
    let warnings = json["warnings"].as_array().expect("an array");
    let names: Vec<_> = warnings.iter().map(|w| w.as_str().unwrap_or("").split(':').next()).collect();
    assert_eq!(names, [Some("settle"), Some("x"), Some("of the drain")]);
    served.held_reaches(0).await;
    assert_eq!(served.store.load_all(), vec![]);
}

#[tokio::test]
async fn a_direct_caller_names_its_pod() {
    let served = Served::start();
    served.desk.kubelet.store(false, Ordering::Relaxed);
    let caller = served.hook([127, 0, 0, 1], "/drain/web/web-0").await;
    served.desk.arrivals(1).await;
    let call = served.desk.calls().remove(0);
    let pod = PodName { namespace: "web".to_owned(), name: "web-0".to_owned() };
    assert_eq!((call.callee, call.from_kubelet), (Callee::Named(pod), false));
    served.desk.answer();
    assert_eq!(status(&rest(caller).await), 200);
}

#[tokio::test]
async fn only_the_kubelet_speaks_for_a_pod_by_its_address() {
    let served = Served::start();
    served.desk.kubelet.store(false, Ordering::Relaxed);
    let answer = rest(served.hook([127, 5, 6, 7], "/drain").await).await;
    assert_well_formed(&answer);
    assert_eq!((status(&answer), served.desk.calls().len()), (403, 0));
    assert!(body(&answer).contains("only the kubelet"), "{answer}");
}

#[tokio::test]
async fn status_pages_are_bounded_in_time() {
    let served = Served::start();
    let answer = rest(served.hook([127, 0, 0, 1], "/status?watch=1").await).await;
    assert_well_formed(&answer);
    assert_eq!((status(&answer), body(&answer)), (200, "\"Node watch=1\"\n"));
    let answer = rest(served.hook([127, 0, 0, 1], "/connections/a/b").await).await;
    assert_well_formed(&answer);
    assert_eq!(status(&answer), 503);
}

#[tokio::test]
async fn a_caller_that_leaves_is_forgotten() {
    let mut served = Served::start();
    let (fin, rst) =
        (served.hook([127, 5, 6, 7], "/drain").await, served.hook([127, 5, 6, 8], "/drain").await);
    served.held_reaches(2).await;
    served.desk.arrivals(2).await;
    assert_eq!(served.store.load_all().len(), 2);
    drop(fin);
    reaches(&served.desk.dropped, 1).await;
    rst.set_zero_linger().expect("a socket");
    drop(rst);
    reaches(&served.desk.dropped, 2).await;
    served.held_reaches(0).await;
    assert_eq!(served.store.load_all(), vec![]);
    assert_eq!(lock(&served.desk.calls).len(), 2, "nobody is called again");
}

#[tokio::test]
async fn a_thousand_hooks_are_held_and_answered() {
    let mut served = Served::start();
    let mut callers = JoinSet::new();
    for n in 0..1000u16 {
        let [x, y] = n.to_be_bytes();
        let caller = served.hook([127, 9, x, y], "/drain").await;
        callers.spawn(rest(caller));
    }
    served.desk.arrivals(1000).await;
    served.held_reaches(1000).await;
    assert_eq!(served.store.load_all().len(), 1000);
    served.desk.answer();
    while let Some(answer) = callers.join_next().await {
        assert_eq!(status(&answer.expect("no panic")), 200);
    }
    served.held_reaches(0).await;
    assert_eq!(served.store.load_all(), vec![]);
}

#[tokio::test]
async fn one_pod_s_hooks_are_bounded() {
    let limits = Limits { hooks_per_pod: 2, ..limits() };
    let mut served = Served::with(limits, Arc::new(MemoryStore::default()), 0);
    let held = [served.hook([127, 5, 6, 7], "/drain").await, served.hook([127, 5, 6, 7], "/drain").await];
    served.held_reaches(2).await;
    let answer = rest(served.hook([127, 5, 6, 7], "/drain").await).await;
    assert_well_formed(&answer);
    assert_eq!(status(&answer), 429);
    assert_eq!(served.desk.faults(1).await, [Fault::TooMany]);
    let other = served.hook([127, 5, 6, 8], "/drain").await;
    served.held_reaches(3).await;
    served.desk.answer();
    for caller in held.into_iter().chain([other]) {
        assert_eq!(status(&rest(caller).await), 200);
    }
}

#[tokio::test]
async fn guests_are_bounded_and_never_in_the_kubelet_s_way() {
    let limits = Limits { guests: 1, header: PATIENCE, ..limits() };
    let mut served = Served::with(limits, Arc::new(MemoryStore::default()), 0);
    served.desk.kubelet.store(false, Ordering::Relaxed);
    let guest = served.hook([127, 0, 0, 1], "/drain/a/b").await;
    served.held_reaches(1).await;
    // Said before anything is read, and to one who has asked already.
    let asks_at_once = served.hook_at_once([127, 0, 0, 1], "/status");
    let turned_away = [asks_at_once, served.connect([127, 0, 0, 1]).await];
    for caller in turned_away {
        let answer = rest(caller).await;
        assert_well_formed(&answer);
        assert_eq!(status(&answer), 503);
    }
    assert_eq!(served.desk.faults(2).await, [Fault::TooMany; 2]);
    served.desk.kubelet.store(true, Ordering::Relaxed);
    let hook = served.hook([127, 5, 6, 7], "/drain").await;
    served.held_reaches(2).await;
    served.desk.answer();
    assert_eq!((status(&rest(guest).await), status(&rest(hook).await)), (200, 200));
}

#[tokio::test]
async fn the_kubelet_waits_its_turn_and_is_never_turned_away() {
    let mut served = Served::with(Limits { hooks: 1, ..limits() }, Arc::new(MemoryStore::default()), 0);
    let first = served.hook([127, 5, 6, 7], "/drain").await;
    served.held_reaches(1).await;
    let second = served.hook([127, 5, 6, 8], "/drain").await;
    served.desk.answer();
    assert_eq!((status(&rest(first).await), status(&rest(second).await)), (200, 200));
}

/// It is the kubelet's hook for some pod: what becomes of it is the desk's to say.
#[tokio::test]
async fn a_dial_that_is_forgotten_is_still_a_hook() {
    let served = Served::start();
    served.desk.forgets.store(true, Ordering::Relaxed);
    served.desk.answer();
    assert_eq!(status(&rest(served.hook([127, 5, 6, 7], "/drain").await).await), 200);
    assert_eq!(served.desk.calls()[0].callee, Callee::Dialled { bits: 0x05_06_07, pod: None });
}

/// The connect program gives the waiting socket a TCP_USER_TIMEOUT: it ends the dial, and stays on.
#[tokio::test]
async fn a_hook_that_waited_at_240_is_like_any_other_and_outlives_its_dial_s_timeout() {
    let served = Served::start();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind_device(Some(b"lo")).expect("root");
    let second = Duration::from_secs(1);
    let options = SockRef::from(&socket);
    options.set_tcp_user_timeout(Some(second)).expect("a socket");
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
    options.set_tcp_keepalive(&keepalive).expect("a socket");
    let mut caller =
        socket.connect((Ipv4Addr::new(240, 5, 6, 7), served.port).into()).await.expect("a connection");
    caller.write_all(get("/drain").as_bytes()).await.expect("sent");
    served.desk.arrivals(1).await;
    let expected = Callee::Dialled { bits: 0x05_06_07, pod: Some([10, 5, 6, 7].into()) };
    assert_eq!(served.desk.calls()[0].callee, expected);
    timeout(second * 5 / 2, caller.read(&mut [0])).await.expect_err("held");
    served.desk.answer();
    assert_eq!(status(&rest(caller).await), 200);
}

/// Drops this thread's right to TCP_REPAIR, which binding the listeners has needed.
fn without_net_admin(test: impl AsyncFnOnce(Served) + Send + 'static) {
    let thread = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let served = Served::start();
            caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).expect("our own");
            test(served).await;
        });
    };
    std::thread::spawn(thread).join().expect("no panic");
}

#[test]
fn without_the_right_hooks_are_held_by_the_process_alone() {
    without_net_admin(async |mut served| {
        let (stays, leaves) =
            (served.hook([127, 5, 6, 7], "/drain").await, served.hook([127, 5, 6, 8], "/drain").await);
        served.desk.arrivals(2).await;
        assert_eq!(served.store.load_all(), vec![]);
        drop(leaves);
        reaches(&served.desk.dropped, 1).await;
        served.held_reaches(1).await;
        served.desk.answer();
        assert_eq!(status(&rest(stays).await), 200);
    });
}

#[test]
fn without_the_right_a_server_that_stops_ends_its_hooks() {
    without_net_admin(async |mut served| {
        let caller = served.hook([127, 5, 6, 7], "/drain").await;
        served.held_reaches(1).await;
        served.stop().await;
        assert_eq!(rest(caller).await, "");
    });
}
