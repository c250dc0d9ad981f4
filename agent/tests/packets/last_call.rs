//! The last call's programs, as the kernel's verifier sees them.

use lastcall_agent::kernel::{self, LastCall, Options};

use crate::bench::with_pins;

#[test]
fn the_programs_load() {
    with_pins(|pins| {
        let options = Options { pins: pins.to_owned(), table_size: 1024, debug: false };
        let mut ebpf = kernel::open(&options).expect("open the kernel object");
        let last_call = LastCall::load(&mut ebpf, true).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(last_call.sockets(), []);
    });
}
