//! A frame for tests: a fresh node, and on failure everything that can be known about it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::Result;

use crate::leftovers::leftovers;
use crate::node::{Family, Node};

/// Makes a node, runs `test` on it, and takes care that nothing of it stays behind. When the test fails,
/// prints what the agent, the kernel's tables and the sockets say.
pub fn run(family: Family, test: impl FnOnce(&Node) -> Result<()>) {
    let node = match Node::with_family(family) {
        Ok(node) => node,
        Err(error) => panic!("no node to test on: {error:#}"),
    };
    let name = node.host().name().to_owned();
    let result = catch_unwind(AssertUnwindSafe(|| test(&node)));
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", node.diagnostics());
    }
    drop(node);
    match result {
        Ok(Ok(())) => assert_eq!(leftovers(&name), Vec::<String>::new(), "the node left something behind"),
        Ok(Err(error)) => panic!("{error:#}"),
        Err(payload) => resume_unwind(payload),
    }
}

/// Writes each scenario as a test on IPv4 and one on IPv6.
#[macro_export]
macro_rules! scenarios {
    ($($(#[$doc:meta])* fn $name:ident($node:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            fn scenario($node: &$crate::Node) -> ::anyhow::Result<()> $body

            #[test]
            fn ipv4() {
                $crate::scenario::run($crate::Family::Ipv4, scenario);
            }

            #[test]
            fn ipv6() {
                $crate::scenario::run($crate::Family::Ipv6, scenario);
            }
        }
    )*};
}
