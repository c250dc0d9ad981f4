//! As much HTTP/1.1 as the app, the loads and the small kubelet need.

use std::io::{self, BufRead, Read};

/// The most a head may have; nothing here sends more.
const MAX_HEAD: usize = 16 << 10;

/// The first line and the headers of a request or of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`
    pub first: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` if the peer closed before its first byte.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        let mut size = 0;
        loop {
            let mut line = Vec::new();
            let n = from.take((MAX_HEAD - size) as u64).read_until(b'\n', &mut line)?;
            if n == 0 && size == 0 {
                return Ok(None);
            }
            size += n;
            if line.pop() != Some(b'\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if head.first.is_empty() {
                head.first = line;
            } else if line.is_empty() {
                return Ok(Some(head));
            } else if let Some((name, value)) = line.split_once(':') {
                head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether any `Connection` header says `close`: there may be several, each with a list (RFC 9110,
    /// 7.6.1), and `close` beside `keep-alive` wins.
    pub fn closes(&self) -> bool {
        let lists = self.headers.iter().filter(|(name, _)| name == "connection");
        lists.flat_map(|(_, list)| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case("close"))
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        self.first.split(' ').nth(1)?.parse().ok()
    }

    /// Reads the body that this head announces, `limit` bytes of it at most; that of a response without
    /// a length ends with the connection.
    pub fn read_body(&self, from: &mut impl BufRead, limit: u64) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            while let Some(size) = chunk_size(from)? {
                read_exactly(from, size, &mut body)?;
                read_exactly(from, 2, &mut Vec::new())?;
            }
        } else if let Some(length) = self.header("content-length") {
            let length: u64 = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            read_exactly(from, length.min(limit), &mut body)?;
        } else if self.first.starts_with("HTTP/") {
            from.take(limit).read_to_end(&mut body)?;
        }
        Ok(body)
    }
}

fn chunk_size(from: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut line = String::new();
    from.take(64).read_line(&mut line)?;
    let size = u64::from_str_radix(line.trim_end(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    if size == 0 {
        read_exactly(from, 2, &mut Vec::new())?;
    }
    Ok((size > 0).then_some(size))
}

fn read_exactly(from: &mut impl BufRead, size: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let n = from.take(size).read_to_end(into)? as u64;
    if n < size { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
