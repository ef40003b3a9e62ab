//! From an HTTP request to the session that it asks for.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request as HttpRequest, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::link::Stopping;
use crate::negotiate::{self, Answer, Transport};
use crate::port_forward::{self, MAX_PAIRS, SPDY_NAME, TUNNEL_NAME};
use crate::remotecommand::{self, Command, Times};
use crate::session::Backend;
use crate::spdy::{self, Limits};
use crate::tokens::{PortForwardRequest, Request, Tokens};
use crate::websocket::{Subprotocol, Tunnel};

/// What is to be done with the connection once it is upgraded.
#[derive(Debug)]
pub(crate) enum Job {
    CommandSpdy(Command, u8),
    CommandWebSocket(Command, Subprotocol),
    PortsSpdy(PortForwardRequest),
    PortsTunnel(PortForwardRequest),
    PortsWebSocket(PortForwardRequest, Subprotocol),
}

/// The response to a request's head, and what follows if it is a 101.
pub(crate) fn answer<B>(tokens: &Tokens, request: &HttpRequest<B>) -> (Response<Full<Bytes>>, Option<Job>) {
    let (answer, job) = match route(tokens, request) {
        Ok((answer, job)) => (answer, Some(job)),
        Err(refusal) => (refusal, None),
    };
    let Answer { status, headers, text } = answer;
    let body = if text.is_empty() { Bytes::new() } else { Bytes::from(text + "\n") };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    if job.is_none() {
        // One request is all that a connection is for.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    (response, job)
}

fn route<B>(tokens: &Tokens, request: &HttpRequest<B>) -> Result<(Answer, Job), Answer> {
    let not_found =
        || Answer::refusal(StatusCode::NOT_FOUND, "404, no such URL, or it was used already or is too old");
    let path = request.uri().path();
    let (kind, token) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(not_found)?;
    if !["exec", "attach", "portforward"].contains(&kind) {
        return Err(not_found());
    }
    if ![Method::GET, Method::POST].contains(request.method()) {
        let text = format!("405, ask for it with GET or POST, not with {}", request.method());
        return Err(Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, text)
            .with(ALLOW, HeaderValue::from_static("GET, POST")));
    }
    // From here on the token is used, whatever comes of it.
    match tokens.take(kind, token).ok_or_else(not_found)? {
        Request::Exec(exec) => command(Command::Exec(exec), request),
        Request::Attach(attach) => command(Command::Attach(attach), request),
        Request::PortForward(ports) => port_forward(ports, request),
    }
}

fn command<B>(command: Command, request: &HttpRequest<B>) -> Result<(Answer, Job), Answer> {
    match negotiate::transport(request.headers())? {
        Transport::Spdy => {
            let (name, answer) = negotiate::spdy(request.headers(), &remotecommand::SPDY_NAMES)?;
            Ok((answer, Job::CommandSpdy(command, remotecommand::version(name))))
        }
        Transport::WebSocket => {
            let (name, answer) =
                negotiate::websocket(request.method(), request.headers(), &Subprotocol::NAMES)?;
            Ok((answer, Job::CommandWebSocket(command, Subprotocol::of(name))))
        }
    }
}

fn port_forward<B>(
    mut wanted: PortForwardRequest,
    request: &HttpRequest<B>,
) -> Result<(Answer, Job), Answer> {
    match negotiate::transport(request.headers())? {
        Transport::Spdy => {
            let (_, answer) = negotiate::spdy(request.headers(), &[SPDY_NAME])?;
            Ok((answer, Job::PortsSpdy(wanted)))
        }
        Transport::WebSocket => {
            let mut known = vec![TUNNEL_NAME];
            known.extend(Subprotocol::NAMES);
            let (name, answer) = negotiate::websocket(request.method(), request.headers(), &known)?;
            if name == Some(TUNNEL_NAME) {
                return Ok((answer, Job::PortsTunnel(wanted)));
            }
            if wanted.ports.is_empty() {
                wanted.ports = query_ports(request.uri().query().unwrap_or_default())?;
            }
            let protocol = Subprotocol::of(name);
            let (count, limit) = (wanted.ports.len(), protocol.channels() / 2);
            if count == 0 || count > limit {
                let text =
                    format!("over WebSocket channels 1 to {limit} ports have to be named, not {count}");
                return Err(Answer::refusal(StatusCode::BAD_REQUEST, text));
            }
            Ok((answer, Job::PortsWebSocket(wanted, protocol)))
        }
    }
}

/// `port=80,443&ports=8080`: the kubelet's name for it, and the API server's.
fn query_ports(query: &str) -> Result<Vec<u16>, Answer> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| ["port", "ports"].contains(name))
        // A comma may be escaped; digits never are.
        .flat_map(|(_, value)| {
            value.split(',').flat_map(|value| value.split("%2C")).flat_map(|value| value.split("%2c"))
        })
        .map(|text| {
            port_forward::port(text).ok_or_else(|| {
                Answer::refusal(
                    StatusCode::BAD_REQUEST,
                    format!("port {text:?} of the query is not in 1..=65535"),
                )
            })
        })
        .collect()
}

impl Job {
    /// Runs the session on the upgraded connection.
    pub async fn run<T>(self, io: T, backend: Arc<dyn Backend>, times: Times, mut stopping: Stopping)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (backend, stopping) = (&*backend, &mut stopping);
        let limits = Limits { idle: times.idle, ..Limits::default() };
        // A pair is two streams; one too many is refused by its name, not by its number.
        let many = Limits { max_streams: 2 * MAX_PAIRS + 48, ..limits };
        match self {
            Self::CommandSpdy(command, version) => {
                let (connection, accept) = spdy::serve(io, limits);
                remotecommand::serve_spdy(connection, accept, version, command, backend, times, stopping)
                    .await;
            }
            Self::CommandWebSocket(command, protocol) => {
                remotecommand::serve_websocket(io, protocol, command, backend, times, stopping).await;
            }
            Self::PortsSpdy(request) => {
                let (connection, accept) = spdy::serve(io, many);
                let pod = &request.pod_sandbox_id;
                port_forward::serve_spdy(connection, accept, pod, backend, times, stopping).await;
            }
            Self::PortsTunnel(request) => {
                let (connection, accept) = spdy::serve(Tunnel::new(io).await, many);
                let pod = &request.pod_sandbox_id;
                port_forward::serve_spdy(connection, accept, pod, backend, times, stopping).await;
            }
            Self::PortsWebSocket(request, protocol) => {
                let PortForwardRequest { pod_sandbox_id, ports } = request;
                port_forward::serve_websocket(
                    io,
                    protocol,
                    &pod_sandbox_id,
                    &ports,
                    backend,
                    times,
                    stopping,
                )
                .await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_query() {
        let ports = |query| query_ports(query).map_err(|refusal| refusal.status);
        assert_eq!(ports(""), Ok(vec![]));
        assert_eq!(ports("port=80%2C81&x=1&ports=443,8080"), Ok(vec![80, 81, 443, 8080]));
        assert_eq!(ports("port="), Err(StatusCode::BAD_REQUEST));
        assert_eq!(ports("ports=80,0"), Err(StatusCode::BAD_REQUEST));
    }
}
