//! One forwarded connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::sync::oneshot;

use crate::channel::Incoming;
use crate::link::Writer;
use crate::session::{Duplex, Failure, Task};

/// Bytes read from the pod at a time. There may be a thousand of these.
const PIECE: usize = 16 * 1024;

/// The client's ends of it.
pub(super) struct Ends {
    pub data_in: Incoming,
    pub data_out: Writer,
    pub error: Writer,
    /// Whether the client learns of the pod's half close, and may then send on. Over channels it does not, and the pod's
    /// end is the whole connection's.
    pub half_closes: bool,
}

/// The connection in the pod broke, or the client is gone.
struct Broken;

/// Connects and copies until both directions are over, or one of them is broken. `port` is for the sentence of a failure.
pub(super) async fn relay(ends: Ends, port: u16, connect: Task<Result<Box<dyn Duplex>, Failure>>) {
    let Ends { data_in, mut data_out, mut error, half_closes } = ends;
    match connect.await {
        Ok(duplex) => {
            let result = copy(data_in, &mut data_out, duplex, half_closes).await;
            // Text here makes client-go give up all of its connections, so a connection that breaks is reset instead.
            if result.is_err() {
                data_out.reset().await;
            }
            error.finish().await;
        }
        Err(failure) => {
            let _ = error.write(format!("forward port {port}: {failure}").as_bytes()).await;
            error.finish().await;
            data_out.reset().await;
        }
    }
}

async fn copy(
    mut from_client: Incoming,
    to_client: &mut Writer,
    duplex: Box<dyn Duplex>,
    half_closes: bool,
) -> Result<(), Broken> {
    let (mut from_pod, mut to_pod) = split(duplex);
    let dead = to_client.dead();
    let (over, when_over) = oneshot::channel::<()>();
    let up = async {
        while let Some(bytes) = from_client.read().await {
            if to_pod.write_all(&bytes).await.is_err() || to_pod.flush().await.is_err() {
                // The pod reads no more; it may still have something to say, and if not, reading tells.
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; PIECE];
        loop {
            match from_pod.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => to_client.write(&buffer[..count]).await.map_err(|_| Broken)?,
                Err(_) => return Err(Broken),
            }
        }
        to_client.finish().await;
        drop(over);
        Ok(())
    };
    if half_closes {
        // A half close and a reset look the same to a reader, and to a half close the pod may be silent for as long as it
        // likes.
        let up = async {
            up.await;
            tokio::select! {
                () = dead => Err(Broken),
                _ = when_over => Ok(()),
            }
        };
        tokio::try_join!(up, down).map(|_| ())
    } else {
        tokio::select! {
            result = down => result,
            () = async { up.await; std::future::pending().await } => Ok(()),
        }
    }
}
