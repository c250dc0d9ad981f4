//! The index, told by manifests as `kubectl` prints them.

mod end;
mod facts;
mod handle;
mod order;
mod rights;
mod slices;

use std::net::IpAddr;

use super::{Index, Object, Options, PodFacts, PodName, manifests::parse};
use crate::moment::Moment;

pub(super) const LIST: &str = include_str!("../testdata/list.yaml");
pub(super) const DUAL_STACK: &str = include_str!("../testdata/dual_stack.yaml");
pub(super) const TWO_SLICES: &str = include_str!("../testdata/two_slices.yaml");
pub(super) const STRANGER: &str = include_str!("../testdata/stranger.yaml");
pub(super) const SLICES_ALONE: &str = include_str!("../testdata/slices_alone.yaml");

const T0: Moment = Moment(1_000);
const T1: Moment = Moment(2_000);
const T2: Moment = Moment(3_000);

/// As beside an API server, on a node.
fn cluster() -> Options {
    Options { node_name: Some("node-a".into()), hook_port: 9902, slices_start_drains: false }
}

/// As with `--endpoints`, without `--node-name`.
fn files() -> Options {
    Options { node_name: None, hook_port: 9902, slices_start_drains: true }
}

fn objects(text: &str) -> Vec<Object> {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?} in {text}")).objects
}

fn index(options: Options, texts: &[&str]) -> Index {
    let mut index = Index::new(options);
    for text in texts {
        apply(&mut index, text, T0);
    }
    index
}

fn apply(index: &mut Index, text: &str, now: Moment) -> Vec<String> {
    objects(text).iter().flat_map(|object| index.apply(object, now)).map(|name| name.to_string()).collect()
}

fn name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').expect("NAMESPACE/NAME");
    PodName { namespace: namespace.into(), name: name.into() }
}

fn pod<'i>(index: &'i Index, text: &str) -> &'i PodFacts {
    index.pod(&name(text)).unwrap_or_else(|| panic!("{text} is not known"))
}

fn at(index: &Index, address: &str) -> Option<String> {
    let address: IpAddr = address.parse().expect("an address");
    index.by_address(address).map(|pod| pod.name.to_string())
}

fn names(index: &Index) -> Vec<String> {
    index.pods().map(|pod| pod.name.to_string()).collect()
}

fn ports(pod: &PodFacts) -> Vec<String> {
    pod.ports
        .iter()
        .map(|port| {
            let from = if port.in_slice { " slice" } else { "" };
            format!("{} {:?} {:?}{from}", port.port, port.transport, port.protocol)
        })
        .collect()
}
