//! The connections that an earlier agent held, made again before anybody listens.
//!
//! A listener answers a keep-alive of a connection that is not there with a reset, where an address without
//! one says nothing. So they have to be there first.

use std::{net::TcpStream, sync::Arc, time::Duration};

use super::{HELD_VERSION, HeldError, HeldRecord, HeldStore, hold, restore};

/// Tries, and the time between two: the last agent may be ending just now, and closing them one by one.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What an earlier agent held. In TCP_REPAIR: if this process dies before it serves them, they are what they
/// were.
#[derive(Debug, Default)]
pub struct Returned(pub(in crate::hook) Vec<(TcpStream, HeldRecord)>);

impl Returned {
    /// Makes them again. What cannot be made now is left in the store, for the server.
    pub async fn from_store(store: &Arc<dyn HeldStore>) -> Self {
        let mut missing = store.load_all();
        missing.retain(|record| record.version == HELD_VERSION);
        let mut returned = Vec::with_capacity(missing.len());
        for _ in 0..TRIES {
            missing.retain(|record| match restore(&record.connection) {
                Ok(stream) => {
                    // Where the caller has gone meanwhile, the server finds that out.
                    let _ = hold(&stream);
                    returned.push((stream, *record));
                    false
                }
                Err(HeldError::StillHeld { .. }) => true,
                Err(_) => false,
            });
            if missing.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Self(returned)
    }
}
