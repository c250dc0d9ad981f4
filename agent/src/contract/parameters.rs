//! The parameters of a hook's path: `/drain?until=closed&settle=5s&last-call=http`.
//!
//! In: a query, as written in the pod's spec or as it came over the wire. Out: the contract and a
//! warning for each part that was not understood. What is not understood never shortens a drain:
//! that parameter keeps its default, and everybody is told. Pure.

use std::{fmt, ops::RangeInclusive, time::Duration};

use crate::contract::{Contract, LastCall, Until};

/// Nobody drains for longer than a day; more is a slip of the pen.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// A silence shorter than this cannot be told from the pause between two packets.
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
/// More warnings than this say nothing new; the last one counts the rest.
const WARNINGS_MAX: usize = 16;
/// Of a tenant's text, so much is repeated in logs and answers.
const QUOTED_MAX: usize = 48;

/// A part of a hook's path that was not understood: its default stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The parameter, cut and escaped for logs.
    pub parameter: String,
    /// What was wrong, and what is accepted.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.parameter, self.problem)
    }
}

/// A request target in its path and its query; a fragment is dropped.
pub fn split(target: &str) -> (&str, &str) {
    let target = target.split('#').next().unwrap_or("");
    target.split_once('?').unwrap_or((target, ""))
}

/// The contract that a query asks for, starting from the cluster's own.
pub fn read(query: &str, defaults: &Contract) -> (Contract, Vec<Warning>) {
    let mut contract = defaults.clone();
    let mut warnings = Vec::new();
    let pairs: Vec<(String, Option<String>)> =
        query.split('&').filter(|part| !part.is_empty()).map(decode_pair).collect();
    for (i, (name, value)) in pairs.iter().enumerate() {
        let copies = || pairs.iter().filter(|(other, _)| other == name).count();
        let first = || pairs.iter().position(|(other, _)| other == name) == Some(i);
        let problem = match Field::ALL.iter().find(|field| field.name() == name) {
            // One warning an unknown parameter, however often it comes: the cap below bounds them.
            None => Some(format!("no such parameter; there are {}", Field::names())),
            Some(field) if copies() > 1 => first()
                .then(|| format!("given {} times; the default stands ({})", copies(), field.accepted())),
            Some(field) => match value.as_deref() {
                None => Some("malformed percent-encoding; the default stands".to_owned()),
                Some(value) => field.set(&mut contract, value).err().map(|Unfit| {
                    format!("`{}` is not {}; the default stands", quoted(value), field.accepted())
                }),
            },
        };
        let Some(problem) = problem else { continue };
        if warnings.len() == WARNINGS_MAX {
            let problem = "more parameters were not understood".to_owned();
            warnings.push(Warning { parameter: "…".to_owned(), problem });
            break;
        }
        warnings.push(Warning { parameter: quoted(name), problem });
    }
    (contract, warnings)
}

/// Somebody's text, fit for a log line: short, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        short.push('…');
    }
    short
}

/// The value does not fit the parameter.
struct Unfit;

/// What a hook may ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Until,
    Settle,
    IdleAfter,
    DoubtAfter,
    UdpIdle,
    Patience,
    Reserve,
    LastCall,
}

impl Field {
    const ALL: [Self; 8] = [
        Self::Until,
        Self::Settle,
        Self::IdleAfter,
        Self::DoubtAfter,
        Self::UdpIdle,
        Self::Patience,
        Self::Reserve,
        Self::LastCall,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Until => "until",
            Self::Settle => "settle",
            Self::IdleAfter => "idle-after",
            Self::DoubtAfter => "doubt-after",
            Self::UdpIdle => "udp-idle",
            Self::Patience => "patience",
            Self::Reserve => "reserve",
            Self::LastCall => "last-call",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Durations that make sense; `None` for the two that are words.
    fn range(self) -> Option<RangeInclusive<Duration>> {
        match self {
            Self::Until | Self::LastCall => None,
            Self::Settle | Self::Reserve => Some(Duration::ZERO..=LONGEST),
            _ => Some(SHORTEST_SILENCE..=LONGEST),
        }
    }

    fn accepted(self) -> String {
        match (self, self.range()) {
            (_, Some(range)) => format!(
                "a duration from {} to {}, such as 500ms, 5s or 1m30s",
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end())
            ),
            (Self::Until, None) => "one of auto, closed, idle, settled".to_owned(),
            (_, None) => "one of http, off, default".to_owned(),
        }
    }

    fn set(self, contract: &mut Contract, value: &str) -> Result<(), Unfit> {
        match self {
            Self::Until => contract.until = until(value)?,
            Self::LastCall => contract.last_call = last_call(value)?,
            Self::Settle => contract.settle = Some(self.duration(value)?),
            Self::IdleAfter => contract.idle_after = self.duration(value)?,
            Self::DoubtAfter => contract.doubt_after = self.duration(value)?,
            Self::UdpIdle => contract.udp_idle = self.duration(value)?,
            Self::Patience => contract.patience = self.duration(value)?,
            Self::Reserve => contract.reserve = self.duration(value)?,
        }
        Ok(())
    }

    /// A bare number is refused: seconds to one reader, milliseconds to the next.
    fn duration(self, value: &str) -> Result<Duration, Unfit> {
        if !value.ends_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(Unfit);
        }
        let duration = humantime::parse_duration(value).map_err(|_| Unfit)?;
        match self.range() {
            Some(range) if range.contains(&duration) => Ok(duration),
            _ => Err(Unfit),
        }
    }
}

fn until(value: &str) -> Result<Until, Unfit> {
    match value {
        "auto" => Ok(Until::Auto),
        "closed" => Ok(Until::Closed),
        "idle" => Ok(Until::Idle),
        "settled" => Ok(Until::Settled),
        _ => Err(Unfit),
    }
}

fn last_call(value: &str) -> Result<LastCall, Unfit> {
    match value {
        "http" => Ok(LastCall::Http),
        "off" => Ok(LastCall::Off),
        "default" => Ok(LastCall::Default),
        _ => Err(Unfit),
    }
}

/// Name and value, decoded. A name that cannot be decoded stays as it came, and is then unknown.
fn decode_pair(pair: &str) -> (String, Option<String>) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (decode(name).unwrap_or_else(|| name.to_owned()), decode(value))
}

/// Percent-decoding, with `+` for a space as forms have it. `None`: malformed, or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
