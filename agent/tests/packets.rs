//! Packet tables: what the kernel programs make of packets, by BPF_PROG_TEST_RUN. Needs root.
