//! The last call as people see it: whose clients are told, what is said of them, what it changes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lastcall_tests::load::Kind;
use lastcall_tests::{Agent, Conn, Hook, Pod, Server, scenarios};
use serde_json::Value;

const PORT: u16 = 8080;
/// A port whose name says nothing.
const OTHER: u16 = 8081;
/// Settled, and a margin for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// So many exchanges, and which of their answers told the client to leave.
fn told(conn: &mut Conn, exchanges: usize) -> Result<Vec<bool>> {
    (0..exchanges).map(|_| Ok(conn.exchange("/")?.0.closes())).collect()
}

/// What the status page says of the only drain, its connections among it.
fn page(agent: &Agent, pod: &Pod) -> Result<Value> {
    let (status, page) = agent.get(9902, &format!("/status/default/{}", pod.name()))?;
    ensure!(status == 200, "{status}: {page}");
    Ok(serde_json::from_str(&page)?)
}

/// What the page's rows say of one connection.
fn row_of(rows: &[Value], conn: &Conn) -> Result<Value> {
    let peer = conn.local()?.to_string();
    Ok(rows.iter().find(|row| row["peer"] == peer.as_str()).cloned().unwrap_or_default())
}

scenarios! {
    /// Busy clients behind a Service are told and go to the other pod: no request of theirs is lost, and
    /// nobody waits for a closed loop to end. Everything that shows it says so.
    fn the_busy_are_told_and_go(node) {
        let agent = node.agent().flag("--last-call", "auto").start()?;
        let service = node.service("web").port("http", 80, PORT).start()?;
        let hook = || Hook::http("/drain?settle=1s");
        let old = node.pod("old").of("web").http(PORT).hook(hook()).grace(60).start()?;
        let new = node.pod("new").of("web").http(PORT).hook(hook()).start()?;
        node.proxy_synced()?;
        let load = node.client()?.load(Kind::Busy, service.address)?;
        // All 50 of them are there.
        let until = Instant::now() + SOON;
        while old.sockets(PORT, "established")? + new.sockets(PORT, "established")? < 50 {
            ensure!(Instant::now() < until, "the load does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
        let stop = node.kubelet().delete(&old)?;
        let answer = stop.answered_within(Duration::from_secs(15))?;
        ensure!(answer.outcome() == "drained", "{answer:?}");
        let called = &answer.body["last_call"];
        let count = |name: &str| called[name].as_u64().unwrap_or_default();
        // Who has just been told may not have closed yet.
        let open = answer.body["remained"]["open"].as_u64().unwrap_or_default();
        ensure!(count("left") <= count("told") && count("told") <= count("left") + open, "{answer:?}");
        ensure!(count("left") >= 10 && count("stayed") == 0, "{answer:?}");
        ensure!(answer.body["why"].as_str().is_some_and(|why| why.contains("told to leave")), "{answer:?}");
        stop.gone_within(SOON)?;
        let report = load.finish()?;
        ensure!(report.failed == 0 && report.requests > 50, "{report:?}");
        agent.logs("pod gone", SOON)?;
        let announced = agent.metric("lastcall_announcements_total{protocol=\"http1\"}")?;
        let left = agent.metric("lastcall_announced_left_total{protocol=\"http1\"}")?;
        ensure!(announced >= count("told") as f64 && left <= announced && left >= 10.0, "{announced} {left}");
        let line = agent.logs("drain ends", SOON)?;
        ensure!(line.contains("told to leave"), "{line}");
        Ok(())
    }

    /// `off` on the hook wins over the node's `auto`, and the node's `off` over a hook that asks.
    fn off_always_wins(node) {
        for (flag, query) in [("auto", "off"), ("off", "http"), ("asked", "default")] {
            let agent = node.agent().flag("--last-call", flag).start()?;
            let hook = Hook::http(&format!("/drain?settle=4s&last-call={query}"));
            let pod = node.pod(&format!("pod-{flag}")).http(PORT).hook(hook).start()?;
            let mut conn = node.client()?.connect(&pod, PORT)?;
            told(&mut conn, 1)?;
            let stop = node.kubelet().delete(&pod)?;
            agent.watches(&pod)?;
            ensure!(told(&mut conn, 5)? == [false; 5], "--last-call={flag}, last-call={query}");
            ensure!(page(&agent, &pod)?["last_call"].is_null());
            let answer = stop.answered_within(SOON)?;
            ensure!(answer.body["last_call"].is_null(), "{answer:?}");
            agent.kill();
        }
        Ok(())
    }

    /// Under `auto` the port's name decides, and each connection shows how it stands.
    fn auto_goes_by_the_ports_name(node) {
        let agent = node.agent().flag("--last-call", "auto").start()?;
        let hook = Hook::http("/drain?settle=30s");
        let pod = node.pod("web").port("http", PORT).port("web", OTHER).hook(hook).grace(60).start()?;
        let client = node.client()?;
        let (named, unnamed) = (pod.listen(PORT)?, pod.listen(OTHER)?);
        let serve = |server: &Server, port: u16| -> Result<(Conn, Conn)> {
            let conn = client.connect(&pod, port)?;
            Ok((conn, server.accept()?))
        };
        let exchange = |(conn, served): &mut (Conn, Conn)| -> Result<bool> {
            conn.get("/")?;
            served.request()?;
            served.respond("hello")?;
            Ok(conn.response()?.0.closes())
        };
        let (mut http, mut web) = (serve(&named, PORT)?, serve(&unnamed, OTHER)?);
        let idle = client.connect(&pod, PORT)?;
        exchange(&mut http)?;
        exchange(&mut web)?;
        let _stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let each = |both: &mut (Conn, Conn)| (0..4).map(|_| exchange(both)).collect::<Result<Vec<bool>>>();
        ensure!(each(&mut http)?.contains(&true), "nobody was told");
        ensure!(!each(&mut web)?.contains(&true), "a port that is not called http");

        // The agent reads the table about once a second, and its counters a moment after the connections.
        let until = Instant::now() + SOON;
        let (status, rows) = loop {
            let status = page(&agent, &pod)?;
            let rows = status["connections"].as_array().cloned().unwrap_or_default();
            let row = row_of(&rows, &http.0)?;
            if row["told_seconds"].is_f64() && row["last_call"].is_string() {
                break (status, rows);
            }
            ensure!(Instant::now() < until, "{row}");
            std::thread::sleep(Duration::from_millis(50));
        };
        ensure!(status["last_call"]["ports"] == "http" && status["last_call"]["told"] == 1, "{status}");
        let row = row_of(&rows, &web.0)?;
        ensure!(row["told_seconds"].is_null() && row["last_call"].is_null(), "{row}");
        let row = row_of(&rows, &idle)?;
        ensure!(row["last_call"] == "with its next answer", "{row}");
        let shown = node.lastcall(&["connections", pod.name()])?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains("TOLD TO LEAVE") && shown.contains("last call: 1 client told"), "{shown}");
        Ok(())
    }

    /// A client that is told and goes on is no reason to wait for longer than without a last call: it is
    /// reported, and nobody is advised to turn on what was on.
    fn a_client_that_stays_is_reported(node) {
        let agent = node.agent().start()?;
        let hook = Hook::http("/drain?settle=1s&patience=3s&last-call=http");
        let pod = node.pod("web").http(PORT).hook(hook).grace(60).start()?;
        let mut conn = node.client()?.connect(&pod, PORT)?;
        told(&mut conn, 1)?;
        let deaf = std::thread::spawn(move || -> Result<bool> {
            let mut heard = false;
            let until = Instant::now() + Duration::from_secs(90);
            // Until the app has ended.
            while Instant::now() < until {
                match conn.exchange("/slow?ms=100") {
                    Ok((head, _)) => heard |= head.closes(),
                    Err(_) => break,
                }
            }
            Ok(heard)
        });
        let stop = node.kubelet().delete(&pod)?;
        let answer = stop.answered_within(Duration::from_secs(15))?;
        let (status, why) = (answer.status, answer.body["why"].as_str().unwrap_or_default().to_owned());
        ensure!((answer.outcome(), status) == ("busy", 503), "{answer:?}");
        ensure!(answer.body["last_call"]["told"] == 1 && answer.body["last_call"]["stayed"] == 1, "{answer:?}");
        ensure!(why.contains("1 went on all the same") && !why.contains("last-call=http"), "{why}");
        ensure!(answer.took_less_than(Duration::from_secs(10)), "{answer:?}");
        stop.gone_within(SOON)?;
        ensure!(deaf.join().is_ok_and(|heard| heard.is_ok_and(|heard| heard)), "it never heard");
        agent.counts("lastcall_announced_stayed_total", 1.0)
    }
}
