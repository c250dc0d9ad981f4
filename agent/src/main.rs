//! `lastcall`: parse, resolve, run, and an exit code.

use std::process::ExitCode;

use clap::Parser;
use lastcall_agent::{
    causes,
    cli::{Cli, Command},
    config::Config,
    report, run,
};

/// `EX_CONFIG` of sysexits(3): restarting does not help.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => match Config::resolve(&args) {
            Ok(config) => run::run(config),
            Err(e) => {
                eprintln!("lastcall: {}", causes(&e));
                return ExitCode::from(BAD_CONFIGURATION);
            }
        },
        Command::Status(args) => report::show::run_status(&args),
        Command::Connections(args) => report::show::run_connections(&args),
        Command::Doctor(args) => return report::doctor::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("lastcall: {e:#}");
            ExitCode::FAILURE
        }
    }
}
