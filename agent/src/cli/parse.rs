//! Values as people type them, with errors that say what would have been right.
//!
//! In: one typed value. Out: the value, or a sentence; clap adds which flag it was.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::builder::PossibleValue;
use ipnet::IpNet;

use crate::contract::{Calls, Until};

/// A length of time with its unit: `1s`, `500ms`, `1m30s`.
pub fn duration(typed: &str) -> Result<Duration, String> {
    let plain = typed.trim();
    if plain == "0" {
        return Ok(Duration::ZERO);
    }
    if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{plain} of what? Write {plain}s for seconds, {plain}ms for milliseconds"));
    }
    humantime::parse_duration(plain)
        .map_err(|e| format!("{e}: a duration is a number with its unit, such as 500ms, 5s or 1m30s"))
}

/// A block of addresses; a single address is a block of one.
pub fn network(typed: &str) -> Result<IpNet, String> {
    let plain = typed.trim();
    if let Ok(block) = plain.parse::<IpNet>() {
        return Ok(block.trunc());
    }
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let why = match plain.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_err() => {
            format!("{address:?} is no IP address")
        }
        Some((address, bits)) => {
            let max = if address.contains(':') { 128 } else { 32 };
            format!("{bits:?} is no prefix length from 0 to {max}")
        }
        None => "neither an IP address nor a block of them".to_owned(),
    };
    Err(format!("{why}: write it as 10.0.0.0/8, 192.0.2.7 or fd00::/8"))
}

/// An IP address and a port.
pub fn socket_address(typed: &str) -> Result<SocketAddr, String> {
    typed.trim().parse().map_err(|_| {
        "an IP address and a port are needed, such as 127.0.0.1:9902, 0.0.0.0:9903 or [::]:9903".to_owned()
    })
}

/// A port that can be connected to.
pub fn port(typed: &str) -> Result<u16, String> {
    match typed.trim().parse::<u16>() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// A process's name as the kernel keeps it (`TASK_COMM_LEN`, 16 with the terminating zero).
pub fn process_name(typed: &str) -> Result<String, String> {
    match typed.len() {
        0 => Err("an empty name".to_owned()),
        1..=15 => Ok(typed.to_owned()),
        n => Err(format!("{n} bytes; the kernel keeps 15 of a process's name: {:?}", first_15(typed))),
    }
}

/// A request path, without query or fragment.
pub fn request_path(typed: &str) -> Result<String, String> {
    let plain = typed.trim();
    if !plain.starts_with('/') {
        return Err("a request path starts with a slash, such as /healthz".to_owned());
    }
    if plain.contains(['?', '#', ' ']) {
        return Err("the path alone, without query, fragment or spaces".to_owned());
    }
    Ok(plain.to_owned())
}

fn first_15(name: &str) -> String {
    let mut end = 15;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

impl clap::ValueEnum for Calls {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Asked, Self::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto")
                .help("Pods with a hook, at ports whose appProtocol or name says http, h2c or grpc"),
            Self::Asked => PossibleValue::new("asked").help("Pods whose hook says last-call=http"),
            Self::Off => PossibleValue::new("off").help("Never, whatever a hook says"),
        })
    }
}

impl clap::ValueEnum for Until {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Closed, Self::Idle, Self::Settled]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto").help("Nothing in flight, judged by protocol"),
            Self::Closed => PossibleValue::new("closed").help("No connection at all"),
            Self::Idle => PossibleValue::new("idle").help("No bytes moving, whatever the protocol"),
            Self::Settled => PossibleValue::new("settled")
                .help("Nothing more than that new connections have stopped: for apps that drain on SIGTERM"),
        })
    }
}
