//! Sockets and addresses.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Rest of accept(2) after an error that another try will not cure, EMFILE above all.
const REST: Duration = Duration::from_millis(100);

/// The next connection of a listener, by its `poll_accept`. Without descriptors accept(2) fails at once and leaves the client in
/// the queue, so a failure is logged once and followed by a rest. Cancel safe.
pub async fn accept<S, A>(mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, A)>>) -> S {
    let mut warned = false;
    loop {
        match poll_fn(&mut poll_accept).await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if !warned {
                    let error = holdfast_model::chain(&error);
                    tracing::warn!(error, "could not accept a connection, trying again");
                }
                warned = true;
                sleep(REST).await;
            }
        }
    }
}

/// Keystrokes are not to wait for company, and a client whose node lost power is to be noticed before the idle limit.
pub(crate) fn tune(stream: &TcpStream) {
    let keep_alive = || {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(stream, 4)
    };
    if let Err(error) = keep_alive() {
        tracing::debug!(%error, "options of a streaming client's socket");
    }
}

/// HOST:PORT of the URLs.
pub(crate) fn authority(address: SocketAddr, advertise: Option<&str>) -> String {
    let port = address.port();
    match (advertise, address.ip()) {
        (Some(host), _) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        (Some(host), _) => format!("{host}:{port}"),
        (None, IpAddr::V4(ip)) if ip.is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
        }
        (None, IpAddr::V6(ip)) if ip.is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)).to_string()
        }
        (None, _) => address.to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn urls_name_an_address_that_can_be_reached() {
        let of = |address: &str, advertise| authority(address.parse().unwrap(), advertise);
        assert_eq!(of("127.0.0.1:80", None), "127.0.0.1:80");
        assert_eq!(of("0.0.0.0:80", None), "127.0.0.1:80");
        assert_eq!(of("[::]:80", None), "[::1]:80");
        assert_eq!(of("[fd00::1]:80", None), "[fd00::1]:80");
        assert_eq!(of("0.0.0.0:80", Some("node-1")), "node-1:80");
        assert_eq!(of("[::]:80", Some("fd00::2")), "[fd00::2]:80");
    }
}
