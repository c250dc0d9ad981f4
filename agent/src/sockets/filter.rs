//! Which sockets a dump is to show, as the kernel wants to be told.
//!
//! In: states and ports. Out: a state mask and a program in sock_diag's own bytecode
//! (`inet_diag_bc_audit` and `inet_diag_bc_run`, net/ipv4/inet_diag.c), so that the other sockets of a
//! namespace are not copied. The kernel still walks its hash table, which holds the sockets of all
//! namespaces: 0.3 ms on a quiet node, 20 ms where 200,000 sockets live. LISTEN alone is spared it.

use super::{Socket, TcpState};

/// `INET_DIAG_BC_*`, include/uapi/linux/inet_diag.h.
const JUMP: u8 = 1;
const LOCAL_PORT_IS: u8 = 11; // Linux 4.16
const PEER_PORT_IS: u8 = 12;
/// `struct inet_diag_bc_op`.
const OP: usize = 4;
/// A port comparison takes two: the port stands in the second one's `no`.
const COMPARISON: usize = 2 * OP;
/// With more comparisons than this the agent filters instead: jumps are 16 bits wide.
const MOST_COMPARISONS: usize = 1000;

/// What a dump is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states.
    pub states: States,
    /// And with one of these ports.
    pub ports: Ports,
}

/// A set of [`TcpState`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

/// Ports that a socket may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Any.
    All,
    /// One of these at its own end.
    Local(Vec<u16>),
    /// One of these at either end: shows both sockets of a connection from a namespace to itself.
    EitherEnd(Vec<u16>),
}

impl States {
    /// Whatever a connection of a pod may be in while it matters: all but SYN-SENT, TIME-WAIT, CLOSED
    /// and LISTEN.
    pub const LIVE: Self = Self::of(&[
        TcpState::Established,
        TcpState::SynReceived,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Closing,
    ]);
    /// LISTEN.
    pub const LISTEN: Self = Self::of(&[TcpState::Listen]);

    /// These.
    pub const fn of(states: &[TcpState]) -> Self {
        let (mut mask, mut i) = (0, 0);
        while i < states.len() {
            mask |= 1 << states[i] as u32;
            i += 1;
        }
        Self(mask)
    }

    /// These and those.
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// `idiag_states`.
    pub(super) fn mask(self) -> u32 {
        self.0
    }
}

impl Filter {
    /// For a drain: connections and listeners, on all ports.
    pub fn drain() -> Self {
        Self { states: States::LIVE.and(States::LISTEN), ports: Ports::All }
    }

    /// Listeners on all ports.
    pub fn listeners() -> Self {
        Self { states: States::LISTEN, ports: Ports::All }
    }

    /// With these ports only.
    pub fn on(self, ports: Ports) -> Self {
        Self { ports, ..self }
    }

    /// The program; None where all ports pass, or there are too many.
    pub(super) fn bytecode(&self) -> Option<Vec<u8>> {
        let comparisons: Vec<(u8, u16)> = match &self.ports {
            Ports::All => return None,
            Ports::Local(ports) => ports.iter().map(|p| (LOCAL_PORT_IS, *p)).collect(),
            Ports::EitherEnd(ports) => {
                ports.iter().flat_map(|p| [(LOCAL_PORT_IS, *p), (PEER_PORT_IS, *p)]).collect()
            }
        };
        (1..=MOST_COMPARISONS).contains(&comparisons.len()).then(|| any_of(&comparisons))
    }

    /// The same, in the agent.
    pub(super) fn admits(&self, socket: &Socket) -> bool {
        match &self.ports {
            Ports::All => true,
            Ports::Local(ports) => ports.contains(&socket.local.port()),
            Ports::EitherEnd(ports) => {
                ports.contains(&socket.local.port()) || ports.contains(&socket.peer.port())
            }
        }
    }
}

/// A program that admits a socket if any comparison holds.
///
/// All jumps go forward. A socket is admitted by arriving exactly at the end, refused by jumping four
/// bytes beyond it. The kernel's audit walks along `yes`, so a comparison that holds goes on to the
/// next op, a jump to the end; one that does not hold skips that jump.
fn any_of(comparisons: &[(u8, u16)]) -> Vec<u8> {
    let mut program = Vec::new();
    let length = comparisons.len() * (COMPARISON + OP) - OP;
    for (code, port) in comparisons {
        op(&mut program, *code, COMPARISON as u8, (COMPARISON + OP) as u16);
        op(&mut program, 0, 0, *port);
        let rest = length - program.len();
        if rest > 0 {
            op(&mut program, JUMP, OP as u8, rest as u16);
        }
    }
    program
}

fn op(program: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::{super::wire::u16_at, *};

    /// `inet_diag_bc_run` for the ops used here.
    fn admits(program: &[u8], local: u16, peer: u16) -> bool {
        let mut at = 0_usize;
        while at < program.len() {
            let port = u16_at(program, at + OP + 2);
            let holds = match program[at] {
                JUMP => false,
                LOCAL_PORT_IS => port == Some(local),
                PEER_PORT_IS => port == Some(peer),
                other => panic!("op {other}"),
            };
            at += usize::from(if holds { program[at + 1].into() } else { u16_at(program, at + 2).unwrap() });
        }
        at == program.len()
    }

    #[test]
    fn a_local_port_of_the_list_is_admitted_and_no_other() {
        let program = Filter::drain().on(Ports::Local(vec![80, 443, 9090])).bytecode().unwrap();
        for (local, expected) in [(80, true), (443, true), (9090, true), (81, false), (1, false)] {
            assert_eq!(admits(&program, local, 80), expected, "port {local}");
        }
    }

    #[test]
    fn either_end_may_have_the_port() {
        let program = Filter::drain().on(Ports::EitherEnd(vec![80, 443])).bytecode().unwrap();
        for (local, peer, expected) in [(80, 5, true), (5, 80, true), (5, 443, true), (5, 6, false)] {
            assert_eq!(admits(&program, local, peer), expected, "{local} {peer}");
        }
    }

    #[test]
    fn the_longest_program_fits_an_attribute() {
        let ports: Vec<u16> = (1..=MOST_COMPARISONS as u16).collect();
        let program = Filter::drain().on(Ports::Local(ports.clone())).bytecode().unwrap();
        assert!(program.len() < usize::from(u16::MAX) - OP);
        assert!(admits(&program, MOST_COMPARISONS as u16, 0));
        let more = [ports, vec![60_000]].concat();
        assert_eq!(Filter::drain().on(Ports::Local(more)).bytecode(), None);
    }

    #[test]
    fn the_states_of_a_drain_are_these() {
        assert_eq!(States::LIVE.and(States::LISTEN).mask(), 0b1111_0011_1010);
        assert_eq!(States::of(&[]).mask(), 0);
    }
}
