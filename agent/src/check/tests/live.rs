//! A cluster is read from a server that answers as an API server does.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use super::{Manifests, settings, short};
use crate::check::{self, live};

/// Answers by path; everything else is an empty list. What was asked for is written down.
struct Server {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answers: BTreeMap<String, (u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{{name: test, cluster: {{server: \
             'http://{address}'}}}}]\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             users: [{{name: test, user: {{}}}}]\n"
        );
        std::fs::write(directory.path().join("config"), config).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, log) = (answers.clone(), Arc::clone(&log));
                thread::spawn(move || serve(stream, &answers, &log));
            }
        });
        Self { directory, asked }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    answers: &BTreeMap<String, (u16, Value)>,
    log: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut out = stream;
    loop {
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let target = request.split(' ').nth(1)?.to_owned();
        log.lock().unwrap().push(format!("{} {target}", request.split(' ').next()?));
        let empty = || (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": [] }));
        let (status, body) = answers.get(&target).cloned().unwrap_or_else(empty);
        let body = body.to_string();
        write!(
            out,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
    }
}

fn list(kind: &str, version: &str, items: Vec<Value>, next: &str) -> (u16, Value) {
    let metadata = if next.is_empty() { json!({}) } else { json!({ "continue": next }) };
    (
        200,
        json!({ "kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": items }),
    )
}

#[test]
fn a_namespace_of_a_cluster() {
    let bad = Manifests::new(&[("app:lifecycle", "-")]);
    let mut other = bad.0[1].clone();
    other["metadata"]["name"] = json!("worker");
    other["spec"]["template"]["metadata"]["labels"]["app"] = json!("worker");
    let mut owned = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-x", "namespace": "shop",
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true }] } });
    owned["spec"] = bad.0[1]["spec"]["template"]["spec"].clone();
    let at = |group: &str, rest: &str| format!("/{group}/namespaces/shop/{rest}?&limit=500");
    let server = Server::new(BTreeMap::from([
        (at("apis/apps/v1", "deployments"), list("Deployment", "apps/v1", vec![bad.0[1].clone()], "two")),
        (
            format!("{}&continue=two", at("apis/apps/v1", "deployments")),
            list("Deployment", "apps/v1", vec![other], ""),
        ),
        (at("api/v1", "services"), list("Service", "v1", vec![bad.0[0].clone()], "")),
        (at("api/v1", "pods"), list("Pod", "v1", vec![owned], "")),
        (
            at("apis/networking.k8s.io/v1", "ingresses"),
            (
                403,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
                "message": "ingresses is forbidden", "code": 403 }),
            ),
        ),
        (
            "/api/v1/namespaces/shop".to_owned(),
            (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "shop" } })),
        ),
    ]));
    let (inventory, problems) = live::read(Some("shop"), Some(&server.config())).unwrap();
    // The worker is not served: all Services are known, and its port is nobody's.
    let findings: Vec<_> =
        check::check(&inventory, &settings()).iter().map(|f| (f.object.to_string(), short(f))).collect();
    assert_eq!(
        findings,
        [("Deployment shop/web".to_owned(), "error no-hook app".to_owned())],
        "{:?}",
        server.asked()
    );
    assert_eq!(inventory.workloads(), 2, "the ReplicaSet's pod is not one");
    assert_eq!(inventory.namespaces.len(), 1);
    let said: Vec<_> = problems.iter().map(|p| (p.to_string(), p.fatal)).collect();
    assert_eq!(said, [("ingresses: ingresses is forbidden (403)".to_owned(), false)]);
    assert!(server.asked().iter().all(|request| request.starts_with("GET /") && !request.contains("watch")));
}

#[test]
fn a_cluster_that_does_not_answer() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::new(BTreeMap::new());
    let config = std::fs::read_to_string(server.config()).unwrap();
    let line = config.lines().find(|line| line.starts_with("clusters")).unwrap().to_owned();
    let dead = format!("clusters: [{{name: test, cluster: {{server: 'http://{gone}'}}}}]");
    std::fs::write(server.config(), config.replace(&line, &dead)).unwrap();
    let (inventory, problems) = live::read(None, Some(&server.config())).unwrap();
    assert_eq!((inventory.workloads(), problems.len()), (0, 1));
    assert!(problems[0].fatal && problems[0].to_string().contains("refused"), "{problems:?}");
    let (_, problems) = live::read(None, Some(&server.directory.path().join("none"))).unwrap();
    assert!(problems[0].fatal && problems[0].to_string().starts_with("cluster: "), "{problems:?}");
}
