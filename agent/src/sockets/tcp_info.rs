//! `struct tcp_info`, include/uapi/linux/tcp.h: grows with the kernel, never changes what was there.

use std::time::Duration;

use super::{
    TcpInfo,
    wire::{u32_at, u64_at},
};

/// Reads what is there; what an old kernel does not send is zero. None where even the ages are
/// missing, without which the rest tells nothing.
pub(super) fn parse(bytes: &[u8]) -> Option<TcpInfo> {
    let milliseconds = |at| u32_at(bytes, at).map(|ms| Duration::from_millis(ms.into()));
    Some(TcpInfo {
        retransmits: *bytes.get(2)?,
        unacked: u32_at(bytes, 24)?,
        last_data_sent: milliseconds(44)?,
        last_data_received: milliseconds(52)?,
        last_ack_received: milliseconds(56)?,
        bytes_acked: u64_at(bytes, 120).unwrap_or(0), // Linux 4.1
        bytes_received: u64_at(bytes, 128).unwrap_or(0), // Linux 4.1
        not_sent: u32_at(bytes, 144).unwrap_or(0),    // Linux 4.6
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_offsets_are_the_kernels() {
        // libc's struct ends before bytes_acked; those offsets follow from pacing rates of 8 bytes each.
        assert_eq!(offset_of!(libc::tcp_info, tcpi_retransmits), 2);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_unacked), 24);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_data_sent), 44);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_data_recv), 52);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_last_ack_recv), 56);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_total_retrans) + 4 + 16, 120);
    }

    #[test]
    fn an_old_kernels_answer_lacks_the_later_part() {
        let mut bytes = [0_u8; 104];
        bytes[52..56].copy_from_slice(&1500_u32.to_ne_bytes());
        let info = parse(&bytes).unwrap();
        assert_eq!(info.last_data_received, Duration::from_millis(1500));
        assert_eq!((info.bytes_received, info.not_sent), (0, 0));
        assert_eq!(parse(&bytes[..56]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
