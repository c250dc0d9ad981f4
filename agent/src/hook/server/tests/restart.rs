//! Held hooks outlive their server.

use std::{
    env, io,
    io::{BufRead, Read, Write},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::{
    hook::held::{HELD_VERSION, HeldRecord, held_flag},
    sockets::tests_fixture::start,
};

/// Nothing comes, and nothing ends, for as long as it takes to say so.
async fn assert_silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(Duration::from_millis(100), stream.read(&mut byte)).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_server_that_stops_leaves_its_hooks_to_the_next() {
    let mut first = Served::start();
    let mut caller = first.hook([127, 5, 6, 7], "/drain?until=closed").await;
    first.held_reaches(1).await;
    first.desk.arrivals(1).await;
    let (store, port, before) = (Arc::clone(&first.store), first.port, first.desk.calls().remove(0));
    first.stop().await;
    assert_silent(&mut caller).await;
    assert_eq!(store.load_all().len(), 1);

    let second = Served::with(limits(), store, port);
    // Its task has not begun: one thread, nothing awaited in between.
    second.desk.forgets.store(true, Ordering::Relaxed);
    second.desk.arrivals(1).await;
    let after = second.desk.calls().remove(0);
    assert_eq!(after.callee, before.callee);
    assert_eq!((after.query, after.contract), (before.query, before.contract));
    assert_eq!((after.began, after.deadline), (before.began, Some(Moment(77))));
    assert!(after.from_kubelet);
    second.desk.answer();
    let answer = rest(caller).await;
    assert_well_formed(&answer);
    assert_eq!(status(&answer), 200);
    let store = Arc::clone(&second.store);
    second.stop().await;
    assert_eq!(store.load_all(), vec![]);
    // What has been answered is in TIME_WAIT and does not keep the next agent from its port.
    Listeners::bind(port, 0).expect("the port is free");
}

/// A listener would answer the caller's keep-alives with a reset, however soon its server looks for what was
/// held.
#[tokio::test]
async fn held_hooks_are_there_before_anybody_listens() {
    let first = Served::start();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind_device(Some(b"lo")).expect("root");
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive).expect("a socket");
    let mut caller = socket.connect((Ipv4Addr::new(240, 5, 6, 7), first.port).into()).await.expect("listens");
    caller.write_all(get("/drain").as_bytes()).await.expect("sent");
    first.desk.arrivals(1).await;
    let (store, port) = (Arc::clone(&first.store), first.port);
    first.stop().await;
    // Nobody is there.
    timeout(second * 2, caller.read(&mut [0])).await.expect_err("no answer to a keep-alive");

    let returned = Returned::from_store(&store).await;
    let listeners = Listeners::bind(port, 0).expect("the port is free");
    timeout(second * 2, caller.read(&mut [0])).await.expect_err("held");
    let served = Served::behind(listeners, limits(), store, returned);
    served.desk.arrivals(1).await;
    served.desk.answer();
    assert_eq!(status(&rest(caller).await), 200);
}

#[tokio::test]
async fn an_agent_takes_over_when_the_other_has_ended() {
    let first = Served::start();
    let caller = first.hook([127, 5, 6, 7], "/drain").await;
    first.desk.arrivals(1).await;
    let second = Served::with(limits(), Arc::clone(&first.store), first.port);
    // The first one holds it: the second's looks change nothing.
    time::sleep(limits().take_back * 3).await;
    assert_eq!((second.desk.calls().len(), first.store.load_all().len()), (0, 1));
    first.stop().await;
    second.desk.arrivals(1).await;
    second.desk.answer();
    assert_eq!(status(&rest(caller).await), 200);
}

#[tokio::test]
async fn a_task_that_dies_has_lost_nothing() {
    let served = Served::start();
    served.desk.panics.store(true, Ordering::Relaxed);
    let caller = served.hook([127, 5, 6, 7], "/drain").await;
    served.desk.arrivals(2).await;
    served.desk.answer();
    assert_eq!(status(&rest(caller).await), 200);
}

