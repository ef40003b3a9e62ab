//! A client's ends of a session.

use super::status::Ending;
use crate::channel::Incoming;
use crate::link::{Link, Writer};
use crate::spdy;

/// What the client has opened, out of what it asked for.
pub(super) struct Streams {
    pub link: Link,
    pub version: u8,
    pub stdin: Option<Incoming>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    pub resize: Option<Incoming>,
    pub status: Writer,
    /// Directions to the client on which nothing is ever said, stdin's and resize's. Kept open until the end: client-go
    /// takes stdin's end for the session's.
    pub silent: Vec<Writer>,
    /// Where more streams would come out.
    pub more: Option<spdy::Accept>,
}

impl Streams {
    /// Ends the output, then says how it went, then ends the rest: in that order clients read it. Whether there is still
    /// somebody to read is not known here.
    pub async fn conclude(&mut self, ending: &Ending) {
        for output in self.stdout.iter_mut().chain(self.stderr.iter_mut()) {
            output.finish().await;
        }
        let body = ending.body(self.version);
        if !body.is_empty() {
            let _ = self.status.write(&body).await;
        }
        self.status.finish().await;
        for silent in &mut self.silent {
            silent.finish().await;
        }
    }
}
