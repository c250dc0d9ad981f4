use super::*;
use crate::cluster::Exposure;

const WEB: &str = "shop/web-7d9c5b8f6d-x2x8q";

#[test]
fn a_strangers_slice_changes_nothing() {
    for options in [cluster(), files()] {
        let mut index = index(options, &[LIST, DUAL_STACK]);
        let before: Vec<_> = index.pods().cloned().collect();
        // Within its own namespace it may name pods; with files alone it does. But not these addresses.
        apply(&mut index, STRANGER, T1);
        let after: Vec<_> = index.pods().cloned().collect();
        assert_eq!(after, before);
    }
    // Nor does it when it came first.
    for options in [cluster(), files()] {
        let first = index(options.clone(), &[STRANGER, LIST, DUAL_STACK]);
        let alone = index(options, &[LIST, DUAL_STACK]);
        assert!(first.pods().eq(alone.pods()));
    }
}

#[test]
fn a_cluster_never_believes_slices_about_addresses() {
    // A pod without an address, and its tenant's slice that gives it another's.
    let text = "
kind: Pod
metadata: {name: a, namespace: mallory, uid: ua, deletionTimestamp: '2026-11-20T09:32:04Z'}
spec: {nodeName: node-a}
---
kind: EndpointSlice
metadata: {name: s, namespace: mallory}
addressType: IPv4
endpoints: [{addresses: [10.244.1.17], targetRef: {kind: Pod, name: a, uid: ua}}]
";
    let index_cluster = index(cluster(), &[text]);
    assert_eq!(at(&index_cluster, "10.244.1.17"), None);
    // Files may, where no Pod object has the address.
    assert_eq!(at(&index(files(), &[text]), "10.244.1.17").as_deref(), Some("mallory/a"));
    assert_eq!(at(&index(files(), &[text, LIST]), "10.244.1.17").as_deref(), Some(WEB));
}

#[test]
fn whom_a_slice_names() {
    // The pod's metadata and addresses, then the endpoint: believed or not.
    let uid = "name: a, uid: ua";
    let bare = "name: a";
    let here = "podIP: 10.0.0.1";
    let rows = [
        ("its UID", uid, here, "targetRef: {kind: Pod, name: a, uid: ua}", true),
        ("its UID under another name", uid, here, "targetRef: {kind: Pod, name: b, uid: ua}", true),
        ("its UID alone", uid, here, "targetRef: {kind: Pod, uid: ua}", true),
        ("another UID", uid, here, "targetRef: {kind: Pod, name: a, uid: old}", false),
        ("its name, an address of it", uid, here, "targetRef: {kind: Pod, name: a}", true),
        ("its name, not its address", uid, "podIP: 10.0.0.2", "targetRef: {kind: Pod, name: a}", false),
        ("its name, no UID known", bare, "podIP: 10.0.0.2", "targetRef: {kind: Pod, name: a}", true),
        ("its name, a UID only here", bare, here, "targetRef: {kind: Pod, name: a, uid: x}", true),
        ("another name", bare, here, "targetRef: {kind: Pod, name: b}", false),
        ("no targetRef, its address", uid, here, "hostname: x", true),
        ("no targetRef, another address", uid, "podIP: 10.0.0.2", "hostname: x", false),
        ("an empty targetRef", uid, here, "targetRef: {kind: Pod}", true),
        ("not a Pod", uid, here, "targetRef: {kind: Node, name: a, uid: ua}", false),
        ("of another namespace", uid, here, "targetRef: {kind: Pod, namespace: b, name: a, uid: ua}", false),
    ];
    for (what, metadata, status, endpoint, believed) in rows {
        let text = format!(
            "kind: Pod\nmetadata: {{{metadata}}}\nspec: {{nodeName: node-a}}\nstatus: {{{status}}}\n---\n\
             kind: EndpointSlice\nmetadata: {{name: s}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [10.0.0.1], {endpoint}}}]\nports: [{{name: http, port: 80}}]\n"
        );
        let index = index(cluster(), &[&text]);
        let found = ports(pod(&index, "default/a"));
        assert_eq!(!found.is_empty(), believed, "{what}");
    }
}

#[test]
fn slices_alone_start_drains_only_with_files() {
    assert_eq!(names(&index(cluster(), &[SLICES_ALONE])), [""; 0]);

    let index = index(files(), &[SLICES_ALONE]);
    assert_eq!(names(&index), ["lab/192.0.2.10", "shop/api-0", "shop/api-1"]);
    let api = pod(&index, "shop/api-0");
    assert_eq!(api.uid, "a0");
    assert_eq!(api.addresses.len(), 2, "{:?}", api.addresses);
    assert_eq!(ports(api), ["8080 Tcp Http slice"]);
    assert_eq!(api.exposure, Exposure::Unknown);
    let end = api.terminating.as_ref().unwrap();
    assert_eq!((end.grace, end.deletion_timestamp, end.withdrawn), (None, None, Some(T0)));
    assert_eq!(pod(&index, "shop/api-1").terminating, None);
    let by_hand = pod(&index, "lab/192.0.2.10");
    // It says `terminating` and leaves `ready` out.
    assert_eq!(by_hand.terminating.as_ref().unwrap().withdrawn, Some(T0));
    assert_eq!(at(&index, "192.0.2.10").as_deref(), Some("lab/192.0.2.10"));
}

