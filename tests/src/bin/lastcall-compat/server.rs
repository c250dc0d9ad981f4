//! The servers, each with its own defaults: what is configured here is what they do not start without.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::kits::{Kit, Kits, words};

/// The port of every server in its pod.
pub(crate) const PORT: u16 = 8080;
/// Where a proxy in a pod finds its app.
pub(crate) const APP_PORT: u16 = 9000;

/// What goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2c,
    Grpc,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
        }
    }
}

impl Protocol {
    /// How people name a port that speaks it.
    pub(crate) fn port_name(self) -> &'static str {
        match self {
            Self::H1 => "http",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
        }
    }
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The body that it was sent.
    Echo,
    /// The same small file, whatever it was sent.
    Small,
    /// The same file of 3 MB, by sendfile.
    Large,
}

/// A directory of the pod's own, that dies with its node.
pub(crate) struct Place<'a> {
    pub(crate) kits: &'a Kits,
    /// As the pod sees it.
    pub(crate) inside: String,
    /// As we see it.
    pub(crate) outside: PathBuf,
}

impl Place<'_> {
    /// Writes a file, and says where the pod finds it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
        let path = self.outside.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
        Ok(format!("{}/{name}", self.inside))
    }
}

/// A kind of server.
#[derive(Clone, Copy)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) kit: Kit,
    pub(crate) protocol: Protocol,
    pub(crate) answer: Answer,
    /// Asked by GET instead of POST.
    pub(crate) get: bool,
    /// The pod has an app behind it.
    pub(crate) is_proxy: bool,
    /// Writes what it needs into its place; its command line.
    pub(crate) command: fn(&Place<'_>) -> Result<Vec<String>>,
}

const fn echo(
    name: &'static str,
    kit: Kit,
    protocol: Protocol,
    command: fn(&Place<'_>) -> Result<Vec<String>>,
) -> Server {
    Server { name, kit, protocol, answer: Answer::Echo, get: false, is_proxy: false, command }
}

const fn file(name: &'static str, answer: Answer, command: fn(&Place<'_>) -> Result<Vec<String>>) -> Server {
    Server { name, kit: Kit::Debian, protocol: Protocol::H1, answer, get: false, is_proxy: false, command }
}

const fn proxy(name: &'static str, command: fn(&Place<'_>) -> Result<Vec<String>>) -> Server {
    Server { is_proxy: true, ..echo(name, Kit::Debian, Protocol::H1, command) }
}

/// All of them.
pub(crate) const ALL: [Server; 19] = [
    echo("go", Kit::Go, Protocol::H1, |place| go(place, "h1")),
    echo("go-h2c", Kit::Go, Protocol::H2c, |place| go(place, "h2c")),
    echo("grpc-go", Kit::Go, Protocol::Grpc, |place| go(place, "grpc")),
    echo("node", Kit::Node, Protocol::H1, |place| {
        Ok(words(&["node", &place.kits.source("node/server.mjs"), &PORT.to_string()]))
    }),
    echo("http.server", Kit::Python, Protocol::H1, |place| {
        let server = place.kits.source("python/stdlib_server.py");
        Ok(words(&[&place.kits.built("python/venv/bin/python"), &server, &PORT.to_string()]))
    }),
    echo("uvicorn", Kit::Python, Protocol::H1, |place| {
        let (apps, port) = (place.kits.source("python"), PORT.to_string());
        let program = place.kits.built("python/venv/bin/uvicorn");
        Ok(words(&[&program, "--app-dir", &apps, "--host", "0.0.0.0", "--port", &port, "apps:asgi"]))
    }),
    // Its default worker closes after each response; with threads it keeps connections, for 2 s.
    echo("gunicorn", Kit::Python, Protocol::H1, |place| {
        let (apps, bind) = (place.kits.source("python"), format!("0.0.0.0:{PORT}"));
        let program = place.kits.built("python/venv/bin/gunicorn");
        Ok(words(&[&program, "--chdir", &apps, "--bind", &bind, "--threads", "64", "apps:wsgi"]))
    }),
    echo("jdk", Kit::Java, Protocol::H1, |place| java(place, "JdkServer")),
    echo("jetty", Kit::Java, Protocol::H1, |place| java(place, "JettyServer")),
    echo("jetty-duplex", Kit::Java, Protocol::H1, |place| {
        java(place, "JettyServer").map(|command| [command, words(&["duplex"])].concat())
    }),
    echo("axum", Kit::Rust, Protocol::H1, |place| rust(place, "axum")),
    echo("axum-h2c", Kit::Rust, Protocol::H2c, |place| rust(place, "axum")),
    echo("tonic", Kit::Rust, Protocol::Grpc, |place| rust(place, "tonic")),
    file("nginx", Answer::Small, |place| nginx(place, &small(place)?)),
    file("nginx-sendfile", Answer::Large, |place| nginx(place, &large(place)?)),
    proxy("nginx-proxy", |place| {
        let pool = format!("upstream app {{ server 127.0.0.1:{APP_PORT}; keepalive 64; }}");
        nginx_proxy(place, &pool, &format!("0.0.0.0:{PORT}"))
    }),
    proxy("haproxy", |place| haproxy(place, &format!("0.0.0.0:{PORT}"), &format!("127.0.0.1:{APP_PORT}"))),
    file("apache", Answer::Small, apache),
    // It closes after each POST of a file.
    Server { get: true, ..file("lighttpd", Answer::Small, lighttpd) },
];

