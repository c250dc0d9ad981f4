//! Namespaces on the real kernel: found, entered, left, gone.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command},
};

use tokio::task::JoinHandle;

use super::{
    Error, Filter, Namespace, Namespaces,
    tests_fixture::{Directory, Pod, needs_root, soon, start},
    wire::WireError,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The path of the namespace that has the address.
async fn found(namespaces: &Namespaces, address: &str) -> Option<std::path::PathBuf> {
    namespaces.find(ip(address)).await.unwrap().map(|ns| ns.path().unwrap().to_owned())
}

/// Starts to wait for the namespace to go, and waits already when this ends: only an event, no look at
/// the directory, will tell it from here on.
async fn waiting_for_gone(ns: &Namespace) -> JoinHandle<()> {
    let ns = ns.clone();
    let waiting = tokio::spawn(async move { ns.gone().await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    waiting
}

fn inode_of_this_thread() -> u64 {
    File::open("/proc/thread-self/ns/net").unwrap().metadata().unwrap().ino()
}

#[tokio::test]
async fn an_address_of_either_family_finds_its_namespace() {
    needs_root!();
    let node = Directory::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    a.add_eth0(&["10.9.0.2/24", "fd00:9::2/64"]);
    b.add_eth0(&["10.9.0.3/24", "fd00:9::3/64"]);
    b.ip("address add 10.9.1.3/32 dev lo");
    let namespaces = Namespaces::start(node.path()).unwrap();
    for _ in ["read", "remembered"] {
        assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&a.path));
        assert_eq!(found(&namespaces, "fd00:9::3").await.as_ref(), Some(&b.path));
        assert_eq!(found(&namespaces, "fd00:9::2").await.as_ref(), Some(&a.path));
        assert_eq!(found(&namespaces, "::ffff:10.9.0.3").await.as_ref(), Some(&b.path), "mapped");
        assert_eq!(found(&namespaces, "10.9.1.3").await.as_ref(), Some(&b.path), "on loopback");
        assert_eq!(found(&namespaces, "10.9.0.4").await, None);
    }
    let a = namespaces.find(ip("10.9.0.2")).await.unwrap().unwrap();
    assert_eq!(a.inode(), fs::metadata(a.path().unwrap()).unwrap().ino());
    // Linux 5.10 has none to tell.
    assert!(a.cookie().is_none() || a.cookie() != namespaces.node().cookie());
    assert_eq!(a.cookie().is_some(), namespaces.node().cookie().is_some());
    let listed: Vec<_> =
        namespaces.list().await.unwrap().iter().map(|n| n.path().unwrap().to_owned()).collect();
    assert_eq!(listed, [node.path().join("a"), node.path().join("b")]);
}

#[tokio::test]
async fn addresses_that_every_namespace_has_find_none() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    pod.add_eth0(&["fe80::1/64"]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    assert_eq!(found(&namespaces, "127.0.0.1").await, None);
    assert_eq!(found(&namespaces, "::1").await, None);
    assert_eq!(found(&namespaces, "fe80::1").await, None);
}

#[tokio::test]
async fn a_namespace_and_an_address_made_just_now_are_found() {
    needs_root!();
    let node = Directory::new();
    let old = node.pod("old");
    old.add_eth0(&["10.9.0.2/24"]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    assert_eq!(found(&namespaces, "10.9.0.3").await, None, "everything has been read");
    let new = node.pod("new");
    new.add_eth0(&["10.9.0.3/24"]);
    assert_eq!(found(&namespaces, "10.9.0.3").await.as_ref(), Some(&new.path));
    old.ip("address add 10.9.0.4/24 dev eth0");
    assert_eq!(found(&namespaces, "10.9.0.4").await.as_ref(), Some(&old.path));
}

#[tokio::test]
async fn an_address_given_to_the_next_pod_finds_the_next_pod() {
    needs_root!();
    let node = Directory::new();
    let (old, new) = (node.pod("old"), node.pod("new"));
    old.add_eth0(&["10.9.0.2/24"]);
    new.add_eth0(&[]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&old.path));
    old.ip("address del 10.9.0.2/24 dev eth0");
    assert_eq!(found(&namespaces, "10.9.0.2").await, None);
    new.ip("address add 10.9.0.2/24 dev eth0");
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&new.path));
}

#[tokio::test]
async fn an_address_that_a_second_pod_claims_finds_neither() {
    needs_root!();
    let node = Directory::new();
    let (claimer, pod) = (node.pod("claimer"), node.pod("pod"));
    claimer.add_eth0(&["10.9.0.9/24"]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    // All are read, the pod before it has its address.
    assert_eq!(found(&namespaces, "10.9.0.2").await, None);
    claimer.ip("address add 10.9.0.2/24 dev eth0");
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&claimer.path), "it alone has it");
    pod.add_eth0(&["10.9.0.2/24"]);
    let ambiguous = namespaces.find(ip("10.9.0.2")).await;
    let Err(Error::Ambiguous { paths, .. }) = ambiguous else { panic!("{ambiguous:?}") };
    assert_eq!(paths, [claimer.path.clone(), pod.path.clone()]);
    claimer.ip("address del 10.9.0.2/24 dev eth0");
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&pod.path));
}

