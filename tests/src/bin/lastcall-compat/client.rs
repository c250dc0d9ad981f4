//! The clients: how each is started against an address, ended, and understood.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lastcall_tests::Client as Outside;
use lastcall_tests::process::Process;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::curl::Curls;
use crate::kits::{Kit, words};
use crate::server::{self, Answer, Place, Protocol, Server};

/// All clients have as many connections, but those that say otherwise.
const CONNECTIONS: &str = "64";
/// Each with four streams.
const H2_CONNECTIONS: &str = "16";
/// What is in flight ends within this: no request may take longer than ten seconds, and a busy machine has its
/// time to say so.
const END: Duration = Duration::from_secs(60);
/// Where a proxy outside listens for its own client.
const PROXY: &str = "127.0.0.1:8081";

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// net/http or grpc-go.
    Go,
    /// net/http, with no request that is small.
    GoLarge,
    Curl,
    Requests,
    Httpx,
    Undici,
    Java,
    Hyper,
    /// nginx outside, with a pool of connections to the Service.
    NginxPool,
    /// HAProxy the same.
    HaproxyPool,
    Wrk,
    Fortio,
    Ghz,
}

impl Kind {
    pub(crate) const ALL: [Self; 13] = [
        Self::Go,
        Self::GoLarge,
        Self::Curl,
        Self::Requests,
        Self::Httpx,
        Self::Undici,
        Self::Java,
        Self::Hyper,
        Self::NginxPool,
        Self::HaproxyPool,
        Self::Wrk,
        Self::Fortio,
        Self::Ghz,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::GoLarge => "go 8 kB",
            Self::Curl => "curl",
            Self::Requests => "requests",
            Self::Httpx => "httpx",
            Self::Undici => "undici",
            Self::Java => "java.net.http",
            Self::Hyper => "hyper",
            Self::NginxPool => "nginx pool",
            Self::HaproxyPool => "haproxy pool",
            Self::Wrk => "wrk",
            Self::Fortio => "fortio",
            Self::Ghz => "ghz",
        }
    }

    /// What has to be there for it.
    pub(crate) fn kits(self) -> &'static [Kit] {
        match self {
            Self::Go | Self::GoLarge | Self::Fortio | Self::Ghz => &[Kit::Go],
            Self::Requests | Self::Httpx => &[Kit::Python],
            Self::Undici => &[Kit::Node],
            Self::Java => &[Kit::Java],
            Self::Hyper => &[Kit::Rust],
            Self::NginxPool | Self::HaproxyPool => &[Kit::Debian, Kit::Go],
            Self::Curl | Self::Wrk => &[Kit::Debian],
        }
    }

    /// What one has to know to read its row.
    pub(crate) fn note(self) -> Option<&'static str> {
        match self {
            Self::Curl => Some("sends again by itself when a kept connection ends before the first byte"),
            Self::Fortio => Some(
                "with its standard client; its fast one looks at Connection: close only if told to (-httpccch)",
            ),
            Self::Ghz => Some("does not compare the answers"),
            Self::GoLarge => Some("POSTs of 8 kB and nothing else"),
            _ => None,
        }
    }

    /// Why some of its requests may fail through its own fault.
    pub(crate) fn gap(self) -> Option<&'static str> {
        // Now and then one or two of a hundred thousand; clients with a grpc-go of today have lost none.
        (self == Self::Ghz).then_some(
            "ghz is built with a grpc-go of 2020 (1.34), which may lose a call that begins as GOAWAY comes",
        )
    }
}

/// What became of the requests.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Answers that differed from what they must be, among the failed; nothing: nobody compared.
    pub(crate) wrong: Option<u64>,
    /// Answers that said `Connection: close`, where the client shows them.
    pub(crate) closes: Option<u64>,
    /// The first few.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

/// Understands what a client has said.
type Reader = fn(&str) -> Result<Report>;

