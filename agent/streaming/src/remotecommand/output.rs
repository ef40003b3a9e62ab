//! A process's output to the client, and when it is over.
//!
//! EOF is the end. After the process's own end EOF may never come: a grandchild may hold the pipe. What is left in it is
//! delivered, and then silence is taken for EOF.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::link::Writer;
use crate::session::Source;

/// Bytes read at a time, all that is held for a slow client.
const PIECE: usize = 32 * 1024;
/// Silence after the process's end.
const QUIET: Duration = Duration::from_secs(2);
/// Bytes read after the process's end: as much as fits into a pipe whose size was raised to the usual maximum. A
/// grandchild that writes on is not the command's output.
const LEFTOVER: usize = 1024 * 1024;

/// Copies until the end, and half-closes. For a client that is gone nothing is read any more; what no client has asked for is
/// thrown away.
pub(super) async fn output(
    from: Option<Source>,
    mut to: Option<&mut Writer>,
    mut ended: watch::Receiver<bool>,
) {
    if let Some(mut from) = from {
        let mut buffer = vec![0; PIECE];
        let mut leftover = 0;
        while leftover < LEFTOVER {
            // A source that is always ready would keep the session from seeing that its client is gone.
            tokio::task::coop::consume_budget().await;
            let Some(count) = read(&mut from, &mut buffer, &mut ended).await else { break };
            if *ended.borrow() {
                leftover += count;
            }
            if let Some(writer) = to.as_deref_mut()
                && writer.write(&buffer[..count]).await.is_err()
            {
                return;
            }
        }
    }
    if let Some(writer) = to {
        writer.finish().await;
    }
}

/// The next bytes' count; `None` at the end. An error is one too: a terminal whose last process is gone reads as EIO.
async fn read(from: &mut Source, buffer: &mut [u8], ended: &mut watch::Receiver<bool>) -> Option<usize> {
    let read = loop {
        if *ended.borrow_and_update() {
            break timeout(QUIET, from.read(buffer)).await.ok()?;
        }
        tokio::select! {
            biased;
            read = from.read(buffer) => break read,
            _ = ended.changed() => {}
        }
    };
    read.ok().filter(|count| *count > 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_after_the_end_is_the_end() {
        let (mut held, read) = tokio::io::duplex(64);
        let (over, ended) = watch::channel(false);
        let copy = tokio::spawn(output(Some(Box::new(read)), None, ended));
        tokio::io::AsyncWriteExt::write_all(&mut held, b"x").await.unwrap();
        over.send_replace(true);
        timeout(QUIET * 5, copy).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_grandchild_that_writes_on_is_cut_off() {
        let (over, ended) = watch::channel(true);
        timeout(QUIET, output(Some(Box::new(tokio::io::repeat(7))), None, ended)).await.unwrap();
        drop(over);
    }
}
