//! lastcall's chores, the same on a laptop and in CI: `cargo xtask VERB`.

mod apt;
mod child;
mod ebpf;
mod kernel_object;
mod linker;
mod root;
mod toolchain;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "lastcall's chores", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the kernel object, with whatever toolchain is there or can be installed
    Ebpf {
        /// Build even if the object is up to date
        #[arg(long)]
        force: bool,
    },
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.verb) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    let workspace = workspace::Workspace::locate()?;
    match verb {
        Verb::Ebpf { force } => ebpf::run(&workspace, force).map(drop),
    }
}
