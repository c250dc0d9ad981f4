//! Whatever the order in which the index is told, it knows what the objects say.

use proptest::prelude::*;

use super::*;
use crate::cluster::{Kind, Record, Terminating};

/// Names, addresses and labels are few, so that they meet.
fn object() -> impl Strategy<Value = String> {
    let namespace = prop::sample::select(vec!["n", "m"]);
    let deletion = prop::sample::select(vec!["", ", deletionTimestamp: '2026-11-20T09:32:30Z'"]);
    let pod = (namespace.clone(), 0..3u8, 0..3u8, deletion, 0..4u8, 0..3u8, 0..2u8).prop_map(
        |(namespace, name, uid, deletion, address, label, node)| {
            // A deletion is for good: its UID has it or has not.
            let uid = if deletion.is_empty() { format!("u{uid}") } else { format!("d{uid}") };
            let status = if address == 3 { String::new() } else { format!("podIP: 10.0.0.{address}") };
            format!(
                "kind: Pod\nmetadata: {{name: p{name}, namespace: {namespace}, uid: {uid}, \
                 labels: {{app: l{label}}}{deletion}}}\nspec: {{nodeName: node-{node}}}\nstatus: {{{status}}}\n"
            )
        },
    );
    let endpoint = (0..3u8, prop::option::of((0..3u8, 0..4u8)), any::<bool>(), any::<bool>(), 0..3u8)
        .prop_map(|(address, target, ready, terminating, node)| {
            let node = if node == 2 { String::new() } else { format!("nodeName: node-{node}, ") };
            let target = target.map_or(String::new(), |(name, uid)| match uid {
                3 => format!(", targetRef: {{kind: Pod, name: p{name}}}"),
                _ => format!(", targetRef: {{kind: Pod, name: p{name}, uid: u{uid}}}"),
            });
            format!(
                "{{addresses: [10.0.0.{address}], {node}conditions: {{ready: {ready}, terminating: \
                 {terminating}}}{target}}}"
            )
        });
    let slice = (namespace.clone(), 0..3u8, 0..3u8, prop::collection::vec(endpoint, 0..4), 1..4u16).prop_map(
        |(namespace, name, service, endpoints, port)| {
            format!(
                "kind: EndpointSlice\nmetadata: {{name: s{name}, namespace: {namespace}, labels: \
                 {{kubernetes.io/service-name: v{service}}}}}\naddressType: IPv4\nendpoints: [{}]\n\
                 ports: [{{name: http, port: {port}}}]\n",
                endpoints.join(", ")
            )
        },
    );
    let spec =
        prop::sample::select(vec!["clusterIP: None", "externalTrafficPolicy: Local", "type: ClusterIP"]);
    let service = (namespace, 0..3u8, 0..3u8, spec).prop_map(|(namespace, name, label, spec)| {
        format!(
            "kind: Service\nmetadata: {{name: v{name}, namespace: {namespace}}}\n\
             spec: {{{spec}, selector: {{app: l{label}}}}}\n"
        )
    });
    prop_oneof![pod, slice, service]
}

#[derive(Clone, Debug)]
enum Step {
    Apply(String),
    Delete(usize),
    Reset(Kind, Option<&'static str>, Vec<String>),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![Kind::Pod, Kind::Slice, Kind::Service]);
    let scope = prop::sample::select(vec![None, Some("n"), Some("m")]);
    prop_oneof![
        6 => object().prop_map(Step::Apply),
        2 => any::<usize>().prop_map(Step::Delete),
        1 => (kind, scope, prop::collection::vec(object(), 0..4)).prop_map(|(k, s, o)| Step::Reset(k, s, o)),
    ]
}

type Key = (Kind, String, String);

fn key(object: &Object, options: &Options) -> Key {
    let record = Record::new(object, options).unwrap();
    (record.kind(), record.namespace, record.name)
}

/// What must not depend on the order: all but when things were seen. With files a drain may pass from a
/// slice's word to a Pod object and back, and keeps the shorter grace.
fn timeless(index: &Index) -> Vec<PodFacts> {
    let files = index.options().slices_start_drains;
    let forget = |end: &Terminating| Terminating {
        first_seen: T0,
        withdrawn: None,
        grace: end.grace.filter(|_| !files),
        deletion_timestamp: end.deletion_timestamp.filter(|_| !files),
    };
    let without =
        |pod: &PodFacts| PodFacts { terminating: pod.terminating.as_ref().map(forget), ..pod.clone() };
    index.pods().map(|pod| without(pod)).collect()
}

fn options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>()).prop_map(|(node, slices_start_drains)| Options {
        node_name: node.then(|| "node-0".into()),
        hook_port: 9902,
        slices_start_drains,
    })
}

fn listed(options: &Options) -> Index {
    let mut index = Index::new(options.clone());
    index.reset(Kind::Slice, None, &[], T0);
    index
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_order_ends_where_the_objects_say(options in options(), steps in prop::collection::vec(step(), 0..24)) {
        let mut index = listed(&options);
        let mut there: std::collections::BTreeMap<Key, Object> = Default::default();
        for (at, step) in steps.into_iter().enumerate() {
            let now = Moment(10_000 + at as u64);
            let before: Vec<_> = index.pods().cloned().collect();
            let changed = match step {
                Step::Apply(text) => {
                    let object = objects(&text).remove(0);
                    let changed = index.apply(&object, now);
                    there.insert(key(&object, &options), object);
                    changed
                }
                Step::Delete(_) if there.is_empty() => continue,
                Step::Delete(which) => {
                    let key = there.keys().nth(which % there.len()).unwrap().clone();
                    there.remove(&key);
                    index.delete(key.0, &key.1, &key.2, now)
                }
                Step::Reset(kind, scope, texts) => {
                    let objects: Vec<Object> = texts.iter().flat_map(|text| objects(text)).collect();
                    let changed = index.reset(kind, scope, &objects, now);
                    let in_scope = |key: &Key| key.0 == kind && scope.is_none_or(|scope| scope == key.1);
                    there.retain(|key, _| !in_scope(key));
                    let listed = objects.into_iter().map(|object| (key(&object, &options), object));
                    there.extend(listed.filter(|(key, _)| in_scope(key)));
                    changed
                }
            };
            // The names that are told are those whose facts differ, no more and no less.
            let after: Vec<_> = index.pods().cloned().collect();
            let mut differ: Vec<PodName> = before.iter().filter(|pod| !after.contains(pod))
                .chain(after.iter().filter(|pod| !before.contains(pod)))
                .map(|pod| pod.name.clone()).collect();
            differ.sort();
            differ.dedup();
            let mut told = changed.clone();
            told.sort();
            prop_assert_eq!(&told, &differ);

            let mut rebuilt = listed(&options);
            for object in there.values() {
                rebuilt.apply(object, T0);
            }
            prop_assert_eq!(timeless(&index), timeless(&rebuilt));
        }
        let mut replaced = Index::new(options.clone());
        replaced.reset(Kind::Slice, None, &[], T0);
        let records: Vec<_> = there.values().filter_map(|object| Record::new(object, &options)).collect();
        if records.iter().any(|record| record.kind() != Kind::Pod) {
            replaced.replace(records, T0);
            prop_assert_eq!(timeless(&index), timeless(&replaced));
        }
    }
}
