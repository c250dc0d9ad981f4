//! A WebSocket by the look of its frames. Pure.

use crate::http::REQUEST_PEEK;

/// Is this segment of `payload` bytes one whole WebSocket frame of a client?
///
/// Of a connection older than the attach nobody has seen the upgrade. A client's frames are masked and
/// say how long they are (RFC 6455 section 5.2); TLS records and HTTP/2 frames do not look like them,
/// and the pieces of an upload have the length that the link gives them.
#[inline(always)]
pub fn is_frame(bytes: &[u8; REQUEST_PEEK], len: usize, payload: u32) -> bool {
    // Final fragment or not, no extension but compression; text, binary, close, ping or pong.
    let known = bytes[0] & 0x30 == 0 && matches!(bytes[0] & 0x0f, 1 | 2 | 8 | 9 | 10);
    if len < 6 || !known || bytes[1] & 0x80 == 0 {
        return false;
    }
    let short = u32::from(bytes[1] & 0x7f);
    let long = u32::from(bytes[2]) << 8 | u32::from(bytes[3]);
    match short {
        126 => len >= 8 && long + 8 == payload,
        127 => false,
        _ => short + 6 == payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &[u8], payload: u32) -> bool {
        let mut bytes = [0; REQUEST_PEEK];
        bytes[..head.len()].copy_from_slice(head);
        is_frame(&bytes, payload.min(REQUEST_PEEK as u32) as usize, payload)
    }

    #[test]
    fn whole_masked_frames_are() {
        assert!(of(&[0x81, 0x80 | 5], 11), "text");
        assert!(of(&[0xc2, 0x80 | 125], 131), "binary, compressed");
        assert!(of(&[0x89, 0x80], 6), "an empty ping");
        assert!(of(&[0x82, 0x80 | 126, 0x01, 0x00], 264), "a longer length");
    }

    #[test]
    fn anything_else_is_not() {
        assert!(!of(&[0x81, 5], 7), "a server's frame is not masked");
        assert!(!of(&[0x81, 0x80 | 5], 12), "another length");
        assert!(!of(&[0x83, 0x80], 6), "no such opcode");
        assert!(!of(&[0x82, 0x80 | 127], 264), "too long for one segment");
        assert!(!of(&[0x16, 0x03, 0x01, 0x02], 517), "TLS");
        assert!(!of(b"GET / HTTP/1.1\r\n", 16), "HTTP");
        assert!(!of(&[0x81, 0x80], 5), "too short");
    }
}
