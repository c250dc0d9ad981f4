//! The running cluster: commands on its node, commands outside it, and kubectl.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use crate::boot::{enter, init, surroundings};
use crate::home::{Home, INSIDE};
use crate::run::{output, run};

/// An API call, on a machine that has other things to do.
const CALL: Duration = Duration::from_secs(120);

/// Where commands go.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    home: Home,
    reach: Reach,
}

#[derive(Clone, Debug)]
enum Reach {
    /// Our own, by its init.
    Own(Pid),
    /// Somebody's, by its administrator's file.
    Theirs(PathBuf),
}

impl Cluster {
    /// The one of this number, that runs on this machine.
    pub(crate) fn own(home: &Home) -> Result<Self> {
        let init = init(home)?.context("no cluster runs: `cargo xtask e2e up` boots one")?;
        Ok(Self { home: home.clone(), reach: Reach::Own(init) })
    }

    /// One that is there already.
    pub(crate) fn theirs(home: &Home, kubeconfig: PathBuf) -> Self {
        Self { home: home.clone(), reach: Reach::Theirs(kubeconfig) }
    }

    /// Whether its node can be entered, its components be stopped, and clients stand outside it.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.reach, Reach::Own(_))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The node's address, of one family.
    pub(crate) fn address(&self, ipv6: bool) -> Result<IpAddr> {
        let jsonpath = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let text = self.kubectl(&["get", "nodes", "-o", jsonpath])?;
        let mut addresses = text.split_whitespace().filter_map(|word| word.parse::<IpAddr>().ok());
        addresses.find(|address| address.is_ipv6() == ipv6).context("the node has no address of that family")
    }

    /// A command on the node; on this machine where the cluster is not ours.
    pub(crate) fn node(&self, program: &str) -> Command {
        match &self.reach {
            Reach::Own(init) => {
                let mut command = enter(*init, &["--pid", "--mount", "--net", "--uts", "--ipc"]);
                surroundings(&mut command);
                command.arg(program);
                command
            }
            Reach::Theirs(kubeconfig) => {
                let ours = self.home.program(program);
                let mut command = Command::new("env");
                command.arg("--").arg(if ours.exists() { ours } else { program.into() });
                command.env("KUBECONFIG", kubeconfig);
                command
            }
        }
    }

    /// A program of this machine, run where the clients are: in their network, with our files.
    pub(crate) fn client(&self, program: PathBuf) -> Command {
        match &self.reach {
            Reach::Own(init) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{init}/root/run/netns/client")).arg("--").arg(program);
                command
            }
            Reach::Theirs(_) => Command::new(program),
        }
    }

    /// kubectl's standard output; its complaint is the error.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.kubectl_with(words, "", CALL)
    }

    /// The same with something to read, and another bound.
    pub(crate) fn kubectl_with(&self, words: &[&str], input: &str, limit: Duration) -> Result<String> {
        let said = output(self.node("kubectl").args(words), input, limit)?;
        if !said.status.success() {
            bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], manifests, CALL).map(drop)
    }

    /// Does something to a component of the node.
    pub(crate) fn component(&self, name: &str, what: Change) -> Result<()> {
        if !self.is_own() {
            bail!("the components of this cluster are not ours");
        }
        let script = format!("{INSIDE}/node/node.sh");
        let mut command = self.node("bash");
        command.arg(script);
        match what {
            Change::Start => command.args(["start", name]),
            Change::Stop => command.args(["stop", name, "TERM"]),
            Change::Kill => command.args(["stop", name, "KILL"]),
            Change::Pause => command.args(["signal", name, "STOP"]),
            Change::Resume => command.args(["signal", name, "CONT"]),
        };
        run(&mut command, CALL)
    }

    /// Takes the rules away that a stopped kube-proxy has left.
    pub(crate) fn proxy_rules_away(&self) -> Result<()> {
        run(self.node("bash").arg(format!("{INSIDE}/node/node.sh")).arg("proxy-rules-away"), CALL)
    }
}

/// What to do with a component.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Start,
    Stop,
    Kill,
    /// It stands still, with all that it holds.
    Pause,
    /// And goes on.
    Resume,
}
