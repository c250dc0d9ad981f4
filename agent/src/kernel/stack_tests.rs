//! The kernel programs' stack, by their instructions: kernels up to 6.1 count it more strictly than the newer one
//! that the tests run on, so a program can be refused there alone.

use std::collections::BTreeMap;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

use super::OBJECT;

/// All frames of a chain of calls together, by `check_max_stack_depth` (`kernel/bpf/verifier.c`): 512 bytes, less
/// a step of it, so that a change of the compiler does no harm.
const LIMIT: u32 = 512 - STEP;
const STEP: u32 = 32;

const INSTRUCTION: u64 = 8;
/// `rX = r10`, `rX += imm`, and a call of a function of this object.
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
const FRAME_POINTER: u8 = 10;
const OF_THIS_OBJECT: u8 = 1;

/// A section's number, and how far into it.
type Place = (usize, u64);

struct Function {
    name: String,
    stack: u32,
    calls: Vec<Place>,
}

fn functions() -> BTreeMap<Place, Function> {
    let file = object::File::parse(OBJECT).expect("the kernel object");
    let mut found = BTreeMap::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0) {
        let Some(section) = symbol.section_index() else { continue };
        let (start, size) = (symbol.address(), symbol.size());
        let section = file.section_by_index(section).expect("a section");
        let code = section.data().expect("instructions");
        let moved: BTreeMap<u64, _> = section.relocations().collect();
        let (mut stack, mut calls, mut copied) = (0, Vec::new(), None);
        for at in (start..start + size).step_by(INSTRUCTION as usize) {
            let i: [u8; 8] = code[at as usize..][..8].try_into().expect("an instruction");
            let (to, from) = (i[1] & 0x0f, i[1] >> 4);
            let (offset, immediate) =
                (i16::from_ne_bytes([i[2], i[3]]), i32::from_ne_bytes([i[4], i[5], i[6], i[7]]));
            let class = i[0] & 0x07;
            let base = match class {
                1 => from,
                2 | 3 => to,
                _ => 0,
            };
            if base == FRAME_POINTER {
                stack = stack.max(u32::from(offset.unsigned_abs()));
            }
            if i[0] == ADD && copied == Some(to) {
                stack = stack.max(immediate.unsigned_abs());
            }
            copied = (i[0] == COPY && from == FRAME_POINTER).then_some(to);
            if i[0] == CALL && from == OF_THIS_OBJECT {
                calls.push(match moved.get(&at).map(|r| r.target()) {
                    Some(RelocationTarget::Symbol(index)) => {
                        let symbol = file.symbol_by_index(index).expect("a symbol");
                        let SectionIndex(section) = symbol.section_index().expect("its section");
                        // A function's own symbol; or its section's, and the number says where in it.
                        let local = symbol.kind() == SymbolKind::Section;
                        (section, if local { further(0, immediate) } else { symbol.address() })
                    }
                    _ => (section.index().0, further(at, immediate)),
                });
            }
        }
        let name = symbol.name().expect("a name").to_owned();
        found.insert((section.index().0, start), Function { name, stack, calls });
    }
    found
}

/// A call's number counts instructions from the next one on.
fn further(at: u64, instructions: i32) -> u64 {
    at.wrapping_add_signed((i64::from(instructions) + 1) * INSTRUCTION as i64)
}

/// The deepest chain of calls from a function on.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place) -> (u32, String) {
    let function =
        functions.get(&place).unwrap_or_else(|| panic!("a call to where no function is: {place:?}"));
    let below = function.calls.iter().map(|c| deepest(functions, *c)).max().unwrap_or_default();
    let own = function.stack.max(1).next_multiple_of(STEP);
    (own + below.0, format!("{} ({own}) {}", function.name, below.1))
}

#[test]
fn every_chain_of_calls_fits_the_stack_of_old_kernels() {
    let functions = functions();
    let mut called = 0;
    for (place, function) in &functions {
        let (bytes, chain) = deepest(&functions, *place);
        assert!(bytes <= LIMIT, "{bytes} bytes of stack: {chain}");
        called += function.calls.len();
    }
    // That it has really read them.
    let deep = functions.values().map(|f| f.stack).max();
    assert!(called > 10 && deep > Some(100), "{called} calls, and the largest frame is {deep:?}");
}
