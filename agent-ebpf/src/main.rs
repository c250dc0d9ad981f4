//! The kernel programs' entry points.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The one atomic that every kernel has is an addition whose result nobody reads; `core::sync::atomic`
// does not offer it for processors without compare-and-swap.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features, reason = "see above"))]
#![cfg_attr(not(target_arch = "bpf"), allow(missing_docs, reason = "empty away from the eBPF target"))]

#[cfg(target_arch = "bpf")]
mod announcer;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod entries;
#[cfg(target_arch = "bpf")]
mod hook;
#[cfg(target_arch = "bpf")]
mod last_call;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod observe;
#[cfg(target_arch = "bpf")]
mod payload;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod streams;
#[cfg(target_arch = "bpf")]
mod unread;

#[cfg(target_arch = "bpf")]
#[expect(unreachable_pub, reason = "the macros export them by section")]
mod programs {
    use aya_ebpf::{
        macros::{cgroup_sock_addr, classifier, sk_msg, sock_ops},
        programs::{SkMsgContext, SockAddrContext, SockOpsContext, TcContext},
    };
    use lastcall_ebpf::tcp::Direction;

    use crate::{announcer, hook, last_call, observe, unread};

    #[classifier]
    pub fn observe_ingress(ctx: TcContext) -> i32 {
        observe::observe(&ctx, Direction::In)
    }

    #[classifier]
    pub fn observe_egress(ctx: TcContext) -> i32 {
        observe::observe(&ctx, Direction::Out)
    }

    #[classifier]
    pub fn command(ctx: TcContext) -> i32 {
        observe::command(&ctx)
    }

    #[classifier]
    pub fn last_call_ingress(ctx: TcContext) -> i32 {
        last_call::ingress(&ctx)
    }

    #[classifier]
    pub fn last_call_egress(ctx: TcContext) -> i32 {
        last_call::egress(&ctx)
    }

    #[classifier]
    pub fn last_call_look(ctx: TcContext) -> i32 {
        unread::asked(&ctx)
    }

    #[sk_msg]
    pub fn announce(ctx: SkMsgContext) -> u32 {
        announcer::announce(&ctx)
    }

    #[cgroup_sock_addr(connect4)]
    pub fn hook4(ctx: SockAddrContext) -> i32 {
        hook::connect4(&ctx)
    }

    #[cgroup_sock_addr(connect6)]
    pub fn hook6(ctx: SockAddrContext) -> i32 {
        hook::connect6(&ctx)
    }

    #[cgroup_sock_addr(connect4)]
    pub fn tell_netns(ctx: SockAddrContext) -> i32 {
        hook::tell_netns(&ctx)
    }

    #[sock_ops]
    pub fn probe(ctx: SockOpsContext) -> u32 {
        hook::probe(&ctx)
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // Never reached: the verifier refuses a program that could.
        loop {}
    }

    /// The kernel lets only GPL-compatible programs use some helpers; the source is MIT OR Apache-2.0.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
