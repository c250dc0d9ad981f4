//! `lastcall`: parse, resolve, run, and an exit code.

use std::process::ExitCode;

use clap::Parser;
use lastcall_agent::{
    causes, check,
    cli::{Cli, Command, Output},
    config::Config,
    report::{
        doctor::{self, Plan},
        show,
    },
    run,
};

/// `EX_CONFIG` of sysexits(3): restarting does not help.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let result: anyhow::Result<()> = match Cli::parse().command {
        Command::Agent(args) => match Config::resolve(&args) {
            Ok(config) => run::run(config),
            Err(e) => {
                eprintln!("lastcall: {}", causes(&e));
                return ExitCode::from(BAD_CONFIGURATION);
            }
        },
        Command::Status(args) if args.watch => {
            show::watch(args.agent.address, args.output == Output::Json).map_err(Into::into)
        }
        Command::Status(args) => {
            show::status(args.agent.address, args.output == Output::Json).map_err(Into::into)
        }
        Command::Connections(args) => {
            let json = args.output == Output::Json;
            show::connections(args.agent.address, args.namespace.as_deref(), &args.pod, json)
                .map_err(Into::into)
        }
        Command::Uninstall(args) => run::uninstall::uninstall(&args),
        Command::Check(args) => match check::run(&check::Plan::from(&*args)) {
            Ok(code) => return ExitCode::from(code),
            Err(e) => Err(e.into()),
        },
        Command::Doctor(args) => match doctor::doctor(&Plan::from(&args), args.output == Output::Json) {
            Ok(code) => return ExitCode::from(code),
            Err(e) => Err(e.into()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("lastcall: {e:#}");
            ExitCode::FAILURE
        }
    }
}