#[tokio::test]
async fn what_was_written_down_of_a_caller_that_has_gone_is_forgotten() {
    let first = Served::start();
    let caller = first.hook([127, 5, 6, 7], "/drain").await;
    first.desk.arrivals(1).await;
    let (store, port) = (Arc::clone(&first.store), first.port);
    first.stop().await;
    drop(caller);
    let second = Served::with(limits(), store, port);
    let forgotten = async {
        while !second.store.load_all().is_empty() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("in time");
}

#[tokio::test]
async fn a_record_of_another_version_is_left_alone() {
    let store = Arc::new(MemoryStore::default());
    let mut record = HeldRecord::new("/drain", None, true, Moment(1)).expect("short");
    record.version = HELD_VERSION + 1;
    store.save(&record).expect("memory");
    let served = Served::with(limits(), store, 0);
    // A second look at the store has happened once a hook is through twice.
    time::sleep(limits().take_back * 2).await;
    assert_eq!((served.store.load_all().len(), served.desk.calls().len()), (1, 0));
}

#[tokio::test]
async fn a_query_too_long_to_keep_is_told_after_the_restart() {
    let first = Served::start();
    let caller = first.hook([127, 5, 6, 7], &format!("/drain?until=closed&x={}", "y".repeat(600))).await;
    first.desk.arrivals(1).await;
    let (store, port) = (Arc::clone(&first.store), first.port);
    first.stop().await;
    assert!(store.load_all()[0].has(held_flag::QUERY_LOST));
    let second = Served::with(limits(), store, port);
    second.desk.answer();
    let answer = rest(caller).await;
    assert!(body(&answer).contains("too long to be kept"), "{answer}");
}

#[tokio::test]
async fn callers_in_the_queue_of_a_server_that_stops_are_still_read() {
    let served = Served::start();
    let store = Arc::clone(&served.store);
    let _callers = [
        served.hook_at_once([127, 5, 6, 7], "/drain"),
        served.hook_at_once([127, 0, 0, 1], "/drain/web/web-0"),
    ];
    served.stop.cancel();
    let desk = Arc::clone(&served.desk);
    desk.arrivals(2).await;
    served.stop().await;
    assert_eq!(store.load_all().len(), 2);
}

/// Where the child finds its port to say it is one.
const CHILD: &str = "LASTCALL_TEST_HOLDER";

/// Writes records to standard output, one a line.
struct Printed;

impl HeldStore for Printed {
    fn save(&self, record: &HeldRecord) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let hex: String = bytes(record).iter().map(|b| format!("{b:02x}")).collect();
        writeln!(out, "held {hex}")?;
        out.flush()
    }
    fn remove(&self, _: &HeldKey) {}
    fn load_all(&self) -> Vec<HeldRecord> {
        vec![]
    }
}

fn bytes(record: &HeldRecord) -> &[u8; size_of::<HeldRecord>()] {
    // SAFETY: `HeldRecord` is plain data without padding.
    unsafe { &*std::ptr::from_ref(record).cast() }
}

fn record(bytes: [u8; size_of::<HeldRecord>()]) -> HeldRecord {
    // SAFETY: every bit pattern is a `HeldRecord`.
    unsafe { std::mem::transmute(bytes) }
}

/// Run by the test below, in its own process.
#[tokio::test]
#[ignore = "the other half of a_hook_survives_kill_9"]
async fn holder() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let served = Served::with(limits(), Arc::new(Printed), 0);
    println!("port {}", served.port);
    // Until it is killed, or the test that would kill it has died.
    tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut vec![]))
        .await
        .expect("no panic")
        .expect("stdin");
}

fn start_holder() -> Child {
    let name = "hook::server::tests::restart::holder";
    let mut holder = Command::new(env::current_exe().expect("this test"));
    holder
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    start(&mut holder).expect("a child")
}

/// What stands behind a word in the child's output.
fn says<'a>(
    lines: &'a mut impl Iterator<Item = io::Result<String>>,
    word: &'a str,
) -> impl Iterator<Item = String> + 'a {
    lines.filter_map(move |line| Some(line.ok()?.split_once(word)?.1.trim().to_owned()))
}

/// Two hooks at a child that is killed and replaced. The callers ask for a sign of life every `alive`.
async fn survive_kill_9(alive: Duration, hold: Duration) {
    let mut child = start_holder();
    let mut lines = io::BufReader::new(child.stdout.take().expect("piped")).lines();
    let port: u16 = says(&mut lines, "port ").next().and_then(|p| p.parse().ok()).expect("a port");
    let mut callers = Vec::new();
    for target in ["/drain?until=closed", "/drain"] {
        let mut caller = TcpStream::connect((Ipv4Addr::new(127, 5, 6, 7), port)).await.expect("listens");
        let keepalive = TcpKeepalive::new().with_time(alive).with_interval(alive).with_retries(1);
        SockRef::from(&caller).set_tcp_keepalive(&keepalive).expect("a socket");
        caller.write_all(get(target).as_bytes()).await.expect("sent");
        callers.push(caller);
    }
    // Each is written down twice: when it is held, and with its deadline.
    let store = Arc::new(MemoryStore::default());
    for hex in says(&mut lines, "held ").take(4) {
        let mut bytes = [0; size_of::<HeldRecord>()];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).expect("hex"), 16).expect("hex");
        }
        store.save(&record(bytes)).expect("memory");
    }
    timeout(hold, callers[0].read(&mut [0])).await.expect_err("held");
    child.kill().expect("SIGKILL");
    child.wait().expect("a dead child");
    for caller in &mut callers {
        assert_silent(caller).await;
    }
    let served = Served::with(limits(), store, port);
    served.desk.arrivals(2).await;
    let mut queries: Vec<_> = served.desk.calls().into_iter().map(|c| (c.query, c.deadline)).collect();
    queries.sort();
    assert_eq!(queries, [(String::new(), Some(Moment(77))), ("until=closed".to_owned(), Some(Moment(77)))]);
    timeout(hold, callers[0].read(&mut [0])).await.expect_err("held");
    served.desk.answer();
    for caller in callers {
        let answer = rest(caller).await;
        assert_well_formed(&answer);
        assert_eq!(status(&answer), 200);
    }
}

#[tokio::test]
async fn a_hook_survives_kill_9() {
    survive_kill_9(Duration::from_secs(60), Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "takes three quarters of a minute; the same with keep-alives before and after"]
async fn a_hook_held_for_long_survives_kill_9() {
    // An odd time, so that no keep-alive falls into the tenth of a second when nobody is there.
    survive_kill_9(Duration::from_secs(2), Duration::from_millis(21_000)).await;
}
