//! Network namespaces, entered on threads of their own so that no other thread notices.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{panic, process, thread};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::output;

/// A network namespace; it lives as long as this handle, a process in it, or a bind mount of it.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace with its loopback up, and IPv6 addresses that are valid at once.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network: are you root?")?;
            Self::current()
        });
        let netns = made.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?;
        // Duplicate address detection would make every new address wait for a second or two.
        netns.sysctl(&[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/all/accept_dad", "0")])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Ok(Self { file: Arc::new(File::open("/proc/thread-self/ns/net")?) })
    }

    /// Runs `f` on a fresh thread inside; the sockets it makes can be used from anywhere.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| match setns(&*self.file, CloneFlags::CLONE_NEWNET) {
                Ok(()) => f(),
                Err(error) => panic!("enter the network namespace: {error}"),
            });
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Runs `ip` commands inside, one a line.
    pub fn ip(&self, batch: &str) -> Result<String> {
        self.run(|| output(Command::new("ip").args(["-batch", "-"]), batch))
    }

    /// Waits until links carry packets. A link that was set up is brought up by the kernel a little later
    /// (linkwatch), or a second later when there is much to do, and drops what is sent before. The same for
    /// its IPv6 addresses: they answer no neighbour until their group is joined, and who asks before that
    /// asks again a second later.
    pub fn wait_until_up(&self, links: &[&str]) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        for link in links {
            while !self.ip(&format!("link show dev {link}"))?.contains(" state UP ")
                || !self.is_found(link)?
            {
                if Instant::now() > until {
                    bail!("link {link} does not come up");
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Whether neighbours find the link's global IPv6 addresses, by their solicited-node multicast group
    /// (RFC 4291, 2.7.1).
    fn is_found(&self, link: &str) -> Result<bool> {
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let (addresses, groups) = self.run(|| anyhow::Ok((read("if_inet6")?, read("igmp6")?)))?;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let joined: Vec<_> = groups.lines().map(words).filter(|group| group[1] == link).collect();
        let mut ours =
            addresses.lines().map(words).filter(|address| address[5] == link && address[3] == "00");
        Ok(ours.all(|address| {
            let group = format!("ff0200000000000000000001ff{}", &address[0][26..]);
            joined.iter().any(|join| join[2] == group)
        }))
    }

    /// Runs a command inside to its end.
    pub fn command(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        self.run(|| output(Command::new(program).args(args), input))
    }

    /// Writes entries of `/proc/sys/net`.
    pub fn sysctl(&self, entries: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            entries.iter().try_for_each(|(name, value)| {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
            })
        })
    }

    /// A path by which other processes can open the namespace while this handle lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.raw_fd())
    }

    /// The descriptor, for `setns` in a child before it executes.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
