//! Sockets and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

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
