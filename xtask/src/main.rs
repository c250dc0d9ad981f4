//! lastcall's chores, the same on a laptop and in CI: `cargo xtask VERB`.

mod apt;
mod btf;
mod build;
mod child;
mod compat;
mod demo;
mod deploy;
mod e2e;
mod ebpf;
mod image;
mod kernel_object;
mod kernels;
mod linker;
mod paths;
mod root;
mod tidy;
mod tiers;
mod toolchain;
mod workspace;

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "lastcall's chores", disable_help_subcommand = true)]
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
    /// Run all tests, or one tier of them; installs what they need and says so
    Test {
        /// Only this tier
        #[arg(long, value_enum)]
        tier: Option<tiers::Tier>,
        /// For the test programs: part of a test's name, and the options of Rust's tests
        #[arg(last = true, value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// Show on a simulated node what a preStop hook is worth: none, sleep, lastcall
    Demo {
        /// Write the results to a file too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// For the demo, as they are
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
    /// Build the agent's image as an OCI archive, its bill of materials beside it; no container engine needed
    Image(image::Wanted),
    /// Make the plain manifests from the chart, or check them and the chart
    Deploy(deploy::Wanted),
    /// Boot a real one-node Kubernetes on this machine and measure and test lastcall in it
    #[command(disable_help_flag = true)]
    E2e {
        /// For the driver, as they are: up, down, shell, test, rollout; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
        arguments: Vec<OsString>,
    },
    /// Drain pods of real servers under real clients, with the last call; fetches and builds them first
    Compat {
        /// Write the rows to a file too
        #[arg(long, value_name = "FILE")]
        json: Option<OsString>,
        /// Only these servers or clients
        #[arg(long, value_name = "NAME,…")]
        only: Option<OsString>,
        /// For the run, as they are
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
    /// Try lastcall on Debian's kernels, old and new, in QEMU without KVM; says which it is promised for
    Kernels {
        /// Only these
        #[arg(value_enum, value_name = "KERNEL")]
        releases: Vec<kernels::Release>,
        /// Only this check, by its name in the table; may be given several times
        #[arg(long, value_name = "CHECK")]
        only: Vec<String>,
        /// Write the results to a file too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Check the house rules that the compiler does not check
    Tidy,
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
        Verb::Test { tier, filter } => tiers::run(&workspace, tier, &filter),
        Verb::Demo { json, options } => {
            let json = json.map(|file| ["--json".into(), file.into_os_string()]);
            let arguments: Vec<OsString> = json.into_iter().flatten().chain(options).collect();
            demo::run(&workspace, &arguments)
        }
        Verb::Image(wanted) => image::run(&workspace, &wanted),
        Verb::Deploy(wanted) => deploy::run(&workspace, &wanted),
        Verb::E2e { arguments } => e2e::run(&workspace, &arguments),
        Verb::Compat { json, only, options } => {
            let flags = [("--json", json), ("--only", only)];
            let flags = flags.into_iter().filter_map(|(name, value)| Some([name.into(), value?]));
            compat::run(&workspace, &flags.flatten().chain(options).collect::<Vec<OsString>>())
        }
        Verb::Kernels { releases, only, json } => kernels::run(&workspace, &releases, &only, json.as_deref()),
        Verb::Tidy => tidy::run(&workspace),
    }
}
