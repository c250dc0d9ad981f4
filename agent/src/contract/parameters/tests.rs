use proptest::prelude::*;

use super::*;

fn default() -> Contract {
    Contract::default()
}

/// The contract, and the names that were warned about.
fn of(query: &str) -> (Contract, Vec<String>) {
    let (contract, warnings) = read(query, &default());
    (contract, warnings.into_iter().map(|w| w.parameter).collect())
}

#[test]
fn every_parameter_is_read() {
    let (contract, warnings) = of("until=closed&settle=5s&idle-after=10s&doubt-after=2s&udp-idle=500ms\
                                   &patience=1m30s&reserve=8s&last-call=http");
    assert_eq!(warnings, Vec::<String>::new());
    let expected = Contract {
        until: Until::Closed,
        settle: Some(Duration::from_secs(5)),
        idle_after: Duration::from_secs(10),
        doubt_after: Duration::from_secs(2),
        udp_idle: Duration::from_millis(500),
        patience: Duration::from_secs(90),
        reserve: Duration::from_secs(8),
        last_call: LastCall::Http,
    };
    assert_eq!(contract, expected);
}

#[test]
fn nothing_asked_is_the_default() {
    for query in ["", "&", "&&&"] {
        assert_eq!(of(query), (default(), vec![]), "{query:?}");
    }
}

#[test]
fn what_is_not_understood_keeps_its_default_and_is_named() {
    for (query, named) in [
        ("until=never", "until"),
        ("until=", "until"),
        ("until", "until"),
        ("until=Closed", "until"),
        ("last-call=grpc", "last-call"),
        ("settle=5", "settle"),
        ("settle=0", "settle"),
        ("settle=-5s", "settle"),
        ("settle=5sec onds", "settle"),
        ("settle=25h", "settle"),
        ("settle=99999999999999999999s", "settle"),
        ("settle=5s&settle=6s", "settle"),
        ("settle=5s&settle=5s", "settle"),
        ("settle=5s&s%65ttle=6s", "settle"),
        ("settle=%zz", "settle"),
        ("settle=%5", "settle"),
        ("settle=%ff", "settle"),
        ("idle-after=99ms", "idle-after"),
        ("idle-after=0s", "idle-after"),
        ("udp-idle=1ms", "udp-idle"),
        ("patience=0s", "patience"),
        ("doubt-after=0s", "doubt-after"),
        ("reserve=8", "reserve"),
        ("Settle=5s", "Settle"),
        ("timeout=5s", "timeout"),
        ("=5s", ""),
        ("%zz=5s", "%zz"),
    ] {
        assert_eq!(of(query), (default(), vec![named.to_owned()]), "{query:?}");
    }
}

#[test]
fn one_bad_parameter_leaves_the_others_alone() {
    let (contract, warnings) = of("settle=soon&until=closed&reserve=8s&color=red");
    assert_eq!(warnings, ["settle", "color"]);
    let asked = Contract { until: Until::Closed, reserve: Duration::from_secs(8), ..default() };
    assert_eq!(contract, asked);
}

#[test]
fn the_bounds_themselves_are_accepted() {
    for query in ["settle=0s", "settle=24h", "reserve=0s", "idle-after=100ms", "idle-after=24h"] {
        assert_eq!(of(query).1, Vec::<String>::new(), "{query:?}");
    }
}

#[test]
fn percent_encoding_is_undone() {
    let (contract, warnings) = of("%75ntil=%63losed&settle=1m+30s&patience=2m%2010s");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(contract.until, Until::Closed);
    assert_eq!(contract.settle, Some(Duration::from_secs(90)));
    assert_eq!(contract.patience, Duration::from_secs(130));
}

#[test]
fn a_warning_says_what_was_wrong_and_what_is_accepted() {
    let warnings = read("settle=5&until=x", &default()).1;
    insta::assert_snapshot!(warnings.iter().map(|w| format!("{w}\n")).collect::<String>(), @r"
    settle: `5` is not a duration from 0s to 1day, such as 500ms, 5s or 1m30s; the default stands
    until: `x` is not one of auto, closed, idle, settled; the default stands
    ");
}

#[test]
fn warnings_are_few_short_and_fit_for_a_log() {
    let flood = format!("{}&{}=1", "a%0a%1b=1&".repeat(3000), "x".repeat(5000));
    let warnings = read(&flood, &default()).1;
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    let text = warnings.iter().map(|w| w.to_string()).collect::<String>();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let long = &read(&"x".repeat(5000), &default()).1[0].parameter;
    assert!(long.chars().count() <= QUOTED_MAX + 1, "{long}");
}

#[test]
fn the_cluster_s_own_contract_is_the_default() {
    let cluster = Contract { reserve: Duration::from_secs(9), until: Until::Closed, ..default() };
    assert_eq!(read("reserve=9&until=x", &cluster).0, cluster);
}

#[test]
fn a_target_is_split_at_the_first_question_mark() {
    assert_eq!(split("/drain"), ("/drain", ""));
    assert_eq!(split("/drain?a=b?c"), ("/drain", "a=b?c"));
    assert_eq!(split("/drain?a#b?c"), ("/drain", "a"));
    assert_eq!(split(""), ("", ""));
}

proptest! {
    #[test]
    fn no_query_panics(query in ".{0,200}") {
        read(&query, &default());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read(&String::from_utf8_lossy(&bytes), &default());
    }

    /// Whatever stands in place of a value: either it is a duration in range, or the default stands
    /// with one warning.
    #[test]
    fn a_malformed_value_is_the_default(value in "[0-9a-z%+. -]{0,12}", good in 1u64..80_000) {
        let (contract, warnings) = read(&format!("reserve={good}s&idle-after={value}"), &default());
        prop_assert_eq!(contract.reserve, Duration::from_secs(good));
        if warnings.is_empty() {
            prop_assert!(contract.idle_after >= SHORTEST_SILENCE && contract.idle_after <= LONGEST);
        } else {
            prop_assert_eq!(warnings.len(), 1);
            prop_assert_eq!(contract.idle_after, default().idle_after);
        }
    }

    /// A name that is not one of ours changes nothing.
    #[test]
    fn an_unknown_name_is_the_default(name in "[a-z-]{1,12}", value in "[a-z0-9]{0,6}") {
        prop_assume!(Field::ALL.iter().all(|f| f.name() != name));
        let (contract, warnings) = read(&format!("{name}={value}"), &default());
        prop_assert_eq!(contract, default());
        prop_assert_eq!(warnings.len(), 1);
    }
}
