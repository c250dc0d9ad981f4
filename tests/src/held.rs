//! A client in flight: whom a drain waits for until the test has him answered.

use anyhow::Result;

use crate::Conn;

/// Both ends of a connection with a request that the app has read.
#[derive(Debug)]
pub struct Held {
    conn: Conn,
    served: Conn,
}

impl Held {
    /// Asks on a connection of which `served` is the pod's end.
    pub fn ask(mut conn: Conn, mut served: Conn) -> Result<Self> {
        conn.get("/held")?;
        served.request()?;
        Ok(Self { conn, served })
    }

    /// Has the answer, and stays.
    pub fn answer(&mut self) -> Result<()> {
        self.served.respond("that is all")?;
        self.conn.response().map(drop)
    }

    /// Has the answer, and is gone.
    pub fn leaves(mut self) -> Result<()> {
        self.answer()?;
        self.conn.close();
        self.served.close();
        Ok(())
    }
}
