use std::time::Duration;

use super::*;
use crate::cluster::Kind;

fn text(uid: &str, deletion: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: a, uid: {uid}{deletion}}}\nspec: {{nodeName: node-a, \
         terminationGracePeriodSeconds: 45}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

const DELETED: &str = ", deletionTimestamp: '2026-11-20T09:32:30Z', deletionGracePeriodSeconds: 40";
const SOONER: &str = ", deletionTimestamp: '2026-11-20T09:31:55Z', deletionGracePeriodSeconds: 5";

fn end(index: &Index) -> (Moment, Option<u64>) {
    let end = pod(index, "default/a").terminating.as_ref().unwrap();
    (end.first_seen, end.grace.as_ref().map(Duration::as_secs))
}

#[test]
fn deleted_twice() {
    let mut index = index(cluster(), &[&text("u", "")]);
    assert_eq!(index.terminating().count(), 0);
    assert_eq!(apply(&mut index, &text("u", DELETED), T1), ["default/a"]);
    assert_eq!(end(&index), (T1, Some(40)));
    assert_eq!(apply(&mut index, &text("u", DELETED), T2), [""; 0]);
    assert_eq!(apply(&mut index, &text("u", SOONER), T2), ["default/a"]);
    assert_eq!(end(&index), (T1, Some(5)));
    assert_eq!(index.terminating().count(), 1);
}

#[test]
fn grace_from_the_spec_or_kubernetes_default() {
    let only_timestamp = ", deletionTimestamp: '2026-11-20T09:32:30Z'";
    assert_eq!(end(&index(cluster(), &[&text("u", only_timestamp)])), (T0, Some(45)));
    let bare = text("u", only_timestamp).replace(", terminationGracePeriodSeconds: 45", "");
    assert_eq!(end(&index(cluster(), &[&bare])), (T0, Some(30)));
}

#[test]
fn another_uid_is_another_pod() {
    let mut index = index(cluster(), &[&text("u", DELETED)]);
    assert_eq!(apply(&mut index, &text("v", ""), T1), ["default/a"]);
    assert_eq!(pod(&index, "default/a").terminating, None);
    assert_eq!(apply(&mut index, &text("w", DELETED), T2), ["default/a"]);
    assert_eq!(end(&index), (T2, Some(40)));
    assert_eq!(index.by_uid("u"), None);
    // Even if the old one's end was seen, and nothing between the two.
    apply(&mut index, &text("x", SOONER), T0);
    assert_eq!(end(&index), (T0, Some(5)));
    // A UID that was not known is no other.
    apply(&mut index, &text("''", DELETED), T1);
    apply(&mut index, &text("y", DELETED), T2);
    assert_eq!(end(&index), (T0, Some(5)));
}

#[test]
fn a_relist_keeps_what_was_seen() {
    let mut index = index(cluster(), &[&text("u", DELETED)]);
    assert_eq!(index.reset(Kind::Pod, None, &objects(&text("u", DELETED)), T1), []);
    assert_eq!(end(&index), (T0, Some(40)));
    // A list of another kind, or of another namespace, is no news of this pod.
    assert_eq!(index.reset(Kind::Service, None, &[], T1), []);
    assert_eq!(index.reset(Kind::Pod, Some("other"), &[], T1), []);
    assert_eq!(index.reset(Kind::Pod, None, &[], T1), [name("default/a")]);
    assert_eq!(index.pods().count(), 0);
}

#[test]
fn deleting_what_is_not_there() {
    let mut index = index(cluster(), &[&text("u", DELETED)]);
    assert_eq!(index.delete(Kind::Pod, "default", "b", T1), []);
    assert_eq!(index.delete(Kind::Slice, "default", "a", T1), []);
    assert_eq!(index.delete(Kind::Pod, "nowhere", "a", T1), []);
    assert_eq!(index.delete(Kind::Pod, "default", "a", T1), [name("default/a")]);
    assert_eq!(index.delete(Kind::Pod, "default", "a", T1), []);
}

#[test]
fn withdrawn_when_a_slice_first_says_so() {
    let slice = |ready: bool| {
        format!(
            "kind: EndpointSlice\nmetadata: {{name: s}}\naddressType: IPv4\nendpoints: [{{addresses: \
             [10.0.0.1], nodeName: node-a, conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: a, \
             uid: u}}}}]\n"
        )
    };
    let withdrawn = |index: &Index| pod(index, "default/a").terminating.as_ref().unwrap().withdrawn;
    let mut index = index(cluster(), &[&text("u", DELETED), &slice(true)]);
    assert_eq!(withdrawn(&index), None);
    assert_eq!(apply(&mut index, &slice(false), T1), ["default/a"]);
    assert_eq!(withdrawn(&index), Some(T1));
    apply(&mut index, &slice(true), T2);
    assert_eq!(withdrawn(&index), Some(T1));
}
