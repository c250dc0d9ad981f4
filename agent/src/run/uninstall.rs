//! `lastcall uninstall`: nothing of lastcall is left on the node.
//!
//! Deleting the DaemonSet leaves the pinned programs, on purpose: hooks that pods still name go on being
//! sleeps. This is for those who want them gone as well.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::{cli::UninstallArgs, kernel::uninstall, report::client};

/// Removes the pins and says which; refuses while an agent is there.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    // Before anything else: a container's first process is not ended by a signal that it does not ask for.
    let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    if args.stay {
        ends.thread_block().context("block SIGTERM")?;
    }
    let port = uninstall::configured_port(&args.bpf_dir).unwrap_or(args.hook_port);
    let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match client::status(agent) {
        Err(client::Error::NotRunning { .. }) => {}
        Ok(_) if args.force => {}
        Ok(_) => bail!(
            "an agent runs here and answers at {agent}: stop it first (delete its DaemonSet), or give --force and \
             its hooks fail from now on until it starts again"
        ),
        Err(_) if args.force => {}
        Err(e) => {
            let why =
                "it is not known whether an agent still runs here; --force removes the pins all the same";
            return Err(e).context(why);
        }
    }
    let removed = uninstall::remove_pins(&args.bpf_dir)?;
    for path in &removed {
        println!("removed {}", path.display());
    }
    match removed.len() {
        0 => println!("nothing of lastcall is pinned in {}", args.bpf_dir.display()),
        _ => println!("hooks that name port {port} fail at once on this node from now on"),
    }
    if args.stay {
        println!("staying until told to stop");
        ends.wait().context("wait for SIGTERM")?;
    }
    Ok(())
}
