//! Forward declarations in an object's BTF, put into an order of their own.
//!
//! LLVM (`BTFDebug::endModule`) adds a declaration for each struct that is only pointed to, as its last
//! types, in the order of the addresses at which it keeps them: another one from run to run. Nothing else in
//! the object depends on that. Here they are ordered by the first type that refers to each.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

const MAGIC: u16 = 0xeb9f;
const FWD: u32 = 7;

/// Rewrites the object in place: neither sizes nor offsets of its sections change.
pub(crate) fn settle(object: &mut [u8]) -> Result<()> {
    let (start, size) = section(object, b".BTF").context("the object has no section .BTF")?;
    let btf = object.get_mut(start..start + size).context("the section .BTF lies outside")?;
    settle_types(btf).context("cannot read the object's BTF")
}

/// Where a section of a 64-bit ELF file of this machine's byte order lies, and its size.
fn section(elf: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let field = |at: usize| Some(usize::from(u16::from_ne_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let long = |at: usize| usize::try_from(u64::from_ne_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    let (table, each, count, names) = (long(40)?, field(58)?, field(60)?, field(62)?);
    let place = |number: usize| Some((long(table + number * each + 24)?, long(table + number * each + 32)?));
    let (names, _) = place(names)?;
    (0..count).find_map(|number| {
        let at = names + word(elf, table + number * each)? as usize;
        let said = elf.get(at..at + name.len() + 1)?;
        if said.strip_prefix(name)? == [0] { place(number) } else { None }
    })
}

fn settle_types(btf: &mut [u8]) -> Option<()> {
    let Types { kinds, uses, names, strings } = Types::of(btf)?;
    // Types have numbers from 1 on; what matters is the run of declarations at the end.
    let first = kinds.iter().rposition(|(_, kind)| *kind != FWD).map_or(0, |last| last + 1);
    let number = |index: usize| u32::try_from(index + 1).ok();
    let mut order = Vec::new();
    for (index, (at, _)) in kinds.iter().enumerate().skip(first) {
        let own = number(index)?;
        let user = uses.iter().position(|place| word(btf, *place) == Some(own));
        order.push((user.unwrap_or(usize::MAX), own, btf.get(*at..*at + 12)?.to_vec()));
    }
    order.sort();
    let mut renamed = BTreeMap::new();
    for (index, (_, old, record)) in (first..).zip(&order) {
        renamed.insert(*old, number(index)?);
        btf.get_mut(kinds[index].0..)?.get_mut(..12)?.copy_from_slice(record);
    }
    change(btf, &uses, &renamed)?;

    // Their names were added to the strings in the same order, where they were not there before.
    let mut said: Vec<u32> = Vec::new();
    for (_, _, record) in &order {
        let name = word(record, 0)?;
        if !said.contains(&name) {
            said.push(name);
        }
    }
    let text = |name: u32| -> Option<Vec<u8>> {
        let rest = btf.get(strings + name as usize..)?;
        Some(rest.get(..=rest.iter().position(|byte| *byte == 0)?)?.to_vec())
    };
    let texts = said.iter().map(|name| Some((*name, text(*name)?))).collect::<Option<BTreeMap<_, _>>>()?;
    let (mut moved, mut block) = (BTreeMap::new(), Vec::new());
    let mut last = texts.iter().peekable();
    while let Some((name, text)) = last.next() {
        block.push(*name);
        let end = name + u32::try_from(text.len()).ok()?;
        if last.peek().is_some_and(|(next, _)| **next == end) {
            continue;
        }
        let mut to = block[0];
        for name in said.iter().filter(|name| block.contains(name)) {
            let text = &texts[name];
            btf.get_mut(strings + to as usize..)?.get_mut(..text.len())?.copy_from_slice(text);
            moved.insert(*name, to);
            to += u32::try_from(text.len()).ok()?;
        }
        block.clear();
    }
    change(btf, &names, &moved)
}

/// Replaces values at places, where they have another one.
fn change(btf: &mut [u8], places: &[usize], by: &BTreeMap<u32, u32>) -> Option<()> {
    for place in places {
        if let Some(new) = by.get(&word(btf, *place)?) {
            btf.get_mut(*place..*place + 4)?.copy_from_slice(&new.to_ne_bytes());
        }
    }
    Some(())
}

/// Where things stand in a section `.BTF` (linux/btf.h).
struct Types {
    /// Of each type: its record, and its kind.
    kinds: Vec<(usize, u32)>,
    /// Where the number of a type is named, in the order of the types that do so.
    uses: Vec<usize>,
    /// Where a string is named.
    names: Vec<usize>,
    /// The strings.
    strings: usize,
}

impl Types {
    fn of(btf: &[u8]) -> Option<Self> {
        if btf.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = word(btf, 4)? as usize;
        let mut at = header + word(btf, 8)? as usize;
        let end = at + word(btf, 12)? as usize;
        let strings = header + word(btf, 16)? as usize;
        let mut types = Self { kinds: Vec::new(), uses: Vec::new(), names: Vec::new(), strings };
        while at < end {
            let info = word(btf, at + 4)?;
            let (kind, members) = ((info >> 24) & 31, (info & 0xffff) as usize);
            types.kinds.push((at, kind));
            types.names.push(at);
            // What follows the record: its size, and where in it strings and types are named.
            let (each, count, name, uses): (usize, usize, Option<usize>, &[usize]) = match kind {
                1 | 14 | 17 => (4, 1, None, &[]),
                3 => (12, 1, None, &[0, 4]),
                4 | 5 => (12, members, Some(0), &[4]),
                6 => (8, members, Some(0), &[]),
                13 => (8, members, Some(0), &[4]),
                15 => (12, members, None, &[0]),
                19 => (12, members, Some(0), &[]),
                2 | 7..=12 | 16 | 18 => (0, 0, None, &[]),
                _ => return None,
            };
            if matches!(kind, 2 | 8..=14 | 17 | 18) {
                types.uses.push(at + 8);
            }
            at += 12;
            for _ in 0..count {
                types.names.extend(name.map(|name| at + name));
                types.uses.extend(uses.iter().map(|part| at + part));
                at += each;
            }
        }
        Some(types)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pointers, and the structs that they point to in one of two orders.
    fn btf(turned: bool) -> Vec<u8> {
        let strings: &[u8] = if turned { b"\0field\0flow\0socket\0" } else { b"\0field\0socket\0flow\0" };
        let (flow, socket) = if turned { (7, 12) } else { (14, 7) };
        let (one, other) = if turned { (4, 3) } else { (3, 4) };
        let (a, b) = if turned { (flow, socket) } else { (socket, flow) };
        let pointer = |to: u32| [0, 2 << 24, to];
        let types = [pointer(one), pointer(other), [a, FWD << 24, 0], [b, FWD << 24, 0]].concat();
        let size = u32::try_from(types.len() * 4).expect("small");
        let header = [24, 0, size, size, u32::try_from(strings.len()).expect("small")];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for number in header.iter().chain(&types) {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn the_order_of_declarations_is_one() {
        let (mut one, mut other) = (btf(false), btf(true));
        assert_ne!(one, other);
        settle_types(&mut one).expect("BTF");
        settle_types(&mut other).expect("BTF");
        assert_eq!(one, other);
        assert_eq!(one, btf(false), "the first pointer's comes first");
    }

    #[test]
    fn what_is_no_btf_is_said() {
        assert!(settle(&mut []).is_err());
        assert!(settle_types(&mut [0; 24]).is_none());
    }
}
