//! What is wrong with a request to the hook's port, for whoever counts it.

/// A reason to refuse a request, or to leave a part of it out of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Not GET.
    Method,
    /// No such path, or not for this caller.
    Path,
    /// An unknown or malformed parameter, or parameters that were lost.
    Parameter,
    /// Headers too long, too many or malformed, or no HTTP at all.
    Headers,
    /// Headers that did not come in time.
    Slow,
    /// A body.
    Body,
    /// More than one pod, or everybody but the kubelet, may hold.
    TooMany,
    /// `Host` does not name the pod that the kernel says was dialled.
    Host,
    /// A pod was dialled, and not by the kubelet.
    NotTheKubelet,
}
