//! What the demo is doing: one line that changes on a terminal, a line per step elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by the rows that run.
pub(crate) struct Progress {
    is_terminal: bool,
    state: Mutex<State>,
}

struct State {
    title: String,
    steps: BTreeMap<&'static str, String>,
    started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let state = State { title: String::new(), steps: BTreeMap::new(), started: Instant::now() };
        Self { is_terminal: io::stdout().is_terminal(), state: Mutex::new(state) }
    }

    /// A row begins.
    pub(crate) fn begin(&self, title: &str) {
        let mut state = self.state();
        *state = State { title: title.to_owned(), steps: BTreeMap::new(), started: Instant::now() };
        drop(state);
        self.draw();
    }

    /// What `load` is doing now.
    pub(crate) fn step(&self, load: &'static str, text: &str) {
        let mut state = self.state();
        if !self.is_terminal {
            let (title, at) = (&state.title, state.started.elapsed().as_secs_f64());
            println!("{title:18} {at:5.1} s  {load}: {text}");
        }
        state.steps.insert(load, text.to_owned());
        drop(state);
        self.draw();
    }

    /// The row is over; `summary` stays.
    pub(crate) fn end(&self, summary: &str) {
        let state = self.state();
        let (title, took) = (&state.title, state.started.elapsed().as_secs_f64());
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        println!("{clear}{title:18} {took:5.1} s  {summary}");
    }

    fn draw(&self) {
        if self.is_terminal {
            let state = self.state();
            let steps: Vec<String> =
                state.steps.iter().map(|(load, text)| format!("{load}: {text}")).collect();
            // Without line wrap: what is too wide is cut off, and the next line finds this one's start.
            print!("\r\x1b[K\x1b[?7l{:18} {}\x1b[?7h", state.title, steps.join(" · "));
            let _ = io::stdout().flush();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
