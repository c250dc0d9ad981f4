//! Whom a last call is for: what the operator allows, what the pod's hooks ask for. Pure.
//!
//! An announcement is bytes in somebody else's stream. So nobody is told unless somebody asked for it, and
//! whoever says `off` has the last word, the operator as well as any container.

use super::LastCall;

/// `--last-call` of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Calls {
    /// Also for hooks that say nothing about it, at ports that are said to speak HTTP in the clear.
    Auto,
    /// Where a hook asks for it.
    #[default]
    Asked,
    /// Never, whatever a hook asks for.
    Off,
}

/// At which of a pod's ports clients are told to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Audience {
    /// At none.
    #[default]
    Nobody,
    /// At those whose appProtocol or name says HTTP or gRPC in the clear.
    HttpPorts,
    /// At every TCP port that counts. What does not speak HTTP there is left alone: the kernel announces
    /// only where it has recognised it.
    EveryPort,
}

impl Audience {
    /// `hook`: the pod has a hook, or one has called. Without one its app gets SIGTERM at once, and there is
    /// no time in which anybody could be told anything.
    pub fn of(allowed: Calls, asked: LastCall, hook: bool) -> Self {
        match (allowed, asked) {
            (Calls::Off, _) | (_, LastCall::Off) => Self::Nobody,
            _ if !hook => Self::Nobody,
            (_, LastCall::Http) => Self::EveryPort,
            (Calls::Auto, LastCall::Default) => Self::HttpPorts,
            (Calls::Asked, LastCall::Default) => Self::Nobody,
        }
    }

    /// Whether clients of a TCP port are among it; `cleartext` as the port's facts have it.
    pub fn includes(self, cleartext: bool) -> bool {
        match self {
            Self::Nobody => false,
            Self::HttpPorts => cleartext,
            Self::EveryPort => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Audience::{EveryPort, HttpPorts, Nobody};

    #[test]
    fn off_always_wins_and_nobody_is_told_unasked() {
        // (--last-call, last-call= on the hook) → with a hook
        let rows = [
            (Calls::Auto, LastCall::Default, HttpPorts),
            (Calls::Auto, LastCall::Http, EveryPort),
            (Calls::Auto, LastCall::Off, Nobody),
            (Calls::Asked, LastCall::Default, Nobody),
            (Calls::Asked, LastCall::Http, EveryPort),
            (Calls::Asked, LastCall::Off, Nobody),
            (Calls::Off, LastCall::Default, Nobody),
            (Calls::Off, LastCall::Http, Nobody),
            (Calls::Off, LastCall::Off, Nobody),
        ];
        for (allowed, asked, want) in rows {
            assert_eq!(Audience::of(allowed, asked, true), want, "{allowed:?} {asked:?}");
            assert_eq!(Audience::of(allowed, asked, false), Nobody, "without a hook: {allowed:?} {asked:?}");
        }
    }

    #[test]
    fn ports() {
        for (audience, named, unnamed) in
            [(Nobody, false, false), (HttpPorts, true, false), (EveryPort, true, true)]
        {
            assert_eq!((audience.includes(true), audience.includes(false)), (named, unnamed), "{audience:?}");
        }
    }
}
