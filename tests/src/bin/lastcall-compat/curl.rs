//! curl as a client: a few at once, each asking for many things on one connection, again and again.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use lastcall_tests::Client as Outside;

use crate::client::{Report, expected};
use crate::server::{Place, Server};

/// At once.
const CURLS: usize = 8;
/// How many requests one makes.
const REQUESTS: usize = 100;
/// With large answers.
const LARGE_REQUESTS: usize = 20;

/// Threads that start one curl after the other.
pub(crate) struct Curls {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Report>>>,
}

impl Curls {
    pub(crate) fn start(server: &Server, place: &Place<'_>, outside: &Outside, target: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for number in 0..CURLS {
            let (config, wanted) = config(number, server, place, target)?;
            let (outside, stop) = (outside.clone(), Arc::clone(&stop));
            threads.push(thread::spawn(move || {
                let mut report = Report { wrong: Some(0), ..Report::default() };
                while !stop.load(Ordering::Relaxed) {
                    run(&outside, &config, &wanted, &mut report)?;
                }
                Ok(report)
            }));
        }
        Ok(Self { stop, threads })
    }

    pub(crate) fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report { wrong: Some(0), ..Report::default() };
        for thread in self.threads {
            let report = thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
            sum.requests += report.requests;
            sum.failed += report.failed;
            sum.wrong = sum.wrong.zip(report.wrong).map(|(sum, wrong)| sum + wrong);
            sum.errors.extend(report.errors);
        }
        sum.errors.truncate(5);
        Ok(sum)
    }
}

/// What curl `number` is to do, and what each answer must be. Every second one asks whether it may send
/// its body first (`Expect: 100-continue`).
fn config(number: usize, server: &Server, place: &Place<'_>, target: &str) -> Result<(String, Vec<u8>)> {
    let mut text =
        "silent\nmax-time = 20\nwrite-out = \"%{stderr}%{http_code} %{exitcode} %{errormsg}\\n\"\n"
            .to_owned();
    let (path, times, wanted) = match expected(server) {
        Some(wanted) => ("/file", if wanted.len() > 1_000_000 { LARGE_REQUESTS } else { REQUESTS }, wanted),
        None => {
            let body =
                format!("{number} HTTP/1.1 200 OK\r\n\r\nPOST / HTTP/1.1\r\n").repeat(20 * (number + 1));
            let file = place.write(&format!("body{number}"), &body)?;
            text += &format!("data-binary = \"@{file}\"\n");
            if number.is_multiple_of(2) {
                text += "header = \"Expect: 100-continue\"\n";
            }
            ("/", REQUESTS, body.into_bytes())
        }
    };
    text += &format!("url = \"http://{target}{path}\"\n").repeat(times);
    Ok((text, wanted))
}

fn run(outside: &Outside, config: &str, wanted: &[u8], report: &mut Report) -> Result<()> {
    let mut command = Command::new("curl");
    command.args(["-q", "-K", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = outside.start(command)?;
    process.stdin()?.write_all(config.as_bytes()).context("write to curl")?;
    let (mut stdout, mut stderr) = (process.stdout()?, process.stderr()?);
    let (body, said) = thread::scope(|scope| {
        let bodies = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut said = String::new();
        let read = stderr.read_to_string(&mut said);
        let bodies = bodies.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        anyhow::Ok((bodies?, read.map(|_| said)?))
    })?;
    let mut good = 0;
    for line in said.lines() {
        report.requests += 1;
        if line.starts_with("200 0") {
            good += 1;
        } else {
            report.failed += 1;
            if report.errors.len() < 5 {
                report.errors.push(line.to_owned());
            }
        }
    }
    // A request that failed may have left a part of its answer: then only the sum can be right or wrong.
    let differ = body.chunks(wanted.len()).filter(|part| *part != wanted).count() as u64;
    if good * wanted.len() != body.len() || (report.failed == 0 && differ > 0) {
        let wrong = differ.max(1);
        report.wrong = report.wrong.map(|so_far| so_far + wrong);
        report.failed += wrong;
        report.errors.push(format!("{} bytes for {good} answers of {}", body.len(), wanted.len()));
    }
    Ok(())
}
