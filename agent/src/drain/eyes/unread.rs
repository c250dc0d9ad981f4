//! Looks for large requests that their app has read, where no packet of the pod does it.
//!
//! In: whether any waits. Out: the kernel's program run in the pod's namespace, which goes by what the sockets say.
//! Only on kernels where a socket in a map does not tell how much is to be read (`announce.rs`, `SMALL_REQUEST`).

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    kernel::{LastCall, observer::PodNumber},
    sockets::Namespace,
};

/// A client that is alone is told where its answer takes longer than this, with luck also where it does not.
const PERIOD: Duration = Duration::from_millis(5);

/// Looks, until it is dropped.
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(announcer: Arc<LastCall>, pod: PodNumber, namespace: Namespace) -> Self {
        Self(tokio::spawn(async move {
            let mut period = interval(PERIOD);
            period.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                period.tick().await;
                if !announcer.has_unread() {
                    continue;
                }
                let announcer = Arc::clone(&announcer);
                match namespace.within(move || announcer.look(pod)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => {
                        let error = crate::causes(&e);
                        tracing::warn!(error, "clients of large requests are told by chance");
                        return;
                    }
                    Err(_) => return,
                }
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
