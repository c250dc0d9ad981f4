//! What is typed becomes what is meant, and a slip gets a sentence that helps.

use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::{AgentArgs, Cli, Command, Output, agent::Attach, parse};
use crate::contract::{Calls, Contract, Until};

fn typed(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())
}

fn agent(flags: &str) -> AgentArgs {
    match typed(&format!("lastcall agent --endpoints /pods {flags}")).unwrap().command {
        Command::Agent(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn refused(flags: &str) -> String {
    typed(&format!("lastcall agent --endpoints /pods {flags}")).unwrap_err()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_the_contract_s() {
    let args = agent("");
    let contract = Contract::default();
    assert_eq!(args.contract.until, contract.until);
    assert_eq!(args.contract.idle_after, contract.idle_after);
    assert_eq!(args.contract.doubt_after, contract.doubt_after);
    assert_eq!(args.contract.udp_idle, contract.udp_idle);
    assert_eq!(args.contract.patience, contract.patience);
    assert_eq!(args.contract.reserve, contract.reserve);
    assert_eq!(args.contract.min_settle, Duration::ZERO);
}

#[test]
fn other_defaults() {
    let args = agent("");
    assert_eq!(args.hook.hook_port, 9902);
    assert_eq!(args.hook.nobody_home_wait, Duration::from_secs(20));
    assert_eq!(args.hook.default_grace, Duration::from_secs(30));
    assert_eq!(args.hook.max_drain, None);
    assert_eq!(args.kubelet.kubelet_port, 10_250);
    assert_eq!(args.node.netns_dir.to_str(), Some("/run/netns"));
    assert_eq!(args.node.bpf_dir.to_str(), Some("/sys/fs/bpf/lastcall"));
    assert_eq!(args.contract.last_call, Calls::Asked);
    assert_eq!(args.observer.attach, Attach::Auto);
    assert_eq!(args.report.metrics_address.port(), 9903);
}

#[test]
fn flags_reach_their_fields() {
    let args = agent(
        "--until settled --reserve 8s --ignore-sources 10.0.0.0/8,fd00::/8,192.0.2.7 \
         --health-paths /healthz,/livez --attach clsact --kubelet-process kubelet --max-drain 10m --last-call auto",
    );
    assert_eq!(args.contract.until, Until::Settled);
    assert_eq!(args.contract.last_call, Calls::Auto);
    assert_eq!(args.contract.reserve, Duration::from_secs(8));
    let blocks: Vec<_> = args.observer.ignore_sources.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]);
    assert_eq!(args.observer.health_paths, ["/healthz", "/livez"]);
    assert_eq!(args.observer.attach, Attach::Clsact);
    assert_eq!(args.kubelet.kubelet_process.as_deref(), Some("kubelet"));
    assert_eq!(args.hook.max_drain, Some(Duration::from_secs(600)));
}

#[test]
fn slips_get_an_answer_that_helps() {
    let table = [
        ("--idle-after 5", "5 of what? Write 5s for seconds"),
        ("--idle-after soon", "a duration is a number with its unit"),
        ("--idle-after 5parsecs", "unknown time unit"),
        ("--ignore-sources 10.0.0.0/33", "\"33\" is no prefix length from 0 to 32"),
        ("--ignore-sources fd00::/129", "from 0 to 128"),
        ("--ignore-sources 10.0.0/8", "\"10.0.0\" is no IP address"),
        ("--ignore-sources 10.0.0.0/8,everybody", "neither an IP address nor a block"),
        ("--hook-port 0", "a port is a number from 1 to 65535"),
        ("--hook-port http", "a port is a number from 1 to 65535"),
        ("--metrics-address 9903", "an IP address and a port are needed"),
        ("--kubelet-process kubelet-of-this-node", "the kernel keeps 15 of a process's name"),
        ("--health-paths healthz", "starts with a slash"),
        ("--until drained", "[possible values: auto, closed, idle, settled]"),
        ("--attach xdp", "[possible values: auto, tcx, clsact, none]"),
        ("--table-size 12", "12 is not in 1024..=4194304"),
        ("--netns-dir=", "an empty path"),
    ];
    for (flags, expected) in table {
        let said = refused(flags);
        assert!(said.contains(expected), "{flags}: {said}");
        let flag = flags.split([' ', '=']).next().unwrap();
        assert!(said.contains(flag), "{flags}: the message names the flag: {said}");
    }
}

#[test]
fn one_source_or_the_other() {
    let said = typed("lastcall agent --endpoints /pods --kubeconfig /config").unwrap_err();
    assert!(said.contains("cannot be used with"), "{said}");
    assert!(typed("lastcall agent --node-name a").is_ok(), "a pod of a cluster needs no more");
}

#[test]
fn status_connections_doctor() {
    let Command::Status(status) = typed("lastcall status --watch -o json").unwrap().command else { panic!() };
    assert!(status.watch);
    assert_eq!(status.output, Output::Json);
    assert_eq!(status.agent.address.to_string(), "127.0.0.1:9902");

    let Command::Connections(c) = typed("lastcall connections web-1 -n shop").unwrap().command else {
        panic!()
    };
    assert_eq!((c.pod.as_str(), c.namespace.as_deref()), ("web-1", Some("shop")));

    let Command::Doctor(d) = typed("lastcall doctor").unwrap().command else { panic!() };
    assert_eq!((d.output, d.hook_port), (Output::Text, 9902));
}

/// Every flag of the agent can be set by a variable: a DaemonSet's `env` is where people put things.
#[test]
fn every_agent_flag_has_its_variable() {
    let cli = Cli::command();
    let agent = cli.find_subcommand("agent").unwrap();
    for arg in agent.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
        let wanted = format!("LASTCALL_{}", arg.get_long().unwrap().replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(wanted.as_str()));
        assert!(arg.get_help_heading().is_some(), "{wanted}: under a heading");
    }
}

#[test]
fn durations() {
    let table = [("0", 0), ("0s", 0), ("500ms", 500), ("5s", 5_000), ("1m30s", 90_000), (" 2s ", 2_000)];
    for (typed, ms) in table {
        assert_eq!(parse::duration(typed), Ok(Duration::from_millis(ms)), "{typed}");
    }
    for bad in ["", "-5s", "5 s 5", "s", "99999999999999999999y"] {
        assert!(parse::duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_block_with_host_bits_is_the_block() {
    assert_eq!(parse::network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
}
