//! Large requests, and servers that ask the kernel how much of one is still to be read.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lastcall_tests::{Conn, Hook, scenarios};
use nix::errno::Errno;

const PORT: u16 = 8080;
const OK: &str = "HTTP/1.1 200 OK\r\n";
const END: &str = "Content-Length: 2\r\n\r\nok";
/// The smallest buffer that nginx reads with.
const BUFFER: usize = 1024;

scenarios! {
    /// nginx reads until its buffer is full, asks how much there is to be read, and where that is nothing
    /// waits for more: a wrong answer would be a request that hangs. The client is told in the answer to its
    /// next small request.
    fn a_large_request_is_read_to_its_end(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", PORT).hook(Hook::http("/drain?settle=60s&last-call=http")).start()?;
        let (server, client) = (pod.listen(PORT)?, node.client()?);
        let _stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let mut conn = client.connect(&pod, PORT)?;
        let mut served = server.accept()?;
        for (body, told) in [(2, ""), (20_000, ""), (BUFFER, ""), (2, "Connection: close\r\n")] {
            let request = format!("POST / HTTP/1.1\r\nContent-Length: {body}\r\n\r\n{}", "x".repeat(body));
            conn.send(&request)?;
            read_as_nginx(&served, request.len()).with_context(|| format!("a body of {body} bytes"))?;
            served.send([OK, END].concat())?;
            conn.expect([OK, told, END].concat())?;
        }
        Ok(())
    }

    /// An answer of 100 MB, as fast as the client takes it: nothing in it is another byte than the app's, but for
    /// the announcement.
    fn a_hundred_megabytes_arrive_as_they_are(node) {
        let agent = node.agent().start()?;
        let pod = node.pod("web").port("http", PORT).hook(Hook::http("/drain?settle=60s&last-call=http")).start()?;
        let (server, client) = (pod.listen(PORT)?, node.client()?);
        let _stop = node.kubelet().delete(&pod)?;
        agent.watches(&pod)?;
        let mut conn = client.connect(&pod, PORT)?;
        let mut served = server.accept()?;
        conn.get("/")?;
        served.request()?;
        served.send([OK, END].concat())?;
        conn.expect([OK, END].concat())?;
        conn.get("/")?;
        served.request()?;
        let head = format!("Content-Length: {HUGE}\r\n\r\n");
        std::thread::scope(|scope| {
            let app = scope.spawn(|| -> Result<()> {
                served.send([OK, &head].concat())?;
                // Writes of sizes that fit nothing.
                let (mut at, mut size) = (0, 1);
                while at < HUGE {
                    let end = HUGE.min(at + size);
                    served.send((at..end).map(body).collect::<Vec<u8>>())?;
                    (at, size) = (end, size * 7 % 300_007 + 1);
                }
                Ok(())
            });
            conn.expect([OK, "Connection: close\r\n", &head].concat())?;
            let mut at = 0;
            while at < HUGE {
                let part = conn.receive((HUGE - at).min(1 << 20))?;
                let differs = part.iter().enumerate().find(|(i, byte)| **byte != body(at + i));
                ensure!(differs.is_none(), "byte {} is another", at + differs.map_or(0, |(i, _)| i));
                at += part.len();
            }
            app.join().map_err(|_| anyhow::anyhow!("the app panicked"))?
        })
    }
}

/// The size of a huge answer's body.
const HUGE: usize = 100_000_000;

/// What is at this place of it: lines of an answer's beginning, and a number that says where they are.
fn body(at: usize) -> u8 {
    const LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let (line, place) = (at / 24, at % 24);
    LINE.get(place).copied().unwrap_or((line >> (8 * (place % 4))) as u8)
}

/// Reads a request of `size` bytes.
fn read_as_nginx(conn: &Conn, size: usize) -> Result<()> {
    let (mut buffer, mut left) = ([0; BUFFER], size);
    while left > 0 {
        let read = conn.stream().read(&mut buffer)?;
        ensure!(read > 0, "the client has gone");
        left -= read;
        let until = Instant::now() + Duration::from_secs(5);
        // The rest may still be on its way; nothing announces it to those who do not read.
        while read == BUFFER && available(conn)? < left {
            ensure!(
                Instant::now() < until,
                "{left} bytes are left, and the kernel says {}",
                available(conn)?
            );
            sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn available(conn: &Conn) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: an open descriptor, and a place for one int.
    let result = unsafe { libc::ioctl(conn.stream().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Ok(usize::try_from(Errno::result(result).map(|_| bytes)?)?)
}
