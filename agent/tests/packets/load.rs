//! The verifier takes all programs, and soon enough.

use std::time::Duration;

use aya::programs::Program;
use lastcall_agent::kernel::{self, Options};
use nix::time::{ClockId, clock_gettime};

use crate::bench::with_pins;

/// Of this thread, in which the verifier works: what others on the machine do meanwhile is no time of an agent's.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

#[test]
fn the_verifier_accepts_all_programs_in_three_seconds() {
    with_pins(|pins| {
        let options = Options { pins: pins.to_owned(), table_size: 1024, debug: false };
        let mut ebpf = kernel::open(&options).expect("open the kernel object");
        let mut total = Duration::ZERO;
        for (name, program) in ebpf.programs_mut() {
            let started = processor_time();
            match program {
                Program::SchedClassifier(p) => p.load(),
                Program::CgroupSockAddr(p) => p.load(),
                Program::SockOps(p) => p.load(),
                Program::SkMsg(p) => p.load(),
                other => panic!("{name} is a {:?}", other.prog_type()),
            }
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let took = processor_time() - started;
            total += took;
            let info = program.info().expect("information");
            let insns = info.verified_instruction_count().unwrap_or(0);
            println!("{name:<20} {insns:>8} instructions verified, loaded in {:>4} ms", took.as_millis());
            assert!(insns < 500_000, "{name} is near the verifier's limit of a million");
        }
        println!("all loaded in {} ms", total.as_millis());
        // Emulated processors (`cargo xtask kernels`) are that much slower.
        let slower = if std::env::var_os("LASTCALL_TEST_EMULATED").is_some() { 10 } else { 1 };
        assert!(total < slower * Duration::from_secs(3), "an agent must not load for {total:?}");
    });
}
