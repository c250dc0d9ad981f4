//! A namespace's TCP counters.
//!
//! In: the text of `/proc/net/snmp`. Out: one number.

use std::{fs, io};

/// Reads `TcpPassiveOpens` of the thread's namespace. `/proc/net` would be the process's.
pub(super) fn passive_opens() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    tcp_counter(&text, "PassiveOpens")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no TCP counter PassiveOpens"))
}

/// A counter of the `Tcp:` pair of lines, the first of which names the columns of the second.
fn tcp_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let column = lines.next()?.split_ascii_whitespace().position(|n| n == name)?;
    lines.next()?.split_ascii_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
        Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens\nTcp: 1 -1 12 345\nUdp: InDatagrams\nUdp: 9\n";

    #[test]
    fn the_counter_is_found_by_name() {
        assert_eq!(tcp_counter(TEXT, "PassiveOpens"), Some(345));
        assert_eq!(tcp_counter(TEXT, "ActiveOpens"), Some(12));
    }

    #[test]
    fn what_is_missing_is_not_zero() {
        assert_eq!(tcp_counter(TEXT, "InDatagrams"), None);
        assert_eq!(tcp_counter("Tcp: PassiveOpens\n", "PassiveOpens"), None);
        assert_eq!(tcp_counter("Tcp: A PassiveOpens\nTcp: 1\n", "PassiveOpens"), None);
        assert_eq!(tcp_counter("", "PassiveOpens"), None);
    }
}
