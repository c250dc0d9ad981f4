use super::*;

const POD: &str = "10.244.0.3";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod(namespace: &str, name: &str) -> PodName {
    PodName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The node has one dial, 244.0.3, of [`POD`].
fn at(local: &str, path: &str, host: Option<&str>) -> Identity {
    identify(ip(local), path, host, |bits| (bits == 0x00f4_0003).then(|| ip(POD)))
}

fn refused_with(local: &str, path: &str) -> u16 {
    match at(local, path, None).asked {
        Asked::Refused { status, .. } => status.as_u16(),
        other => panic!("{local}{path}: {other:?}"),
    }
}

#[test]
fn the_address_that_was_reached_names_the_pod() {
    let expected = Asked::Dialled { bits: 0x00f4_0003, pod: Some(ip(POD)) };
    for local in ["127.244.0.3", "240.244.0.3", "::ffff:127.244.0.3", "::ffff:240.244.0.3"] {
        for path in ["/drain", "/drain/"] {
            let identity = at(local, path, Some("10.244.0.3:9902"));
            assert_eq!(identity, Identity { asked: expected.clone(), warnings: vec![] }, "{local}{path}");
        }
    }
}

#[test]
fn a_dial_that_the_map_has_forgotten_is_still_a_dial() {
    assert_eq!(at("127.9.9.9", "/drain", None).asked, Asked::Dialled { bits: 0x0009_0909, pod: None });
    assert_eq!(at("240.0.0.2", "/drain", None).asked, Asked::Dialled { bits: 2, pod: None });
}

#[test]
fn a_call_of_127_0_0_1_that_was_led_elsewhere_names_its_pod_by_path() {
    for local in ["127.0.0.1", "240.0.0.1", "::ffff:240.0.0.1"] {
        assert_eq!(at(local, "/drain/web/web-0", None).asked, Asked::Named(pod("web", "web-0")), "{local}");
        assert_eq!(refused_with(local, "/drain"), 404, "{local}");
    }
}

#[test]
fn a_forged_host_changes_nothing_and_is_told() {
    for host in ["10.244.0.99:9902", "10.244.0.99", "[fd00::9]:9902", "[fd00::9]", "fd00::9", "127.0.0.1"] {
        let identity = at("127.244.0.3", "/drain", Some(host));
        assert_eq!(identity.asked, Asked::Dialled { bits: 0x00f4_0003, pod: Some(ip(POD)) }, "{host}");
        assert!(matches!(identity.warnings[..], [(Fault::Host, _)]), "{host}");
    }
    for host in ["10.244.0.3", "[::ffff:10.244.0.3]:9902", "web.example", "", "\u{fffd}", "10.244.0.3:x"] {
        assert_eq!(at("127.244.0.3", "/drain", Some(host)).warnings, [], "{host}");
    }
}

#[test]
fn a_path_never_names_another_pod_than_the_dialled_one() {
    for path in ["/drain/other/victim-0", "/drain/other", "/drain/../../x"] {
        let identity = at("127.244.0.3", path, None);
        assert_eq!(identity.asked, Asked::Dialled { bits: 0x00f4_0003, pod: Some(ip(POD)) }, "{path}");
        assert!(matches!(identity.warnings[..], [(Fault::Path, _)]), "{path}");
    }
}

#[test]
fn a_direct_caller_names_the_pod_by_the_path() {
    for path in ["/drain/web/web-0", "/drain/web/web-0/"] {
        assert_eq!(at("127.0.0.1", path, None).asked, Asked::Named(pod("web", "web-0")), "{path}");
    }
    assert_eq!(at("127.0.0.1", "/drain/a/b.c-d.0", None).asked, Asked::Named(pod("a", "b.c-d.0")));
    assert_eq!(refused_with("127.0.0.1", "/drain"), 404);
    assert_eq!(refused_with("127.0.0.1", "/drain/"), 404);
}

#[test]
fn a_template_names_its_workload() {
    let web = Workload { namespace: "shop".into(), kind: "deployment".into(), name: "web.v1".into() };
    for path in ["/drain/shop/deployment/web.v1", "/drain/shop/Deployment/web.v1/"] {
        assert_eq!(at("127.0.0.1", path, None).asked, Asked::Workload(web.clone()), "{path}");
    }
}

#[test]
fn what_cannot_be_a_pod_s_name_is_refused() {
    let long = "x".repeat(64);
    for path in [
        "/drain/web",
        "/drain/web/",
        "/drain//web-0",
        "/drain/web/web-0/x",
        "/drain/web/Deployment/",
        "/drain/web/deployment/web/x",
        "/drain/web/deployment/web//",
        "/drain/web/Deployment/Web",
        "/drain/web/web-0//",
        "/drain/Web/web-0",
        "/drain/web/web_0",
        "/drain/web/-web",
        "/drain/web/web-",
        "/drain/web/.web",
        "/drain/web/a..b",
        "/drain/web/..",
        "/drain/web/web%2d0",
        "/drain/web/wéb",
        "/drain/a.b/web-0",
        &format!("/drain/{long}/web-0"),
        &format!("/drain/web/{}", "x".repeat(254)),
        "/status/web",
        "/connections",
        "/connections/web/",
    ] {
        assert_eq!(refused_with("127.0.0.1", path), 400, "{path}");
    }
    assert!(matches!(
        at("127.0.0.1", &format!("/drain/{}/{}", "x".repeat(63), "x".repeat(253)), None).asked,
        Asked::Named(_)
    ));
}

#[test]
fn status_pages_are_for_direct_callers_only() {
    assert_eq!(at("127.0.0.1", "/status", None).asked, Asked::Status(Page::Node));
    assert_eq!(
        at("127.0.0.1", "/status/web/web-0", None).asked,
        Asked::Status(Page::Pod(pod("web", "web-0")))
    );
    assert_eq!(
        at("127.0.0.1", "/connections/web/web-0", None).asked,
        Asked::Status(Page::Connections(pod("web", "web-0")))
    );
    for local in ["127.244.0.3", "127.0.0.2", "240.244.0.3", "240.0.0.2"] {
        for path in ["/status", "/status/web/web-0", "/connections/web/web-0"] {
            let identity = at(local, path, None);
            assert!(matches!(identity.asked, Asked::Dialled { .. }), "{local}{path}");
            assert_eq!(identity.warnings.len(), 1, "{local}{path}");
        }
    }
}

#[test]
fn the_node_s_own_addresses_are_no_door() {
    for local in ["10.0.0.5", "192.168.1.1", "::1", "fd00::1", "0.0.0.0", "128.0.0.1", "241.0.0.1"] {
        assert_eq!(refused_with(local, "/drain"), 421, "{local}");
        assert_eq!(refused_with(local, "/status"), 421, "{local}");
    }
}

#[test]
fn other_paths_are_not_found() {
    for path in ["/", "", "*", "/drains", "/Drain", "//drain", "/healthz", "/metrics", "/drain%2f"] {
        assert_eq!(refused_with("127.0.0.1", path), 404, "{path}");
        // The kubelet's call for a pod is its hook, whatever a slip of the pen made of the path.
        let identity = at("127.244.0.3", path, None);
        assert!(matches!(identity.asked, Asked::Dialled { .. }), "{path}");
        assert!(identity.warnings[0].1.contains("write `path: /drain`"), "{path}");
    }
}
