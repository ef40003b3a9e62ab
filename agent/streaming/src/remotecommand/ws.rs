//! A session's streams over WebSocket: channels that are there from the start.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Command, Streams, Times, run};
use crate::channel::{QUEUE_BYTES, queue};
use crate::link::{Link, Stopping, Writer};
use crate::session::Backend;
use crate::websocket::{self, Subprotocol};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// Serves one session on an upgraded connection.
pub(crate) async fn serve<T>(
    io: T,
    protocol: Subprotocol,
    command: Command,
    backend: &dyn Backend,
    times: Times,
    stopping: &mut Stopping,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wanted = command.wanted();
    let (stdin_feeder, stdin) = queue(QUEUE_BYTES);
    let (resize_feeder, resize) = queue(QUEUE_BYTES);
    let feeders =
        vec![wanted.stdin.then_some(stdin_feeder), None, None, None, wanted.tty.then_some(resize_feeder)];
    let connection = websocket::serve(io, protocol, feeders, times.idle).await;
    let channel = |number| Writer::Channel(connection.channel(protocol, number));
    // An empty message on the lowest channel that we write says that the session is there; clients of the older
    // subprotocols wait for it.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    let mut greeting = channel(first);
    let streams = Streams {
        link: Link::WebSocket(connection.clone()),
        version: protocol.version,
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then(|| channel(STDOUT)),
        stderr: wanted.stderr.then(|| channel(STDERR)),
        resize: wanted.tty.then_some(resize),
        status: channel(ERROR),
        silent: vec![channel(STDIN)],
        more: None,
    };
    if greeting.write(b"").await.is_ok() {
        drop(greeting);
        run(streams, command, backend, times, stopping).await;
    }
}
