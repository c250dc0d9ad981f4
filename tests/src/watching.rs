//! What the agent says of one pod's drain, and waiting until it says something else.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::agent::{Agent, HOOK_PORT};
use crate::pod::Pod;

/// A status that is not there by then will never be.
const SOON: Duration = Duration::from_secs(30);
/// Nothing announces a change of the status.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Agent {
    /// `GET /status/NAMESPACE/POD`: the pod's drain with its connections; `None` while it does not drain.
    pub fn drain(&self, pod: &Pod) -> Result<Option<Value>> {
        match self.get(HOOK_PORT, &format!("/status/default/{}", pod.name()))? {
            (404, _) => Ok(None),
            (200, body) => Ok(Some(serde_json::from_str(&body)?)),
            (status, body) => bail!("the status of {} answered {status}: {body}", pod.name()),
        }
    }

    /// Waits until the pod's drain is as `wanted`, and returns it.
    pub fn sees(&self, pod: &Pod, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + SOON;
        loop {
            let drain = self.drain(pod)?;
            match drain {
                Some(drain) if wanted(&drain) => return Ok(drain),
                other if Instant::now() > until => bail!("{} stays as it is: {other:#?}", pod.name()),
                _ => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Waits until the pod's drain says that it waits for something with `text` in it.
    pub fn says(&self, pod: &Pod, text: &str) -> Result<()> {
        self.sees(pod, |drain| drain["waiting_for"].as_str().is_some_and(|said| said.contains(text)))
            .map(drop)
    }
}
