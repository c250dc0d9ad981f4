//! Something that somebody does again and again, until told to stop.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An action that is repeated on a thread of its own; dropping the handle ends it, after the action that
/// is under way.
#[derive(Debug)]
pub struct Repeated {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<u32>>,
}

impl Repeated {
    /// Does it at once, and then every `period`, as the clock has it: one that takes long is followed by
    /// the next without a pause.
    pub fn every(period: Duration, mut action: impl FnMut() + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut times = 0;
            loop {
                action();
                times += 1;
                let pause = (start + period * times).saturating_duration_since(Instant::now());
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return times;
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Ends it, and says how often it was done.
    pub fn stop(mut self) -> u32 {
        self.end()
    }

    fn end(&mut self) -> u32 {
        self.stop.take();
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.end();
    }
}
