//! Ports on the wire, and what they speak.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{core::v1::ContainerPort, discovery::v1::EndpointPort};

use super::{AppProtocol, PortFacts, Transport};

/// A port of an EndpointSlice: a number on the pod (a Service's targetPort), not the Service's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    port: u16,
    transport: Transport,
    name: String,
    app_protocol: Option<String>,
}

/// A containerPort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeclaredPort {
    pub(super) port: u16,
    transport: Transport,
    name: String,
}

impl SlicePort {
    /// `None` for SCTP, and for a port without a number: that means "all ports" and names none.
    pub(super) fn new(port: &EndpointPort) -> Option<Self> {
        Some(Self {
            port: number(port.port?)?,
            transport: transport(port.protocol.as_deref())?,
            name: port.name.clone().unwrap_or_default(),
            app_protocol: port.app_protocol.clone().filter(|text| !text.is_empty()),
        })
    }
}

impl DeclaredPort {
    /// `None` for SCTP.
    pub(super) fn new(port: &ContainerPort) -> Option<Self> {
        Some(Self {
            port: number(port.container_port)?,
            transport: transport(port.protocol.as_deref())?,
            name: port.name.clone().unwrap_or_default(),
        })
    }
}

/// The union of what slices and containers say; for what a port speaks, the best informed wins.
pub(super) fn ports<'a>(
    slices: impl IntoIterator<Item = &'a SlicePort>,
    declared: &[DeclaredPort],
) -> BTreeSet<PortFacts> {
    let mut said: BTreeMap<(u16, Transport), Said> = BTreeMap::new();
    for port in slices {
        let entry = said.entry((port.port, port.transport)).or_default();
        entry.in_slice = true;
        let word = port.app_protocol.as_deref().unwrap_or(&port.name);
        entry.hear(word);
        match &port.app_protocol {
            Some(text) => agree(&mut entry.by_app_protocol, by_app_protocol(text)),
            None => by_name(&port.name).into_iter().for_each(|p| agree(&mut entry.by_slice_name, p)),
        }
    }
    for port in declared {
        let entry = said.entry((port.port, port.transport)).or_default();
        entry.hear(&port.name);
        by_name(&port.name).into_iter().for_each(|p| agree(&mut entry.by_declared_name, p));
    }
    said.into_iter()
        .map(|((port, transport), said)| {
            let protocol = said.by_app_protocol.or(said.by_slice_name).or(said.by_declared_name);
            let protocol = protocol.unwrap_or(AppProtocol::Unknown);
            let cleartext = said.clear && !said.tls && protocol != AppProtocol::Unknown;
            PortFacts { port, transport, protocol, cleartext, in_slice: said.in_slice }
        })
        .collect()
}

#[derive(Default)]
struct Said {
    in_slice: bool,
    by_app_protocol: Option<AppProtocol>,
    by_slice_name: Option<AppProtocol>,
    by_declared_name: Option<AppProtocol>,
    /// Somebody says HTTP or gRPC in the clear.
    clear: bool,
    /// Somebody says TLS.
    tls: bool,
}

impl Said {
    /// Of all who name the port, one that says TLS is enough: what it carries is then nobody's business.
    fn hear(&mut self, word: &str) {
        let word = word.to_ascii_lowercase();
        self.tls |= ["https", "h2-", "tls", "ssl"].iter().any(|w| word.starts_with(w)) || word == "h2";
        let custom = word.strip_prefix("kubernetes.io/").unwrap_or(&word);
        self.clear |= ["http", "h2c", "grpc"].iter().any(|w| {
            custom.strip_prefix(w).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '2']))
        });
    }
}

/// Two Services may contradict each other about one port: then nobody knows, and every open
/// connection counts.
fn agree(known: &mut Option<AppProtocol>, said: AppProtocol) {
    *known = Some(match *known {
        Some(before) if before != said => AppProtocol::Unknown,
        _ => said,
    });
}

/// appProtocol: IANA's service names, `kubernetes.io/…`, or somebody's own, which says nothing to us.
/// A websocket is no request and response, whatever its port is called.
fn by_app_protocol(text: &str) -> AppProtocol {
    match text.to_ascii_lowercase().as_str() {
        "http" | "https" | "grpc-web" => AppProtocol::Http,
        "http2" | "h2" | "h2c" | "grpc" | "kubernetes.io/h2c" => AppProtocol::Http2,
        _ => AppProtocol::Unknown,
    }
}