/// A client at work.
pub(crate) enum Running {
    /// Ends with its standard input, and says JSON.
    Listening { process: Process, proxy: Option<Process> },
    /// Ends at SIGINT, or by itself where that would cut what is in flight.
    Ending { process: Process, stdout: ChildStdout, signal: Option<Signal>, read: Reader },
    /// curl, again and again.
    Curls(Curls),
}

/// Starts the client outside, against `target`.
pub(crate) fn start(
    kind: Kind,
    server: &Server,
    place: &Place<'_>,
    outside: &Outside,
    target: SocketAddr,
) -> Result<Running> {
    let (kits, at) = (place.kits, target.to_string());
    let listening = |command: &[String], proxy| {
        let process = outside.start(piped(command)?)?;
        anyhow::Ok(Running::Listening { process, proxy })
    };
    let ending = |command: &[String], signal, read| {
        let process = outside.start(piped(command)?)?;
        let stdout = process.stdout()?;
        anyhow::Ok(Running::Ending { process, stdout, signal, read })
    };
    match kind {
        Kind::Go => listening(&go(server, place, &at)?, None),
        Kind::GoLarge => listening(&[go(server, place, &at)?, words(&["-size", "8192"])].concat(), None),
        Kind::Requests | Kind::Httpx => {
            let (python, client) = (kits.built("python/venv/bin/python"), kits.source("python/client.py"));
            // More threads than this wait for each other.
            listening(&words(&[&python, &client, kind.name(), &at, "16"]), None)
        }
        Kind::Undici => {
            // Where its package is found, which is beside no source.
            let client = place.write("client.mjs", std::fs::read(kits.source("node/client.mjs"))?)?;
            let modules = place.outside.join("node_modules");
            if !modules.exists() {
                std::os::unix::fs::symlink(kits.built("node/node_modules"), modules)?;
            }
            listening(&words(&["node", &client, &at, CONNECTIONS]), None)
        }
        Kind::Java => {
            listening(&words(&["java", "-cp", &kits.built("java/classes"), "Client", &at, CONNECTIONS]), None)
        }
        Kind::Hyper => {
            let program = kits.built("rust/release/lastcall-compat-rust");
            listening(&words(&[&program, "client", &at, CONNECTIONS]), None)
        }
        Kind::NginxPool | Kind::HaproxyPool => {
            let command = if kind == Kind::NginxPool {
                let pool = format!("upstream app {{ server {at}; keepalive 64; }}");
                server::nginx_proxy(place, &pool, PROXY)?
            } else {
                server::haproxy(place, PROXY, &at)?
            };
            let log = place.outside.join("proxy.log");
            let proxy = outside.start_program(&command, PROXY.parse()?, &log)?;
            listening(&go(server, place, PROXY)?, Some(proxy))
        }
        Kind::Curl => Ok(Running::Curls(Curls::start(server, place, outside, &at)?)),
        Kind::Wrk => {
            let mut command = kits.debian_program("usr/bin/wrk")?;
            let (script, url) = (kits.source("lua/post.lua"), format!("http://{at}/"));
            let rest = ["-t2", "-c", CONNECTIONS, "-d180s", "--timeout", "10s", "-s", &script, &url];
            command.extend(words(&rest));
            ending(&command, Some(Signal::SIGINT), wrk)
        }
        Kind::Fortio => {
            let (program, url) = (kits.built("go/bin/fortio"), format!("http://{at}/"));
            let flags = ["-quiet", "-c", CONNECTIONS, "-qps", "0", "-t", "180s", "-timeout", "10s"];
            let payload = ["-payload", "HTTP/1.1 200 OK and a body", "-stdclient", "-json", "-", &url];
            ending(
                &words(&[&[&*program, "load"], &flags[..], &payload].concat()),
                Some(Signal::SIGINT),
                fortio,
            )
        }
        Kind::Ghz => {
            let program = kits.built("go/bin/ghz");
            let method = ["--insecure", "--call", "grpc.testing.TestService.UnaryCall"];
            let data = ["-d", r#"{"payload":{"body":"SFRUUC8xLjEgMjAwIE9L"}}"#, "-O", "json"];
            let load = ["-c", CONNECTIONS, "--connections", H2_CONNECTIONS, "-t", "10s", &at];
            let time = ["-z", "20s", "--duration-stop", "wait"];
            ending(&words(&[&[&*program], &method[..], &data, &time, &load].concat()), None, ghz)
        }
    }
}

fn go(server: &Server, place: &Place<'_>, target: &str) -> Result<Vec<String>> {
    let connections = if server.protocol == Protocol::H1 { CONNECTIONS } else { H2_CONNECTIONS };
    let mut command = words(&[&place.kits.built("go/bin/client"), "-target", target]);
    command.extend(words(&["-protocol", server.protocol.name(), "-connections", connections]));
    if let Some(expected) = expected(server) {
        command.extend(words(&["-small", "-path", "/file", "-expect", &place.write("expected", expected)?]));
    }
    if server.get {
        command.push("-get".to_owned());
    }
    if server.answer == Answer::Large {
        command.extend(words(&["-connections", "16"]));
    }
    Ok(command)
}

/// What every answer must be, where it is not the request's body.
pub(crate) fn expected(server: &Server) -> Option<Vec<u8>> {
    match server.answer {
        Answer::Echo => None,
        Answer::Small => Some(server::small_file()),
        Answer::Large => Some(server::large_file()),
    }
}

fn piped(words: &[String]) -> Result<Command> {
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(command)
}

impl Running {
    /// Whether it has ended before it was asked to.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Listening { process, .. } | Self::Ending { process, .. } => process.has_exited(),
            Self::Curls(_) => false,
        }
    }

    /// Ends it: no new requests, those in flight finish.
    pub(crate) fn finish(self) -> Result<Report> {
        match self {
            Self::Listening { process, proxy } => {
                let mut stdout = process.stdout()?;
                drop(process.stdin()?);
                let said = read_to_end(&process, &mut stdout)?;
                drop(proxy);
                serde_json::from_str(&said).with_context(|| format!("the client's report: {said:?}"))
            }
            Self::Ending { process, mut stdout, signal, read } => {
                if let Some(signal) = signal {
                    process.signal(signal);
                }
                let said = read_to_end(&process, &mut stdout)?;
                read(&said).with_context(|| format!("the client's report: {said:?}"))
            }
            Self::Curls(curls) => curls.finish(),
        }
    }
}