/// The small file: with what looks like the start of a message.
pub(crate) fn small_file() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, POST / HTTP/1.1\r\n".repeat(20)
}

/// The large file: 3 MB of which no part is like another.
pub(crate) fn large_file() -> Vec<u8> {
    let lines = (0..).map(|n| format!("{n:09} HTTP/1.1 200 OK\r\n"));
    lines.take(3_000_000 / 26).flat_map(String::into_bytes).collect()
}

fn go(place: &Place<'_>, protocol: &str) -> Result<Vec<String>> {
    Ok(words(&[&place.kits.built("go/bin/server"), "-protocol", protocol, "-address", &format!(":{PORT}")]))
}

fn java(place: &Place<'_>, class: &str) -> Result<Vec<String>> {
    let path = format!("{}:{}/*", place.kits.built("java/classes"), place.kits.built("java/lib"));
    Ok(words(&["java", "-cp", &path, class, &PORT.to_string()]))
}

fn rust(place: &Place<'_>, which: &str) -> Result<Vec<String>> {
    Ok(words(&[&place.kits.built("rust/release/lastcall-compat-rust"), which, &PORT.to_string()]))
}

fn small(place: &Place<'_>) -> Result<String> {
    place.write("www/file", small_file())?;
    Ok(static_files(place))
}

fn large(place: &Place<'_>) -> Result<String> {
    place.write("www/file", large_file())?;
    Ok(static_files(place))
}

/// nginx says 405 to a POST of a file; this is how people have it answer all the same.
fn static_files(place: &Place<'_>) -> String {
    format!("server {{ listen {PORT} default_server; root {}/www; error_page 405 =200 $uri; }}", place.inside)
}

/// nginx with Debian's own settings, and this server.
fn nginx(place: &Place<'_>, server: &str) -> Result<Vec<String>> {
    let dir = &place.inside;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
        .concat();
    let conf = place.write(
        "nginx.conf",
        format!(
            "user www-data;\nworker_processes auto;\npid {dir}/nginx.pid;\ndaemon off;\nerror_log stderr;\n\
             events {{ worker_connections 768; }}\n\
             http {{\nsendfile on;\ntcp_nopush on;\ntypes_hash_max_size 2048;\n\
             default_type application/octet-stream;\naccess_log off;\n{temporary}{server}\n}}\n"
        ),
    )?;
    let mut command = place.kits.debian_program("usr/sbin/nginx")?;
    command.extend(words(&["-c", &conf, "-p", dir, "-e", "stderr"]));
    Ok(command)
}

/// nginx as a proxy that keeps its connections to the upstream `app`, as its manual has it.
pub(crate) fn nginx_proxy(place: &Place<'_>, upstream: &str, listen: &str) -> Result<Vec<String>> {
    let location = "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";";
    nginx(place, &format!("{upstream}\nserver {{ listen {listen}; location / {{ {location} }} }}"))
}

/// HAProxy with Debian's own settings.
pub(crate) fn haproxy(place: &Place<'_>, listen: &str, to: &str) -> Result<Vec<String>> {
    let conf = place.write(
        "haproxy.cfg",
        format!(
            "global\n  log stderr local0 warning\ndefaults\n  log global\n  mode http\n  option httplog\n\
             \x20 option dontlognull\n  timeout connect 5000\n  timeout client 50000\n  timeout server 50000\n\
             frontend f\n  bind {listen}\n  default_backend b\nbackend b\n  server app {to}\n"
        ),
    )?;
    let mut command = place.kits.debian_program("usr/sbin/haproxy")?;
    command.extend(words(&["-db", "-f", &conf]));
    Ok(command)
}

/// Apache httpd with the event MPM and its own limits, but for its threads: where it has fewer than there are
/// connections, or ends some that are idle, it closes kept connections without a word.
fn apache(place: &Place<'_>) -> Result<Vec<String>> {
    place.write("www/file", small_file())?;
    let (dir, modules) = (&place.inside, place.kits.debian("usr/lib/apache2/modules")?);
    let conf = place.write(
        "apache2.conf",
        format!(
            "ServerRoot {dir}\nServerName compat\nListen {PORT}\nPidFile {dir}/pid\nMutex file:{dir} default\n\
             User www-data\nGroup www-data\nErrorLog /dev/stderr\n\
             Timeout 300\nKeepAlive On\nMaxKeepAliveRequests 100\nKeepAliveTimeout 5\n\
             LoadModule mpm_event_module {modules}/mod_mpm_event.so\n\
             ThreadLimit 128\nThreadsPerChild 128\nMaxRequestWorkers 512\nStartServers 1\nMinSpareThreads 1\nMaxSpareThreads 512\n\
             LoadModule authz_core_module {modules}/mod_authz_core.so\n\
             DocumentRoot {dir}/www\n<Directory {dir}/www>\n  Require all granted\n</Directory>\n"
        ),
    )?;
    let mut command = place.kits.debian_program("usr/sbin/apache2")?;
    command.extend(words(&["-D", "FOREGROUND", "-f", &conf]));
    Ok(command)
}

fn lighttpd(place: &Place<'_>) -> Result<Vec<String>> {
    place.write("www/file", small_file())?;
    let conf = place.write(
        "lighttpd.conf",
        format!("server.document-root = \"{}/www\"\nserver.port = {PORT}\n", place.inside),
    )?;
    let modules = place.kits.debian("usr/lib/lighttpd")?;
    let mut command = place.kits.debian_program("usr/sbin/lighttpd")?;
    command.extend(words(&["-D", "-f", &conf, "-m", &modules]));
    Ok(command)
}
