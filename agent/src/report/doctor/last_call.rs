//! May this kernel tell clients to leave?

use super::{Check, Group};
use crate::{
    kernel::btf::Btf,
    last_call::kernels::{self, Verdict},
};

const WITHOUT: &str = "none needed: drains work without the last call, but busy clients stay to the end";

pub(super) fn checks() -> Vec<Check> {
    vec![version(kernels::verdict(kernels::running())), position()]
}

fn version(verdict: Verdict) -> Check {
    let check = Check::new(Group::Kernel, "last call", "tell a draining pod's clients to leave");
    match (verdict.http1, verdict.http2) {
        (Ok(()), Ok(())) => check.ok("HTTP/1 and HTTP/2: this kernel is not among those with known faults"),
        (Ok(()), Err(why)) => check.degraded(format!("HTTP/1 only: {why}"), WITHOUT),
        (Err(why), _) => check.degraded(format!("no: {why}"), WITHOUT),
    }
}

fn position() -> Check {
    let why = "find the place of an announcement in what a pod sends";
    let check = Check::new(Group::Kernel, "tcp_sock.write_seq", why);
    match Btf::kernel().and_then(|btf| btf.offset("tcp_sock", "write_seq")) {
        Ok(offset) => check.ok(format!("byte {offset}, by the kernel's BTF")),
        Err(error) => check.degraded(crate::causes(&error), WITHOUT),
    }
}
