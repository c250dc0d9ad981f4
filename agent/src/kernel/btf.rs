//! Where the running kernel keeps a field: from the type information that it carries about itself.
//!
//! In: `/sys/kernel/btf/vmlinux`. Out: a member's offset. The format is the kernel's
//! `Documentation/bpf/btf.rst`; of its types only structs and unions are looked into.

use std::{collections::HashMap, fs, path::Path};

/// The kernel's own types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Structs in structs: deeper than any of the kernel's.
const DEEPEST: u32 = 8;

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not tell: `CONFIG_DEBUG_INFO_BTF` is off.
    #[error("read {KERNEL}")]
    Read(#[source] std::io::Error),
    /// Not the format that is known here.
    #[error("{KERNEL} is not understood")]
    Malformed,
    /// This kernel has no such thing.
    #[error("the kernel has no {0}")]
    Missing(String),
}

/// Types of the running kernel.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins, by its id; 0 is `void`.
    types: Vec<usize>,
    structs: HashMap<u32, u32>,
}

impl Btf {
    /// The running kernel's.
    pub fn kernel() -> Result<Self, Error> {
        Self::parse(fs::read(Path::new(KERNEL)).map_err(Error::Read)?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        let mut btf = Self { bytes, strings: 0, types: vec![0], structs: HashMap::new() };
        btf.index().ok_or(Error::Malformed)?;
        Ok(btf)
    }

    /// Finds where every type begins.
    fn index(&mut self) -> Option<()> {
        if self.word(0)? & 0xffff != u32::from(MAGIC) {
            return None;
        }
        let header = self.word(4)? as usize;
        let types = header.checked_add(self.word(8)? as usize)?;
        let end = types.checked_add(self.word(12)? as usize)?;
        self.strings = header.checked_add(self.word(16)? as usize)?;
        let mut at = types;
        while at < end {
            let (name, info) = (self.word(at)?, self.word(at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == STRUCT {
                self.structs.insert(name, u32::try_from(self.types.len()).ok()?);
            }
            self.types.push(at);
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    STRUCT | UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    0..=19 => 0,
                    _ => return None,
                };
        }
        Some(())
    }

    /// Offset of a member in bytes; those of anonymous structs and unions are the outer one's.
    pub fn offset(&self, name: &str, member: &str) -> Result<u32, Error> {
        let missing = || Error::Missing(format!("{name}.{member}"));
        let (_, id) = self
            .structs
            .iter()
            .find(|(at, _)| self.string(**at) == Some(name.as_bytes()))
            .ok_or_else(missing)?;
        let bits = self.member(*id, member.as_bytes(), DEEPEST).ok_or_else(missing)?;
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(missing()) }
    }

    fn member(&self, id: u32, wanted: &[u8], deep: u32) -> Option<u32> {
        let at = *self.types.get(id as usize)?;
        let info = self.word(at + 4)?;
        let kind = info >> 24 & 0x1f;
        if deep == 0 || kind != STRUCT && kind != UNION {
            return None;
        }
        (0..(info & 0xffff) as usize).find_map(|i| {
            let field = at + 12 + 12 * i;
            let (name, kind, offset) = (self.word(field)?, self.word(field + 4)?, self.word(field + 8)?);
            // The upper byte is a bit field's width, where the struct says so.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            match self.string(name)? {
                b"" => Some(offset + self.member(kind, wanted, deep - 1)?),
                name => (name == wanted).then_some(offset),
            }
        })
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings + at as usize..)?;
        rest.iter().position(|b| *b == 0).map(|end| &rest[..end])
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types by hand: `struct s { int a; struct { int b; union { int c; int d; }; }; }`
    fn by_hand() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0c\0d\0";
        let name = |s: &[u8]| strings.windows(s.len()).position(|w| w == s).expect("a string") as u32;
        let mut types: Vec<u32> = vec![name(b"int\0"), 1 << 24, 4, 32];
        let mut add = |n, kind: u32, size, members: &[[u32; 3]]| {
            types.extend([n, kind << 24 | members.len() as u32, size]);
            types.extend(members.iter().flatten());
        };
        add(0, UNION, 4, &[[name(b"c\0"), 1, 0], [name(b"d\0"), 1, 0]]);
        add(0, STRUCT, 8, &[[name(b"b\0"), 1, 0], [0, 2, 32]]);
        add(name(b"s\0"), STRUCT, 12, &[[name(b"a\0"), 1, 0], [0, 3, 32]]);
        let length = 4 * types.len() as u32;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let mut bytes: Vec<u8> = header.iter().chain(&types).flat_map(|w| w.to_ne_bytes()).collect();
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_of_anonymous_members() {
        let btf = Btf::parse(by_hand()).expect("well formed");
        let offsets = ["a", "b", "c", "d"].map(|m| btf.offset("s", m).expect("a member"));
        assert_eq!(offsets, [0, 4, 8, 8]);
        assert!(matches!(btf.offset("s", "e"), Err(Error::Missing(_))));
        assert!(matches!(btf.offset("t", "a"), Err(Error::Missing(_))));
    }

    #[test]
    fn refuses_what_is_cut_or_something_else() {
        let whole = by_hand();
        for cut in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..cut].to_vec()) {
                let _ = btf.offset("s", "d");
            }
        }
        assert!(matches!(Btf::parse(b"\x7fELF and so on, for a while".to_vec()), Err(Error::Malformed)));
    }

    #[test]
    fn knows_the_running_kernel() {
        let btf = match Btf::kernel() {
            Err(Error::Read(e)) => return eprintln!("*** SKIPPED: {e}"),
            other => other.expect("well formed"),
        };
        assert!(btf.offset("tcp_sock", "write_seq").expect("a member") > 0);
        assert_eq!(btf.offset("tcp_sock", "inet_conn").expect("a member"), 0);
    }
}
