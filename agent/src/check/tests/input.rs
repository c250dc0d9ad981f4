use std::{fs, path::PathBuf, sync::Arc};

use proptest::prelude::*;

use super::{CLEAN, Manifests, inventory, settings, short};
use crate::check::{self, Inventory, input::parse};

fn error(text: &str) -> (u64, String) {
    let misfit = parse(text.as_bytes(), &Arc::from("x"), &mut Inventory::default()).expect_err(text);
    (misfit.line, misfit.reason)
}

#[test]
fn what_is_broken_says_where_and_why() {
    for (text, line, reason) in [
        ("kind: Pod\napiVersion: v1\nmetadata: {name: a\n", 3, "unclosed"),
        ("a: 1\n---\n# x\na: 1\na: 2\n", 5, "duplicate"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", 1, "it has no spec"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: two\n  selector: \
             {}\n  template: {}\n",
            5,
            "spec.replicas: invalid type",
        ),
        (
            "x: 1\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    \
             lifecycle:\n      preStop: [1]\n",
            10,
            "spec.containers[0].lifecycle.preStop",
        ),
        ("{{- if .Values.x }}\nkind: Pod\n{{- end }}\n", 1, "a template"),
        ("kind: Deployment\napiVersion: apps/v1\nspec:\n  replicas: {{ .Values.n }}\n", 4, "a template"),
    ] {
        let (found, said) = error(text);
        assert!(said.contains(reason), "{text}: {found}: {said}");
        assert_eq!(found, line, "{text}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
    let misfit = parse(b"kind: Pod\nme\xff", &Arc::from("x"), &mut Inventory::default()).unwrap_err();
    assert_eq!((misfit.line, misfit.reason.as_str()), (2, "not UTF-8"));
}

#[test]
fn the_same_in_every_form() {
    let bad = Manifests::new(&[("app:lifecycle", "-")]);
    let want: Vec<_> = bad.findings(&settings()).iter().map(short).collect();
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": bad.0 });
    let compact = bad.0.iter().map(ToString::to_string).collect::<Vec<_>>();
    for text in [
        serde_json::to_string_pretty(&list).unwrap(),
        list.to_string(),
        serde_saphyr::to_string(&list).unwrap(),
        compact.join("\n"),
        compact.join(""),
        compact.join("\n---\n"),
        bad.text().replace('\n', "\r\n"),
        format!("\u{feff}{}", bad.text()),
        serde_json::to_string_pretty(&list).unwrap().replace("  ", "\t"),
    ] {
        let found: Vec<_> = check::check(&inventory(&text), &settings()).iter().map(short).collect();
        assert_eq!(found, want, "{text}");
    }
    // As the API answers: items of a typed list do not say their kind.
    let mut deployment = bad.0[1].clone();
    deployment.as_object_mut().unwrap().remove("kind");
    let typed =
        serde_json::json!({ "apiVersion": "apps/v1", "kind": "DeploymentList", "items": [deployment] });
    assert_eq!(inventory(&typed.to_string()).workloads(), 1);
}

#[test]
fn anchors_and_merges() {
    let text = "x: &l {app: web}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, labels: &l \
                {app: web}}\nspec:\n  selector: {matchLabels: *l}\n  template:\n    metadata: {labels: {<<: *l, \
                b: c}}\n    spec: {containers: [{name: a, image: a, ports: [{containerPort: 80}]}]}\n";
    let found: Vec<_> = check::check(&inventory(text), &settings()).iter().map(short).collect();
    assert_eq!(found, ["warning no-readiness-probe a", "warning no-hook a"]);
}

#[test]
fn lines_are_those_of_the_file() {
    let text = format!(
        "# a comment\n\n---\n{}",
        CLEAN
            .replace("        readinessProbe:\n          httpGet: {path: /healthz, port: http}\n", "")
            .replace("?last-call=http", "?settle=5")
    );
    let findings = check::check(&inventory(&text), &settings());
    let line = |n: usize| text.lines().nth(n - 1).unwrap();
    let at: Vec<_> =
        findings.iter().map(|f| (short(f), line(f.place.as_ref().unwrap().line as usize).trim())).collect();
    let hook = "httpGet: {path: \"/drain?settle=5\", port: 9902}";
    assert_eq!(
        at,
        [
            ("error no-readiness-probe app".to_owned(), "- name: app"),
            ("error hook-parameters app".to_owned(), hook),
        ]
    );
}

#[test]
fn other_kinds_are_left_alone() {
    for text in [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: 7\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: 5\n",
        "apiVersion: extensions/v1beta1\nkind: Deployment\nspec: 5\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: a}\n",
    ] {
        let inventory = inventory(text);
        assert_eq!((inventory.workloads(), inventory.count()), (0, 1), "{text}");
    }
}

#[test]
fn files_and_directories() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("deep")).unwrap();
    fs::create_dir(at(".git")).unwrap();
    fs::write(at("deep/web.yml"), CLEAN).unwrap();
    fs::write(at(".git/x.yaml"), "[").unwrap();
    fs::write(at("values.yaml"), "replicas: 2\n").unwrap();
    fs::write(at("notes.txt"), "[").unwrap();
    let read = |paths: &[PathBuf]| {
        let (inventory, problems) = check::read(paths);
        let problems: Vec<_> = problems
            .iter()
            .map(|p| p.to_string().replace(&*directory.path().to_string_lossy(), ""))
            .collect();
        (inventory.count(), problems)
    };
    assert_eq!(read(&[directory.path().into()]), (2, vec![]));
    // Somebody meant this file.
    assert_eq!(
        read(&[at("values.yaml")]),
        (0, vec!["/values.yaml: it holds no Kubernetes object".to_owned()])
    );
    fs::write(at("broken.yaml"), "kind: Pod\nspec: {\n").unwrap();
    let (objects, problems) = read(&[directory.path().into()]);
    assert_eq!((objects, problems.len()), (2, 1));
    assert!(problems[0].starts_with("/broken.yaml:2: "), "{problems:?}");
    let (_, problems) = read(&[at("none.yaml")]);
    assert!(problems[0].contains("No such file"), "{problems:?}");
    fs::create_dir(at("empty")).unwrap();
    assert_eq!(read(&[at("empty")]).1.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a text is, it is read or refused.
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(text.as_bytes(), &Arc::from("x"), &mut Inventory::default());
    }

    /// An example with any of its values replaced by any other is read or refused, and its findings print.
    #[test]
    fn no_object_panics(at in 0_usize..80, with in prop::sample::select(vec![
        "null", "true", "-1", "99999999999", "1.5", "''", "'é%'", "[]", "{}", "[null]", "{a: b}", "'100%'",
        "'/drain?settle=99999999999999s&&=%'", "-9223372036854775808",
    ])) {
        let mut manifests = Manifests::new(&[
            ("spec.strategy", "{rollingUpdate: {maxUnavailable: 1, maxSurge: 50%}}"),
            ("pod:terminationGracePeriodSeconds", "30"),
            ("pod:hostNetwork", "true"),
            ("app:lifecycle.preStop.exec", "{command: [sh, -c, sleep 5]}"),
        ]);
        let value: serde_json::Value = serde_saphyr::from_str(with).unwrap();
        let mut left = at;
        for document in &mut manifests.0 {
            replace(document, &mut left, &value);
        }
        let mut inventory = Inventory::default();
        let file = Arc::from("x");
        if parse(manifests.text().as_bytes(), &file, &mut inventory).is_ok() {
            let findings = check::check(&inventory, &settings());
            for format in [check::Format::Text, check::Format::Json, check::Format::Sarif] {
                check::command::render(format, &inventory, &findings, &[]).unwrap();
            }
        }
    }
}

/// Replaces the value that is so many values further.
fn replace(value: &mut serde_json::Value, left: &mut usize, with: &serde_json::Value) {
    use serde_json::Value;
    if *left == 0 {
        *value = with.clone();
    }
    *left = left.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, left, with)),
        Value::Object(entries) => entries.values_mut().for_each(|item| replace(item, left, with)),
        _ => {}
    }
}

/// Deep nesting is refused, not followed to the end of the stack.
#[test]
fn a_deep_document_is_refused() {
    let (_, reason) = error(&"[".repeat(10_000));
    assert!(!reason.is_empty());
    let deep = format!("a: {}1{}", "[".repeat(500), "]".repeat(500));
    error(&deep);
}