#[tokio::test]
async fn the_nodes_own_namespace_is_never_a_pods() {
    needs_root!();
    // A node of two namespaces, the first of which is the agent's.
    let node = Directory::new();
    let (own, pod) = (node.pod("own"), node.pod("pod"));
    own.add_eth0(&["10.9.0.2/24"]);
    pod.add_eth0(&["10.9.0.2/24"]);
    let handle = tokio::runtime::Handle::current();
    let namespaces = own.inside(|| {
        let _runtime = handle.enter();
        Namespaces::start(node.path()).unwrap()
    });
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&pod.path));
    assert_eq!(namespaces.list().await.unwrap().len(), 1);
    let links = namespaces.node().links().unwrap();
    assert!(links.iter().any(|link| link.addresses.contains(&ip("10.9.0.2"))), "{links:?}");
    assert!(!namespaces.node().is_gone());
}

#[tokio::test]
async fn the_thread_returns_home_whatever_runs_inside() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    pod.add_eth0(&["10.9.0.2/24"]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = namespaces.find(ip("10.9.0.2")).await.unwrap().unwrap();
    assert_eq!(namespaces.within(&ns, inode_of_this_thread).await.unwrap(), ns.inode());
    assert_eq!(inode_on_the_thread(&namespaces).await, inode_of_this_thread());

    let panicked = namespaces.within(&ns, || panic!("on {}", "purpose")).await;
    assert!(
        matches!(&panicked, Err(Error::Panicked { message, .. }) if message == "on purpose"),
        "{panicked:?}"
    );
    assert_eq!(inode_on_the_thread(&namespaces).await, inode_of_this_thread());
    assert_eq!(namespaces.within(&ns, inode_of_this_thread).await.unwrap(), ns.inode());
}

/// Where the thread is when it is in no namespace of others.
async fn inode_on_the_thread(namespaces: &Namespaces) -> u64 {
    namespaces.on_the_thread(inode_of_this_thread).await.unwrap()
}

#[tokio::test]
async fn a_blocking_call_from_the_thread_itself_is_an_error_not_a_deadlock() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    pod.add_eth0(&["10.9.0.2/24"]);
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = namespaces.find(ip("10.9.0.2")).await.unwrap().unwrap();
    let inner = ns.clone();
    let dumped = soon("the error", ns.within(move || inner.dump(&Filter::drain()))).await.unwrap();
    assert!(matches!(dumped, Err(Error::Reentered { .. })), "{dumped:?}");
}

#[tokio::test]
async fn gone_is_an_event() {
    needs_root!();
    let node = Directory::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let namespaces = Namespaces::start(node.path()).unwrap();
    let all = namespaces.list().await.unwrap();
    let [ns_a, ns_b] = &all[..] else { panic!("{all:?}") };
    assert!(!ns_a.is_gone() && !ns_b.is_gone());
    let (gone_a, gone_b) = (waiting_for_gone(ns_a).await, waiting_for_gone(ns_b).await);
    drop(a);
    soon("a to go", gone_a).await.unwrap();
    assert!(ns_a.is_gone());
    assert!(!ns_b.is_gone() && !gone_b.is_finished());
    soon("what has gone to be gone", ns_a.gone()).await;

    // Another namespace under the old path is not the old one. Held, the old inode is not reused.
    drop(b);
    let new = node.pod("b");
    soon("b to be another", gone_b).await.unwrap();
    assert_eq!(namespaces.list().await.unwrap()[0].path(), Some(&*new.path));
    assert!(ns_b.is_gone());
}

#[tokio::test]
async fn a_link_to_a_namespace_is_one_and_only_the_directory_tells_that_it_goes() {
    needs_root!();
    let (node, elsewhere) = (Directory::new(), Directory::new());
    let pod = elsewhere.pod("a");
    let link = node.path().join("link");
    std::os::unix::fs::symlink(&pod.path, &link).unwrap();
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = namespaces.list().await.unwrap().remove(0);
    assert_eq!(ns.path(), Some(&*link));
    let gone = waiting_for_gone(&ns).await;
    fs::remove_file(&link).unwrap();
    soon("the link to go", gone).await.unwrap();
}

