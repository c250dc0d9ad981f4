//! Files as writers, editors and ConfigMap mounts change them. Everything waits for notices.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::{Manifests, Problem, Problems};
use crate::cluster::{Changes, Cluster, Options};

/// A slice with the pods `NAME`, of one address each, as `api-0=10.0.0.1`.
fn slice(name: &str, pods: &[&str]) -> String {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| {
            let (pod, address) = pod.split_once('=').unwrap();
            format!("{{addresses: [{address}], targetRef: {{kind: Pod, name: {pod}, uid: u-{pod}}}}}")
        })
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}}}\n\
         addressType: IPv4\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

struct Source {
    directory: TempDir,
    cluster: Cluster,
    changes: Changes,
    problems: Problems,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Source {
    /// Of a path in a directory that `prepare` has filled.
    fn open(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let options = Options { node_name: None, hook_port: 9902, slices_start_drains: true };
        let cluster = Cluster::new(options);
        let manifests = Manifests::open(&directory.path().join(path), cluster.clone()).unwrap();
        let problems = manifests.problems();
        let changes = cluster.subscribe();
        let running = tokio::spawn(manifests.run());
        Self { directory, cluster, changes, problems, running }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn rename_into_place(&self, name: &str, text: &str) {
        let new = self.path(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn pods(&self) -> Vec<String> {
        let of = |pod: &crate::cluster::PodFacts| {
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            format!("{}={}", pod.name.name, addresses.join("+"))
        };
        self.cluster.snapshot().iter().map(|pod| of(pod)).collect()
    }

    /// Waits for these pods; on the way there, none of `always` may be missing.
    async fn until(&mut self, want: &[&str], always: &[&str]) {
        while self.pods() != want {
            let next = tokio::time::timeout(Duration::from_secs(60), self.changes.next()).await;
            assert!(next.is_ok(), "{:?} instead of {want:?}; {:?}", self.pods(), self.problems.list());
            let there: Vec<_> = self.cluster.snapshot().iter().map(|pod| pod.name.name.clone()).collect();
            for pod in always {
                assert!(there.iter().any(|there| there == pod), "{pod} was gone: {there:?}");
            }
        }
    }

    /// Waits for a problem that says `part`; `""`: for none.
    async fn problem(&mut self, part: &str) -> Option<Problem> {
        loop {
            let list = self.problems.list();
            let said = list.iter().find(|problem| problem.to_string().contains(part));
            if part.is_empty() && list.is_empty() {
                return None;
            }
            if !part.is_empty() && said.is_some() {
                return said.cloned();
            }
            let next = tokio::time::timeout(Duration::from_secs(60), self.problems.changed()).await;
            assert!(next == Ok(true), "{part:?} is not among {list:?}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_comes_later() {
    let mut source = Source::open("a/b", |_| {});
    source.problem("a/b: it does not exist (yet)").await;
    fs::create_dir(source.path("a")).unwrap();
    fs::create_dir(source.path("a/b")).unwrap();
    source.problem("a/b: it has no *.yaml").await;
    source.write("a/b/one.yaml", &slice("one", &["p=10.0.0.1"]));
    source.until(&["p=10.0.0.1"], &[]).await;
    source.problem("").await;
    source.rename_into_place("a/b/two.json", r#"{"kind": "Pod", "metadata": {"name": "q"}}"#);
    source.until(&["p=10.0.0.1", "q="], &["p"]).await;
}

#[tokio::test]
async fn a_file_that_comes_later_under_any_name() {
    let mut source = Source::open("endpoints", |_| {});
    source.problem("it does not exist (yet)").await;
    source.write("endpoints", &slice("one", &["p=10.0.0.1"]));
    source.until(&["p=10.0.0.1"], &[]).await;
    source.rename_into_place("endpoints", &slice("one", &["p=10.0.0.2"]));
    source.until(&["p=10.0.0.2"], &["p"]).await;
    source.write("endpoints", &slice("one", &["p=10.0.0.3"]));
    source.until(&["p=10.0.0.3"], &["p"]).await;
    fs::remove_file(source.path("endpoints")).unwrap();
    source.until(&[], &[]).await;
    source.problem("it does not exist (yet)").await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_state() {
    let mut source = Source::open(".", |directory| {
        fs::write(directory.join("a.yaml"), slice("a", &["p=10.0.0.1"])).unwrap();
        fs::write(directory.join("b.yaml"), slice("b", &["q=10.0.0.2"])).unwrap();
    });
    let both = ["p=10.0.0.1", "q=10.0.0.2"];
    assert_eq!(source.pods(), both);
    for (text, want) in [
        ("kind: Pod\nmetadata:\n  name: [p]\n", "a.yaml:3:9: expected string scalar"),
        ("", "a.yaml: it has no document"),
        ("# only this\n---\n", "a.yaml: it has no document"),
        ("kind: Pod\nmetadata: {}\n", "a.yaml:1:1: it has no metadata.name"),
        ("apiVersion: v1\nitems:\n- kind: Pod\n", "a.yaml:1:1: it has no kind"),
        ("apiVersion: v1\nitems:\n- apiVersion: v1\n  ki", "a.yaml:4:3: simple key"),
        ("just a text", "a.yaml:1:1: "),
    ] {
        source.write("a.yaml", text);
        let problem = source.problem(want).await.unwrap();
        assert_eq!(problem.kept, 1, "{problem}");
        assert_eq!(source.pods(), both, "{text:?}");
    }
    // The others are read on.
    source.write("b.yaml", &slice("b", &["r=10.0.0.3"]));
    source.until(&["p=10.0.0.1", "r=10.0.0.3"], &["p"]).await;
    // Nothing, said completely, is nothing.
    source.write("a.yaml", "apiVersion: v1\nitems: []\nkind: List\n");
    source.until(&["r=10.0.0.3"], &["r"]).await;
    source.problem("").await;
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_closes_it() {
    let mut source = Source::open(".", |directory| {
        let text = slice("a", &["p=10.0.0.1"]) + "---\n" + &slice("b", &["q=10.0.0.2"]);
        fs::write(directory.join("a.yaml"), text).unwrap();
    });
    let mut file = File::create(source.path("a.yaml")).unwrap();
    // Complete by its grammar, but only half of what is to come.
    file.write_all((slice("a", &["p=10.0.0.3"]) + "---\n").as_bytes()).unwrap();
    source.write("other.yaml", &slice("c", &["r=10.0.0.4"]));
    source.until(&["p=10.0.0.1", "q=10.0.0.2", "r=10.0.0.4"], &["p", "q"]).await;
    file.write_all(slice("b", &["q=10.0.0.2"]).as_bytes()).unwrap();
    drop(file);
    source.until(&["p=10.0.0.3", "q=10.0.0.2", "r=10.0.0.4"], &["p", "q"]).await;
}

#[tokio::test]
async fn a_writer_that_never_closes_is_taken_at_its_word() {
    let mut source = Source::open("a.yaml", |_| {});
    let mut file = File::create(source.path("a.yaml")).unwrap();
    file.write_all(slice("a", &["p=10.0.0.1"]).as_bytes()).unwrap();
    source.until(&["p=10.0.0.1"], &[]).await;
    drop(file);
}

#[tokio::test]
async fn an_editor_that_moves_the_old_file_away_first() {
    let mut source = Source::open(".", |directory| {
        fs::write(directory.join("a.yaml"), slice("a", &["p=10.0.0.1"])).unwrap();
    });
    fs::rename(source.path("a.yaml"), source.path("a.yaml~")).unwrap();
    // The reader has seen that it is gone by the time it has read this.
    source.write("b.yaml", &slice("b", &["q=10.0.0.2"]));
    source.until(&["p=10.0.0.1", "q=10.0.0.2"], &["p"]).await;
    source.write("a.yaml", &slice("a", &["p=10.0.0.3"]));
    source.until(&["p=10.0.0.3", "q=10.0.0.2"], &["p"]).await;
    fs::remove_file(source.path("a.yaml")).unwrap();
    source.until(&["q=10.0.0.2"], &["q"]).await;
}

/// As the kubelet's `AtomicWriter` lays out a ConfigMap.
fn config_map(directory: &Path, generation: &str, text: &str) {
    let data = directory.join(generation);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("slices.yaml"), text).unwrap();
    symlink(generation, directory.join("..data_tmp")).unwrap();
    let old = fs::read_link(directory.join("..data"));
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    match old {
        Ok(old) => fs::remove_dir_all(directory.join(old)).unwrap(),
        Err(_) => symlink("..data/slices.yaml", directory.join("slices.yaml")).unwrap(),
    }
}

#[tokio::test]
async fn a_config_map_by_its_directory_and_by_its_file() {
    for path in ["mount", "mount/slices.yaml", "link.yaml"] {
        let mut source = Source::open(path, |directory| {
            fs::create_dir(directory.join("mount")).unwrap();
            symlink("mount/slices.yaml", directory.join("link.yaml")).unwrap();
        });
        for generation in ["1", "2", "3"] {
            let (mount, pod) = (source.path("mount"), format!("p=10.0.0.{generation}"));
            config_map(&mount, &format!("..2026_11_20_{generation}"), &slice("a", &[&pod]));
            source.until(&[&pod], if generation == "1" { &[] } else { &["p"] }).await;
        }
        source.problem("").await;
    }
}

#[tokio::test]
async fn a_directory_that_is_swapped() {
    let mut source = Source::open("now", |directory| {
        for name in ["now", "next"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        fs::write(directory.join("now/a.yaml"), slice("a", &["p=10.0.0.1"])).unwrap();
        fs::write(directory.join("next/a.yaml"), slice("a", &["p=10.0.0.2"])).unwrap();
    });
    fs::rename(source.path("now"), source.path("old")).unwrap();
    source.problem("it is gone; its last state holds").await;
    assert_eq!(source.pods(), ["p=10.0.0.1"]);
    fs::rename(source.path("next"), source.path("now")).unwrap();
    source.until(&["p=10.0.0.2"], &["p"]).await;
    source.problem("").await;
    // The old one is nobody's any more, the new one is watched.
    source.write("old/a.yaml", &slice("a", &["p=10.0.0.3"]));
    source.write("now/a.yaml", &slice("a", &["p=10.0.0.4"]));
    source.until(&["p=10.0.0.4"], &["p"]).await;
}

#[tokio::test]
async fn which_files_count() {
    let mut source = Source::open(".", |directory| {
        for (name, pod) in [
            ("a.yaml", "a=10.0.0.1"),
            ("b.yml", "b=10.0.0.2"),
            (".hidden.yaml", "x=10.0.0.4"),
            ("README.md", "x=10.0.0.4"),
            ("a.yaml~", "x=10.0.0.4"),
        ] {
            fs::write(directory.join(name), slice(pod.split_once('=').unwrap().0, &[pod])).unwrap();
        }
        fs::write(directory.join("c.yaml"), r#"{"kind": "Pod", "metadata": {"name": "c"}}"#).unwrap();
        fs::create_dir(directory.join("d.yaml")).unwrap();
        fs::write(directory.join("d.yaml/e.yaml"), slice("e", &["x=10.0.0.4"])).unwrap();
        let big = File::create(directory.join("big.yaml")).unwrap();
        big.set_len(super::files::MAX_BYTES + 1).unwrap();
    });
    assert_eq!(source.pods(), ["a=10.0.0.1", "b=10.0.0.2", "c="]);
    source.problem("big.yaml: more than 64 MiB").await;
    source.problem("d.yaml: not a file").await;
    // Of an object in two files the last one counts.
    source.write("aa.yaml", &slice("a", &["a=10.0.0.9"]));
    source.until(&["a=10.0.0.9", "b=10.0.0.2", "c="], &["a", "b", "c"]).await;
    source.problem("aa.yaml: EndpointSlice default/a is in").await;
    fs::remove_file(source.path("aa.yaml")).unwrap();
    source.until(&["a=10.0.0.1", "b=10.0.0.2", "c="], &["a", "b", "c"]).await;
}