/// Port names by the custom that Istio made a rule (`<protocol>[-<suffix>]`), and those under which
/// health checks and scrapes are served. `None`: the name says nothing.
fn by_name(name: &str) -> Option<AppProtocol> {
    let name = name.to_ascii_lowercase();
    let is = |word: &str| name == word || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-'));
    let starts = |word: &str| name.starts_with(word);
    if is("h2") || starts("http2") || starts("h2c") || starts("grpc") {
        Some(AppProtocol::Http2)
    } else if is("http")
        || starts("https")
        || starts("health")
        || is("metrics")
        || name.ends_with("-metrics")
        || is("prometheus")
    {
        Some(AppProtocol::Http)
    } else {
        None
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|&port| port != 0)
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("" | "TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AppProtocol::{Http, Http2, Unknown};

    fn slice(port: i32, protocol: &str, name: &str, app: &str) -> Option<SlicePort> {
        SlicePort::new(&EndpointPort {
            port: (port != 0).then_some(port),
            protocol: Some(protocol.into()),
            name: Some(name.into()),
            app_protocol: (!app.is_empty()).then(|| app.into()),
        })
    }

    fn declared(port: i32, protocol: &str, name: &str) -> Option<DeclaredPort> {
        DeclaredPort::new(&ContainerPort {
            container_port: port,
            protocol: Some(protocol.into()),
            name: Some(name.into()),
            ..Default::default()
        })
    }

    #[test]
    fn names_that_say_a_protocol() {
        for (name, want) in [
            ("http", Some(Http)),
            ("http-web", Some(Http)),
            ("http-metrics", Some(Http)),
            ("HTTP", Some(Http)),
            ("https", Some(Http)),
            ("https-admin", Some(Http)),
            ("http2", Some(Http2)),
            ("http2-web", Some(Http2)),
            ("h2c", Some(Http2)),
            ("grpc", Some(Http2)),
            ("grpc-api", Some(Http2)),
            ("metrics", Some(Http)),
            ("tls-metrics", Some(Http)),
            ("health", Some(Http)),
            ("healthz", Some(Http)),
            ("prometheus", Some(Http)),
            ("web", None),
            ("", None),
            ("httpd", None),
            ("redis", None),
            ("metricsdb", None),
        ] {
            assert_eq!(by_name(name), want, "{name:?}");
        }
    }

    #[test]
    fn app_protocols() {
        for (text, want) in [
            ("http", Http),
            ("HTTPS", Http),
            ("HTTP2", Http2),
            ("grpc", Http2),
            ("h2c", Http2),
            ("kubernetes.io/h2c", Http2),
            ("kubernetes.io/ws", Unknown),
            ("kubernetes.io/wss", Unknown),
            ("example.com/http", Unknown),
            ("postgresql", Unknown),
        ] {
            assert_eq!(by_app_protocol(text), want, "{text:?}");
        }
    }

    #[test]
    fn in_the_clear_is_what_says_so_and_is_not_said_to_be_tls() {
        for (slice_name, app, container, want) in [
            ("http", "", "", true),
            ("http-web", "", "", true),
            ("", "kubernetes.io/h2c", "", true),
            ("", "grpc", "", true),
            ("grpc-api", "", "web", true),
            ("http2", "", "", true),
            ("", "", "http", true),
            ("https", "", "", false),
            ("", "https", "http", false),
            ("http", "", "https-web", false),
            ("", "h2", "", false),
            ("tls-metrics", "", "", false),
            ("metrics", "", "", false),
            ("httpd", "", "", false),
            ("web", "", "", false),
            ("http", "kubernetes.io/ws", "", false),
            ("web", "", "grpc", true),
        ] {
            let slices = slice(80, "TCP", slice_name, app);
            let found = ports(&slices, &declared(80, "TCP", container).into_iter().collect::<Vec<_>>());
            let clear: Vec<bool> = found.iter().map(|p| p.cleartext).collect();
            assert_eq!(clear, [want], "{slice_name:?} {app:?} {container:?}");
        }
    }

    #[test]
    fn who_is_believed_about_a_port() {
        type Row<'a> = (&'a str, Vec<Option<SlicePort>>, Vec<Option<DeclaredPort>>, &'a str);
        let rows: Vec<Row<'_>> = vec![
            ("nothing", vec![], vec![], ""),
            ("slice alone", vec![slice(80, "TCP", "http", "")], vec![], "80 Tcp Http slice"),
            ("containers alone", vec![], vec![declared(80, "TCP", "http")], "80 Tcp Http"),
            (
                "appProtocol before both names",
                vec![slice(80, "TCP", "http", "kubernetes.io/ws")],
                vec![declared(80, "TCP", "grpc")],
                "80 Tcp Unknown slice",
            ),
            (
                "the slice's name before the container's",
                vec![slice(80, "TCP", "grpc", "")],
                vec![declared(80, "TCP", "http")],
                "80 Tcp Http2 slice",
            ),
            (
                "a name that says nothing leaves it to the container's",
                vec![slice(80, "TCP", "web", "")],
                vec![declared(80, "TCP", "http")],
                "80 Tcp Http slice",
            ),
            (
                "two Services that contradict each other",
                vec![slice(80, "TCP", "http", ""), slice(80, "TCP", "grpc", "")],
                vec![],
                "80 Tcp Unknown slice",
            ),
            (
                "the same number on two transports",
                vec![slice(53, "UDP", "dns", ""), slice(53, "TCP", "dns-tcp", "")],
                vec![declared(9153, "TCP", "metrics")],
                "53 Tcp Unknown slice, 53 Udp Unknown slice, 9153 Tcp Http",
            ),
            (
                "all ports, SCTP, nonsense",
                vec![slice(0, "TCP", "", ""), slice(1, "SCTP", "", ""), slice(70_000, "TCP", "", "")],
                vec![declared(-1, "TCP", ""), declared(2, "SCTP", "")],
                "",
            ),
        ];
        for (what, slices, containers, want) in rows {
            let slices: Vec<_> = slices.into_iter().flatten().collect();
            let containers: Vec<_> = containers.into_iter().flatten().collect();
            let got = ports(&slices, &containers)
                .iter()
                .map(|p| {
                    let from = if p.in_slice { " slice" } else { "" };
                    format!("{} {:?} {:?}{from}", p.port, p.transport, p.protocol)
                })
                .collect::<Vec<_>>()
                .join(", ");
            assert_eq!(got, want, "{what}");
        }
    }
}