fn read_to_end(process: &Process, stdout: &mut ChildStdout) -> Result<String> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let ended = process.exited_within(END);
        if !ended {
            process.signal(Signal::SIGKILL);
        }
        match reader.join() {
            Ok(text) if ended => Ok(text?),
            Ok(_) => bail!("the client did not end within {END:?}"),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    })
}

fn wrk(said: &str) -> Result<Report> {
    let line = said.lines().find(|line| line.starts_with('{')).context("no JSON")?;
    let mut report: Report = serde_json::from_str(line)?;
    if report.failed == 0 {
        report.errors.clear();
    }
    Ok(report)
}

fn fortio(said: &str) -> Result<Report> {
    let value: Value = serde_json::from_str(said)?;
    let codes = value["RetCodes"].as_object().context("no RetCodes")?;
    let all = |wanted: fn(&str) -> bool| -> u64 {
        codes.iter().filter(|(code, _)| wanted(code)).filter_map(|(_, count)| count.as_u64()).sum()
    };
    let failed = all(|code| code != "200");
    let errors = if failed > 0 { vec![format!("codes {codes:?}")] } else { Vec::new() };
    Ok(Report { requests: all(|_| true), failed, errors, ..Report::default() })
}

fn ghz(said: &str) -> Result<Report> {
    let value: Value = serde_json::from_str(said)?;
    let codes = value["statusCodeDistribution"].as_object().context("no codes")?;
    let requests = codes.values().filter_map(Value::as_u64).sum();
    let failed = requests - codes.get("OK").and_then(Value::as_u64).unwrap_or(0);
    let errors = if failed > 0 { vec![value["errorDistribution"].to_string()] } else { Vec::new() };
    Ok(Report { requests, failed, errors, ..Report::default() })
}
