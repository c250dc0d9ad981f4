//! Running other programs: bounded in time, watched, and free of our own cargo's environment.

use std::{
    env,
    io::{self, IsTerminal as _, Read, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Variables by which the network and the registry are reached: these an inner cargo needs too.
const KEPT: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "CARGO_BUILD_JOBS",
];

/// Removes what the outer cargo and rustup set, and what the user set for the host's compiler.
///
/// With `RUSTUP_TOOLCHAIN`, `RUSTC`, `RUSTFLAGS` or the compiler's libraries inherited, the build for
/// the kernel would use the wrong compiler, or the right one with the wrong flags.
pub(crate) fn without_our_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text.starts_with("CARGO") && !KEPT.iter().any(|k| text.starts_with(k));
        let compilers = ["RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT"]
            .iter()
            .any(|k| text.starts_with(k));
        if cargos || compilers {
            command.env_remove(&name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        let theirs: Vec<PathBuf> = env::split_paths(&path).filter(|p| !is_cargos(p)).collect();
        match env::join_paths(&theirs) {
            Ok(path) if !theirs.is_empty() => command.env("LD_LIBRARY_PATH", path),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// `cargo run` puts the target directory and the compiler's own libraries into the search path.
fn is_cargos(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/toolchains/") || text.contains("/rustlib/") || text.contains("/target/")
}

/// Runs to success, or fails with the command and how it ended.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let status = run_for(command, limit)?;
    ensure!(status.success(), "`{}` failed ({status})", shown(command));
    Ok(())
}

/// Runs to its end; after `limit` it is told to end, and five seconds later it is ended.
pub(crate) fn run_for(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`", shown(command)))?;
    wait(&mut child, limit)?
        .with_context(|| format!("`{}` took longer than {} s and was ended", shown(command), limit.as_secs()))
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    // By `kill`, not by the handle: SIGTERM lets sudo pass it on and fixtures clean up.
    for (signal, patience) in [("TERM", 5), ("KILL", 1)] {
        let end = ["-s", signal, &child.id().to_string()];
        if !Command::new("kill").args(end).stderr(Stdio::null()).status()?.success() {
            crate::root::command("kill", &[]).args(end).stderr(Stdio::null()).status()?;
        }
        let until = Instant::now() + Duration::from_secs(patience);
        while Instant::now() < until {
            if child.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    bail!("process {} cannot be ended", child.id())
}

/// Which of a program's streams to listen to.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a program ended, if it did so in time, and what it said on one stream.
pub(crate) struct Watched {
    /// Nothing: it was ended for taking too long.
    pub status: Option<ExitStatus>,
    /// All of the stream.
    pub said: String,
}

/// Runs without a word; a failure carries the program's own first line about an error.
pub(crate) fn run_silent(command: &mut Command, limit: Duration) -> Result<()> {
    let heard = listen(command.stdout(Stdio::null()), Stream::Err, false, limit)?;
    let Some(status) = heard.status else {
        bail!("`{}` took longer than {} s and was ended", shown(command), limit.as_secs());
    };
    let reason = heard.said.lines().find_map(|l| l.strip_prefix("error: ")).unwrap_or("it does not say why");
    ensure!(status.success(), "`{}` failed ({status}): {reason}", shown(command));
    Ok(())
}

/// Runs with one stream both shown as it comes and returned.
pub(crate) fn run_watched(command: &mut Command, stream: Stream, limit: Duration) -> Result<Watched> {
    listen(command, stream, true, limit)
}

/// Runs with one stream returned, and not shown.
pub(crate) fn run_heard(command: &mut Command, stream: Stream, limit: Duration) -> Result<Watched> {
    listen(command, stream, false, limit)
}

fn listen(command: &mut Command, stream: Stream, show: bool, limit: Duration) -> Result<Watched> {
    match stream {
        Stream::Out => command.stdout(Stdio::piped()),
        Stream::Err => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`", shown(command)))?;
    let pipe: Option<Box<dyn Read + Send>> = match stream {
        Stream::Out => child.stdout.take().map(|p| Box::new(p) as _),
        Stream::Err => child.stderr.take().map(|p| Box::new(p) as _),
    };
    let pipe = pipe.context("the stream is piped")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || show_and_send(pipe, show.then_some(stream), &sender));
    let status = wait(&mut child, limit)?;
    // A process that outlives its parent may hold the pipe for ever; what is on the way comes at once.
    let mut said = Vec::new();
    while let Ok(bytes) = receiver.recv_timeout(Duration::from_secs(1)) {
        said.extend(bytes);
    }
    Ok(Watched { status, said: String::from_utf8_lossy(&said).into_owned() })
}

fn show_and_send(mut pipe: Box<dyn Read + Send>, show: Option<Stream>, to: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        // Nobody to show it to is no reason to stop listening.
        let _ = match show {
            None => Ok(()),
            Some(Stream::Out) => io::stdout().write_all(&buffer[..n]).and_then(|()| io::stdout().flush()),
            Some(Stream::Err) => io::stderr().write_all(&buffer[..n]),
        };
        if to.send(buffer[..n].to_vec()).is_err() {
            return;
        }
    }
}

/// Standard output of a short question to a program, or nothing if it cannot answer.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first of the programs of this name on the search path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    // Not every user's path holds the folders where iproute2 and its like live.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// For cargo's `--color`: our pipe hides the terminal from it.
pub(crate) fn colour() -> &'static str {
    if io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none() { "always" } else { "never" }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
