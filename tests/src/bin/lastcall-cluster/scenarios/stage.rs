//! What a scenario has to work with: a namespace of its own, in a cluster with an agent.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use lastcall_tests::clock::now;
use lastcall_tests::load::Report;
use serde_json::{Value, json};

use crate::agent::{Agent, DAEMONSET, NAMESPACE};
use crate::app::{App, PORT, list};
use crate::cluster::Cluster;
use crate::load::Load;
use crate::pods::{Pods, Seen};
use crate::rollout::trial::Traffic;

/// For what takes a moment, on a machine that has other things to do.
pub(super) const SOON: Duration = Duration::from_secs(90);

/// For what waits two minutes by itself.
pub(super) const LONG: Duration = Duration::from_secs(130);

/// A scenario's place.
#[derive(Clone, Copy)]
pub(crate) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) pods: &'a Pods,
    pub(super) agent: &'a Agent,
    pub(super) namespace: &'a str,
}

impl Stage<'_> {
    /// Makes the scenario's namespace, with labels, and waits until pods are admitted to it.
    pub(super) fn open(&self, labels: &Value) -> Result<()> {
        let metadata = json!({ "name": self.namespace, "labels": labels });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        self.cluster.apply(&namespace.to_string())?;
        let wait = ["-n", self.namespace, "wait", "--for=create", "serviceaccount/default", "--timeout=120s"];
        self.cluster.kubectl_with(&wait, "", LONG).map(drop)
    }

    /// Writes down what the agent, the kubelet and the API know of a scenario that failed.
    pub(super) fn evidence(&self) -> Result<PathBuf> {
        let home = self.cluster.home();
        let file = home.root().join("evidence").join(format!("{}.txt", self.namespace));
        fs::create_dir_all(file.parent().context("a folder")?)?;
        let kubelet = fs::read_to_string(home.log("kubelet")).unwrap_or_default();
        let hooks = kubelet.lines().filter(|line| {
            line.contains(self.namespace)
                && ["reStop", "Killing container", "exited", "reempt", "robe failed"]
                    .iter()
                    .any(|w| line.contains(w))
        });
        let wide = ["get", "events,pods", "-o", "wide"];
        let text = format!(
            "== the agent\n{}\n== events and pods\n{}\n== pods as they were seen\n{:#?}\n== the kubelet\n{}\n",
            self.agent.log().unwrap_or_default(),
            self.kubectl(&wide).unwrap_or_else(|error| format!("{error:#}")),
            self.pods.all().values().filter(|pod| pod.namespace == self.namespace).collect::<Vec<_>>(),
            hooks.collect::<Vec<_>>().join("\n"),
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Ends whatever is left of it, without waiting.
    pub(super) fn close(&self) -> Result<()> {
        self.kubectl(&["delete", "pods", "--all", "--grace-period=1", "--wait=false"])?;
        self.cluster.kubectl(&["delete", "namespace", self.namespace, "--wait=false"]).map(drop)
    }

    /// Applies manifests in the namespace.
    pub(super) fn apply(&self, items: Vec<Value>) -> Result<()> {
        self.cluster.apply(&list(self.namespace, items))
    }

    /// kubectl in the namespace.
    pub(super) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", self.namespace], words].concat())
    }

    /// Deletes without waiting; returns when it was asked for.
    pub(super) fn delete(&self, what: &str, more: &[&str]) -> Result<f64> {
        let asked = now();
        self.kubectl(&[&["delete", what, "--wait=false"], more].concat())?;
        Ok(asked)
    }

    /// The pods of an app, when so many of them are ready.
    pub(super) fn ready(&self, app: &str, count: usize) -> Result<Vec<Seen>> {
        self.pods.wait(SOON, &format!("{count} ready pods of {}/{app}", self.namespace), |all| {
            let ready: Vec<Seen> = all
                .values()
                .filter(|pod| pod.namespace == self.namespace && pod.app == app && pod.is_ready())
                .cloned()
                .collect();
            (ready.len() == count).then_some(ready)
        })
    }

    /// The one pod of an app, when it is ready.
    pub(super) fn ready_pod(&self, app: &str) -> Result<Seen> {
        self.ready(app, 1)?.into_iter().next().context("one pod")
    }

    /// A pod of the app's that is deleted while it works on a request of so many milliseconds, and when its
    /// deletion was asked for: how most drains begin here.
    pub(super) fn deleted_while_asked(&self, app: &App, millis: u32) -> Result<(Seen, Ask, f64)> {
        self.apply(vec![app.pod()])?;
        let pod = self.ready_pod(&app.name)?;
        let ask = self.ask(&pod, millis)?;
        let deleted = self.delete(&format!("pod/{}", app.name), &[])?;
        Ok((pod, ask, deleted))
    }

    /// A request that takes so long in the app, on a connection of its own; it is on its way when this returns.
    pub(super) fn ask(&self, pod: &Seen, millis: u32) -> Result<Ask> {
        self.ask_at(pod, PORT, millis)
    }

    /// The same at another port.
    pub(super) fn ask_at(&self, pod: &Seen, port: u16, millis: u32) -> Result<Ask> {
        let address: IpAddr = pod.ip().context("the pod has no address")?.parse()?;
        // One now, the next in a quarter of an hour.
        let traffic = Traffic { post: true, work_ms: millis, keep: 0, rate: 0.001 };
        // Before it is sent, so that no answer is early by this clock.
        let asked = now();
        let mut load = Load::start(self.cluster, &traffic, SocketAddr::new(address, port), 0)?;
        load.begins()?;
        let ask = Ask { load, asked, takes: f64::from(millis) / 1000.0 };
        self.connected(SocketAddr::new(address, port))?;
        Ok(ask)
    }

    /// Waits until a client has a connection to there.
    fn connected(&self, to: SocketAddr) -> Result<()> {
        if !self.cluster.is_own() {
            thread::sleep(Duration::from_secs(1));
            return Ok(());
        }
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            let mut ss = self.cluster.node("ip");
            ss.args([
                "netns",
                "exec",
                "client",
                "ss",
                "-Htn",
                "state",
                "established",
                "dst",
                &to.to_string(),
            ]);
            if !ss.output()?.stdout.is_empty() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("no connection to {to}")
    }

    /// New connections to a Service's nodePort, so many a second; its first request is not sent yet.
    pub(super) fn load(&self, service: &str, rate: f64) -> Result<Load> {
        let text = self.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.ports[0].nodePort}"])?;
        let target = SocketAddr::new(self.cluster.address(false)?, text.parse().context("nodePort")?);
        Load::start(self.cluster, &Traffic { post: false, work_ms: 0, keep: 0, rate }, target, 10)
    }

    /// When a pod's object went, by [`now`].
    pub(super) fn gone(&self, pod: &Seen, limit: Duration) -> Result<f64> {
        self.sees(pod, limit, "its end", |pod| pod.gone)
    }

    /// Fails unless a pod was deleted before its client could have an answer, was there until then, and went at
    /// most so many seconds later.
    pub(super) fn goes_after(&self, pod: &Seen, answer: f64, most: f64) -> Result<()> {
        let gone = self.gone(pod, SOON)?;
        let deleted = self.sees(pod, SOON, "its deletion", |pod| pod.deleting)?;
        ensure!(deleted < answer, "this machine is too slow: the request was over before the deletion");
        between("the pod's end, from its client's answer on,", gone - answer, 0.0, most)
    }

    /// Waits until the watch shows what `look` wants of a pod.
    pub(super) fn sees<T>(
        &self,
        pod: &Seen,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        self.pods.wait(limit, &format!("{}: {what}", pod.name), |all| look(all.get(pod.uid())?))
    }

    /// What `lastcall status` on the node says of a pod's drain; nothing where it says nothing.
    pub(super) fn status(&self, pod: &str) -> Result<Option<Value>> {
        let ask = ["-n", NAMESPACE, "exec", DAEMONSET, "--", "/lastcall", "status", "-o", "json"];
        let status: Value = serde_json::from_str(&self.cluster.kubectl(&ask)?).context("lastcall status")?;
        let drains = status["drains"].as_array().cloned().unwrap_or_default();
        Ok(drains.into_iter().find(|drain| drain["namespace"] == self.namespace && drain["name"] == pod))
    }

    /// Waits until the agent holds a pod's hook, and watches its packets: not only the deletion has reached it.
    pub(super) fn held(&self, pod: &str) -> Result<()> {
        let until = Instant::now() + SOON;
        let holds = |drain: Value| drain["hooks_waiting"].as_u64() >= Some(1) && drain["settle"] != "";
        loop {
            // A busy node may be late with the answer to this too.
            let status = self.status(pod);
            if matches!(&status, Ok(Some(drain)) if holds(drain.clone())) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "no hook of {pod} waits, the status is {status:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a container of a pod has been restarted.
    pub(super) fn restarted(&self, pod: &Seen, container: &str) -> Result<()> {
        self.sees(pod, SOON, "restarted", |pod| {
            let all = pod.object["status"]["containerStatuses"].as_array()?;
            all.iter().any(|c| c["name"] == container && c["restartCount"].as_u64() >= Some(1)).then_some(())
        })
    }

    /// How the drain of a pod ended, when the agent has logged it.
    pub(super) fn outcome(&self, pod: &str, limit: Duration) -> Result<String> {
        self.agent.outcome(&format!("{}/{pod}", self.namespace), limit)
    }

    /// Waits for a Warning of lastcall's about a pod; its words.
    pub(super) fn warning(&self, pod: &Seen, reason: &str) -> Result<String> {
        self.warning_about(self.namespace, pod.uid(), reason)
    }

    /// The same about any object, by its UID and the namespace in which Events about it are.
    pub(super) fn warning_about(&self, namespace: &str, uid: &str, reason: &str) -> Result<String> {
        let until = Instant::now() + SOON;
        loop {
            let words = ["-n", namespace, "get", "events.events.k8s.io", "-o", "json"];
            let events: Value = serde_json::from_str(&self.cluster.kubectl(&words)?)?;
            let ours: Vec<&Value> = events["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|event| event["reportingController"] == "lastcall.dev/agent")
                .collect();
            if let Some(event) = ours.iter().find(|event| event["reason"] == reason) {
                ensure!(event["type"] == "Warning", "not a Warning: {event}");
                ensure!(event["regarding"]["uid"] == uid, "it is about another object: {event}");
                return Ok(event["note"].as_str().unwrap_or_default().to_owned());
            }
            let reasons: Vec<&Value> = ours.iter().map(|event| &event["reason"]).collect();
            ensure!(Instant::now() < until, "no Warning {reason} of lastcall's, but {reasons:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Fails if the agent has logged the end of a pod's drain.
    pub(super) fn still_drains(&self, pod: &str) -> Result<()> {
        let ended = self.agent.outcome(&format!("{}/{pod}", self.namespace), Duration::from_millis(1));
        ensure!(ended.is_err(), "the drain of {pod} has ended as `{}`", ended.unwrap_or_default());
        Ok(())
    }

    /// Waits until the agent has begun to drain a pod.
    pub(super) fn draining(&self, pod: &str) -> Result<()> {
        self.agent.begins(&format!("{}/{pod}", self.namespace), SOON)
    }

    /// Fails unless the drain of a pod ends so.
    pub(super) fn ends_as(&self, pod: &str, wanted: &str) -> Result<()> {
        let outcome = self.outcome(pod, SOON)?;
        ensure!(outcome == wanted, "the drain of {pod} ended as `{outcome}`, not as `{wanted}`");
        Ok(())
    }
}

/// A request that is on its way.
pub(super) struct Ask {
    load: Load,
    asked: f64,
    /// Seconds that it takes in the app.
    takes: f64,
}

impl Ask {
    /// Waits for the answer, and says when it can have come at the earliest, by [`now`]: when it was seen may be
    /// late on a busy machine. Fails if the request was cut.
    pub(super) fn answered(self) -> Result<f64> {
        let Report { failed, failures, .. } = self.load.finish()?;
        if failed > 0 {
            let error = failures.first().map(|failure| failure.error.clone()).unwrap_or_default();
            bail!("the request failed {:.1} s after its start: {error}", now() - self.asked);
        }
        Ok(self.asked + self.takes)
    }

    /// Fails if the answer is there already, or could be.
    pub(super) fn still_waits(&self, what: &str) -> Result<()> {
        let waits = now() - self.asked;
        ensure!(waits < self.takes, "{what}: {waits:.1} s after a request of {} s was sent", self.takes);
        Ok(())
    }

    /// Waits for the end of a request that has to be cut, and says how many seconds after its start that was;
    /// fails if it was answered.
    pub(super) fn cut(self) -> Result<f64> {
        let Report { failed, .. } = self.load.finish()?;
        ensure!(failed > 0, "the request was answered, and was to be cut");
        Ok(now() - self.asked)
    }
}

/// Fails unless a time lies within bounds.
pub(super) fn between(what: &str, seconds: f64, least: f64, most: f64) -> Result<()> {
    ensure!((least..=most).contains(&seconds), "{what} took {seconds:.1} s, not {least} to {most} s");
    Ok(())
}