#[test]
fn slices_start_the_drain_of_a_pod_object_only_with_files() {
    let text = LIST
        .replace("    deletionGracePeriodSeconds: 60\n    deletionTimestamp: \"2026-11-20T09:32:04Z\"\n", "");
    assert_ne!(text, LIST);
    assert_eq!(index(cluster(), &[&text]).terminating().count(), 0);
    let index = index(files(), &[&text]);
    let end = pod(&index, WEB).terminating.as_ref().unwrap();
    assert_eq!(end.grace, Some(std::time::Duration::from_secs(60)), "its spec says so");
}

#[test]
fn a_pod_object_takes_the_place_of_its_slice() {
    let mut index = index(files(), &[SLICES_ALONE]);
    let pod_text =
        "kind: Pod\nmetadata: {name: api-0, namespace: shop, uid: a0}\nstatus: {podIP: 10.244.3.5}";
    assert_eq!(apply(&mut index, pod_text, T1), ["shop/api-0"]);
    assert_eq!(pod(&index, "shop/api-0").terminating.as_ref().unwrap().first_seen, T0);
    // Of the same address in another namespace it takes the address away.
    let pod_text = "kind: Pod\nmetadata: {name: echo, namespace: real, uid: e}\nstatus: {podIP: 192.0.2.10}";
    assert_eq!(apply(&mut index, pod_text, T1), ["lab/192.0.2.10", "real/echo"]);
    assert_eq!(at(&index, "192.0.2.10").as_deref(), Some("real/echo"));
    assert_eq!(pod(&index, "real/echo").terminating, None);
}

#[test]
fn who_is_ready_beside_a_terminating_pod_is_counted_on_all_nodes() {
    let slice = |name: &str, service: &str, endpoints: &str| {
        format!(
            "
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
endpoints: [{endpoints}]
"
        )
    };
    let ready = |ip: &str, node: &str| {
        format!("{{addresses: [{ip}], nodeName: {node}, conditions: {{ready: true}}}}")
    };
    let own = "{addresses: [10.0.0.1], nodeName: node-a, targetRef: {kind: Pod, name: web-0, uid: w0},
      conditions: {ready: false, terminating: true}}";
    let going = "{addresses: [10.0.0.9], nodeName: node-b, conditions: {ready: false, terminating: true}}";
    let pod_of = |deletion: &str| {
        format!(
            "
kind: Pod
metadata: {{name: web-0, namespace: shop, uid: w0{deletion}}}
spec: {{nodeName: node-a}}
status: {{podIP: 10.0.0.1}}
"
        )
    };
    let texts = [
        slice("web-a", "web", &format!("{own}, {}, {going}", ready("10.0.0.2", "node-a"))),
        slice("web-b", "web", &format!("{}, {}", ready("10.0.0.3", "node-b"), ready("10.0.0.4", "node-c"))),
        slice("api-a", "api", &format!("{own}, {}", ready("10.0.0.2", "node-a"))),
        slice("db-a", "db", &ready("10.0.0.8", "node-b")),
        // The same pods by their other addresses.
        slice("web-6", "web", &format!("{own}, {}", ready("fd00::2", "node-a")))
            .replace("addressType: IPv4", "addressType: IPv6")
            .replace("10.0.0.1", "fd00::1"),
    ];
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (stays, goes) = (pod_of(""), pod_of(", deletionTimestamp: '2026-01-01T00:00:00Z'"));
    texts.push(&stays);
    let mut index = index(cluster(), &texts);
    assert_eq!(pod(&index, "shop/web-0").others_ready, None, "it goes nowhere");
    apply(&mut index, &goes, T1);
    assert_eq!(pod(&index, "shop/web-0").others_ready, Some(3), "the larger of its two Services");
}

#[test]
fn a_name_beats_a_nameless_claim() {
    let claim = "
kind: EndpointSlice
metadata: {name: claim, namespace: mallory}
addressType: IPv4
endpoints: [{addresses: [10.244.3.6], conditions: {terminating: true}}]
";
    let index = index(files(), &[claim, SLICES_ALONE]);
    assert_eq!(names(&index), ["lab/192.0.2.10", "shop/api-0", "shop/api-1"]);
    assert_eq!(pod(&index, "shop/api-1").terminating, None);
}

#[test]
fn a_slice_of_the_pod_before_is_not_this_pods() {
    let text = "
kind: Pod
metadata: {name: db-0, uid: new}
status: {podIP: 10.0.0.2}
---
kind: EndpointSlice
metadata: {name: s}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {terminating: true}, targetRef: {kind: Pod, name: db-0, uid: old}}]
ports: [{port: 80}]
";
    let index = index(files(), &[text]);
    let db = pod(&index, "default/db-0");
    assert_eq!((db.uid.as_str(), &db.terminating, db.ports.len()), ("new", &None, 0));
    assert_eq!((names(&index).len(), at(&index, "10.0.0.1")), (1, None));
}
