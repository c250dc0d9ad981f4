//! TC on a link: TCX where the kernel has it (6.6), else a clsact filter. Run inside the pod's namespace.
//!
//! First in line, because a filter before ours that answers "ok" would blind us; and with a verdict
//! of "next", because ours must never blind others. A qdisc is never deleted, a filter only our own.

use std::sync::PoisonError;

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{
            self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
        },
    },
    sys::NetlinkError,
};
use lastcall_ebpf::abi::names;

use super::{
    Error,
    observer::{Observer, program},
};

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A `BPF_LINK_TYPE_TCX` link: kernel 6.6 and later.
    Tcx,
    /// A `cls_bpf` filter on clsact: every kernel.
    Clsact,
}

impl Attach {
    /// What this kernel has: TCX, unless it says that it knows of no such place.
    pub fn best() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EINVAL) => {
                Self::Clsact
            }
            _ => Self::Tcx,
        }
    }
}

/// Both directions of one link.
pub struct Attachment {
    links: Vec<SchedClassifierLink>,
    how: Attach,
}

impl Attachment {
    /// How it was attached.
    pub fn how(&self) -> Attach {
        self.how
    }

    /// Detaches; call it inside the namespace. Holds the kernel's RTNL lock for about 20 ms with
    /// TCX, so only for a pod that goes on living: a dying one's links go with its namespace.
    pub fn detach(self) {
        for link in self.links {
            drop(link);
        }
    }

    /// Together with another of the same link.
    pub fn and(&mut self, other: Self) {
        self.links.extend(other.links);
    }

    /// Leaves a dying namespace to itself.
    pub fn abandon(self) {
        for link in self.links {
            // A TCX link's descriptor may be closed anywhere; a clsact link's drop would look for
            // the filter in whatever namespace this thread is in.
            match self.how {
                Attach::Tcx => drop(link),
                Attach::Clsact => std::mem::forget(link),
            }
        }
    }
}

/// Lowest number, first in line; the handle says whose it is (`ca:11`).
const PRIORITY: u16 = 1;
/// The last call's filters look at what the observer has just written.
const BEHIND: u16 = 2;
const HANDLE: TcHandle = TcHandle::new(0x1a57, 0xca11);

impl Observer {
    /// Attaches to both directions of a link of the calling thread's namespace.
    pub fn attach(&self, link: &str, how: Attach) -> Result<Attachment, Error> {
        if how == Attach::Clsact {
            match tc::qdisc_add_clsact(link) {
                Ok(()) | Err(TcError::AlreadyAttached) => {}
                Err(TcError::NetlinkError(e)) if is_there(&e) => {}
                Err(e) => {
                    return Err(Error::Attach { name: "clsact", to: link.to_owned(), source: Box::new(e) });
                }
            }
        }
        // Egress first: what it learns (cookies) is what a later dump is matched with.
        self.attach_pair(link, how, PRIORITY, [(names::OBSERVE_EGRESS, None), (names::OBSERVE_INGRESS, None)])
    }

    /// Attaches the last call's programs, right behind the observer's, which have to be there.
    pub fn attach_last_call(&self, link: &str, how: Attach) -> Result<Attachment, Error> {
        // Egress first: what ingress puts into the map, egress takes out.
        let behind = [
            (names::LAST_CALL_EGRESS, Some(names::OBSERVE_EGRESS)),
            (names::LAST_CALL_INGRESS, Some(names::OBSERVE_INGRESS)),
        ];
        self.attach_pair(link, how, BEHIND, behind)
    }

    /// Attaches a program to egress and another to ingress, each in front of all or behind another.
    fn attach_pair(
        &self,
        link: &str,
        how: Attach,
        priority: u16,
        programs: [(&'static str, Option<&'static str>); 2],
    ) -> Result<Attachment, Error> {
        let mut attachment = Attachment { links: Vec::with_capacity(2), how };
        for ((name, behind), direction) in
            programs.into_iter().zip([TcAttachType::Egress, TcAttachType::Ingress])
        {
            let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
            let options = match (how, behind) {
                (Attach::Tcx, None) => TcAttachOptions::TcxOrder(LinkOrder::first()),
                (Attach::Tcx, Some(observer)) => {
                    let observer: &mut SchedClassifier = program(&mut ebpf, observer)?;
                    let order = LinkOrder::after_program(observer);
                    TcAttachOptions::TcxOrder(
                        order.map_err(|e| Error::Program { name, source: Box::new(e) })?,
                    )
                }
                (Attach::Clsact, _) => {
                    TcAttachOptions::Netlink(NlOptions { priority, handle: HANDLE, classid: None })
                }
            };
            let program: &mut SchedClassifier = program(&mut ebpf, name)?;
            let attached = match program.attach_with_options(link, direction, options) {
                Err(ProgramError::TcError(TcError::NetlinkError(e))) if is_there(&e) => {
                    take_over(program, link, direction, priority)
                }
                other => other,
            };
            match attached.and_then(|id| program.take_link(id)) {
                Ok(l) => attachment.links.push(l),
                Err(e) => {
                    attachment.detach();
                    return Err(Error::Attach { name, to: link.to_owned(), source: Box::new(e) });
                }
            }
        }
        Ok(attachment)
    }
}

/// Puts the program in the place of a filter of ours. A filter, unlike a link, outlives the agent that
/// attached it, and there is one agent at a time: this one is a dead agent's, and fills a table that nobody
/// reads.
fn take_over(
    program: &mut SchedClassifier,
    link: &str,
    direction: TcAttachType,
    priority: u16,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let left = SchedClassifierLink::attached(link, direction, priority, HANDLE, None);
    program.attach_to_link(left.map_err(TcError::IoError)?)
}

fn is_there(e: &NetlinkError) -> bool {
    e.raw_os_error() == Some(libc::EEXIST)
}
