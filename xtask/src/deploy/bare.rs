//! An API server of our own, with nothing but etcd behind it: enough to judge manifests and admit pods.
//!
//! It listens on this machine's loopback, keeps its data in `target/deploy`, and ends with this process.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    child,
    e2e::programs::{self, Kubernetes},
    workspace::Workspace,
};

/// On a machine that has other things to do.
const START: Duration = Duration::from_secs(240);

/// Two processes, ended with this value.
pub(crate) struct ApiServer {
    folder: PathBuf,
    running: Vec<Child>,
}

impl ApiServer {
    /// Builds the programs, which are kept, and waits until the server answers.
    pub(crate) fn start(workspace: &Workspace, kubernetes: Kubernetes) -> Result<Self> {
        let home = workspace.target.join("e2e");
        let apiserver = programs::apiserver(workspace, &home, kubernetes)?;
        let bin = home.join("bin");
        let folder = workspace.target.join(format!("deploy/{}", kubernetes.name()));
        let _ = fs::remove_dir_all(&folder);
        let pki = folder.join("pki");
        fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
        let [port, clients, peers] = free_ports()?;
        let mut mkpki = Command::new(bin.join("mkpki"));
        mkpki.arg("-dir").arg(&pki).args(["-node", "none", "-ips", "127.0.0.1"]);
        mkpki.args(["-server", &format!("https://127.0.0.1:{port}")]);
        child::run(&mut mkpki, Duration::from_secs(120))?;

        let mut server = Self { folder, running: Vec::new() };
        let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let mut etcd = Command::new(bin.join("etcd"));
        etcd.arg("--data-dir").arg(server.folder.join("etcd")).args(["--name", "bare", "--unsafe-no-fsync"]);
        etcd.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        etcd.args(["--initial-cluster", &format!("bare={peers}")]);
        server.spawn("etcd", etcd)?;

        let file = |name: &str| pki.join(name).into_os_string();
        let mut kube = Command::new(apiserver);
        kube.args(["--etcd-servers", &clients, "--bind-address", "127.0.0.1"]);
        kube.args(["--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"]);
        kube.args(["--secure-port", &port.to_string(), "--service-cluster-ip-range", "10.96.0.0/16"]);
        kube.args(["--authorization-mode", "RBAC", "--allow-privileged"]);
        kube.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        for (flag, name) in [
            ("--client-ca-file", "ca.crt"),
            ("--tls-cert-file", "apiserver.crt"),
            ("--tls-private-key-file", "apiserver.key"),
            ("--service-account-key-file", "sa.pub"),
            ("--service-account-signing-key-file", "sa.key"),
        ] {
            kube.arg(flag).arg(file(name));
        }
        kube.args(kubernetes.policy_flags());
        server.spawn("kube-apiserver", kube)?;
        server.ready(&bin.join("kubectl"))?;
        Ok(server)
    }

    /// Its administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("pki/admin.kubeconfig")
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = File::create(self.log(name)).with_context(|| format!("the log of {name}"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(&self.folder);
        self.running.push(command.spawn().with_context(|| format!("cannot run {name}"))?);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn ready(&mut self, kubectl: &Path) -> Result<()> {
        let until = Instant::now() + START;
        let kubeconfig = self.kubeconfig();
        while Instant::now() < until {
            let mut ask = Command::new(kubectl);
            ask.arg("--kubeconfig").arg(&kubeconfig).args([
                "--request-timeout=5s",
                "get",
                "--raw",
                "/readyz",
            ]);
            if child::answer(&mut ask).is_some() {
                return Ok(());
            }
            for running in &mut self.running {
                if let Some(status) = running.try_wait()? {
                    bail!(
                        "the API server does not start ({status}); its logs are in {}",
                        self.folder.display()
                    );
                }
            }
            thread::sleep(Duration::from_millis(200));
        }
        bail!("the API server is not ready after {START:?}; its logs are in {}", self.folder.display())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for running in self.running.iter_mut().rev() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }
}

/// Ports of the loopback that nobody has at this moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut taken = Vec::new();
    for _ in 0..N {
        taken.push(TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&taken) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