#[tokio::test]
async fn a_file_over_which_nothing_is_bound_is_no_namespace() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    File::create(node.path().join("not-yet")).unwrap();
    let namespaces = Namespaces::start(node.path()).unwrap();
    let names: Vec<_> = namespaces.listing().borrow().keys().cloned().collect();
    assert_eq!(names, std::slice::from_ref(&pod.path));

    let ns = namespaces.list().await.unwrap().remove(0);
    let gone = waiting_for_gone(&ns).await;
    nix::mount::umount2(&pod.path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    soon("the namespace to go", gone).await.unwrap();
}

#[tokio::test]
async fn what_changes_under_the_question_is_asked_again_and_then_said() {
    needs_root!();
    let node = Directory::new();
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns = namespaces.node();
    let ask = |answer: &dyn Fn(u32) -> Result<(u32, bool), WireError>| {
        let mut asked = 0;
        let answer = ns.ask_route("ask", |_| {
            asked += 1;
            answer(asked)
        });
        (answer, asked)
    };
    assert!(matches!(ask(&|n| Ok((n, n < 3))), (Ok((3, false)), 3)));
    assert!(matches!(ask(&|n| Ok((n, true))), (Ok((4, true)), 4)), "and given as interrupted");

    let lost = || WireError::Io(std::io::Error::from_raw_os_error(libc::ENOBUFS));
    assert!(matches!(ask(&|n| if n < 3 { Err(lost()) } else { Ok((n, false)) }), (Ok((3, false)), 3)));
    assert!(matches!(ask(&|_| Err(lost())), (Err(Error::Netlink { operation: "ask", .. }), 4)));
    let (refused, asked) = ask(&|_| Err(WireError::Io(std::io::Error::from_raw_os_error(libc::EPERM))));
    assert_eq!(asked, 1, "what is refused is not asked for again");
    assert_eq!(refused.unwrap_err().to_string(), "ask in network namespace node");
}

#[tokio::test]
async fn gone_fires_on_ip_netns_del() {
    needs_root!();
    let name = format!("lc-sockets-{}", std::process::id());
    let ip_netns = |verb: &str| {
        let status = start(Command::new("ip").args(["netns", verb, &name])).unwrap().wait().unwrap();
        assert!(status.success(), "ip netns {verb} {name}");
    };
    ip_netns("add");
    let pod = Pod { path: Path::new("/run/netns").join(&name) }; // cleans up where the test fails
    let namespaces = Namespaces::start(super::DIRECTORY).unwrap();
    let all = namespaces.list().await.unwrap();
    let ns = all.into_iter().find(|ns| ns.path() == Some(&*pod.path)).unwrap();
    let gone = waiting_for_gone(&ns).await;
    ip_netns("del");
    soon("the namespace to go", gone).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_appears_later_is_watched() {
    needs_root!();
    let node = Directory::new();
    let late = node.path().join("netns");
    let namespaces = Namespaces::start(&late).unwrap();
    let mut listing = namespaces.listing();
    fs::create_dir(&late).unwrap();
    let pod = Pod::new(late.join("a"));
    soon("news of it", listing.wait_for(|l| l.contains_key(&pod.path))).await.unwrap();
    pod.add_eth0(&["10.9.0.2/24"]);
    assert_eq!(found(&namespaces, "10.9.0.2").await.as_ref(), Some(&pod.path));
}

#[tokio::test]
async fn nothing_is_held_open_by_remembering_it() {
    needs_root!();
    let node = Directory::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    // The pair vanishes with either namespace: b sees whether a still exists.
    b.ip(&format!("link add toward-a type veth peer name eth0 netns {}", a.path.display()));
    a.ip("address add 10.9.0.2/24 dev eth0");
    let namespaces = Namespaces::start(node.path()).unwrap();
    let ns_b = namespaces.list().await.unwrap().remove(1);
    let has_pair = || ns_b.links().unwrap().iter().any(|link| link.name == "toward-a");
    let mut events = ns_b.link_events().await.unwrap();

    let held = namespaces.find(ip("10.9.0.2")).await.unwrap().unwrap();
    drop(a);
    soon("a to go", held.gone()).await;
    assert!(has_pair(), "what is held stays");
    drop(held);
    while has_pair() {
        soon("the kernel to take the pair away", events.next()).await.unwrap();
    }
}

/// A process in a namespace that has no file.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn without_a_directory_the_processes_tell() {
    needs_root!();
    let node = Directory::new();
    let pod = node.pod("a");
    pod.add_eth0(&["198.18.77.9/32"]);
    let mut process = Process(pod.inside(|| start(Command::new("sleep").arg("1000")).unwrap()));
    let namespaces = Namespaces::start(node.path().join("missing")).unwrap();
    let ns = namespaces.find(ip("198.18.77.9")).await.unwrap().unwrap();
    assert_eq!(ns.path(), Some(Path::new(&format!("/proc/{}/ns/net", process.0.id()))));
    let gone = waiting_for_gone(&ns).await;
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    soon("the last process to end", gone).await.unwrap();
}
