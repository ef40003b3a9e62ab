//! The upgrade: which transport, and which of the names that the client lists.
//!
//! The rules are those of k8s.io/streaming's `httpstream.Handshake` for SPDY and of RFC 6455, section 4.2, for WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sha1::{Digest, Sha1};

/// The name in `Upgrade`.
const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the client wants to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy,
    WebSocket,
}

/// A response's head: the 101, or a refusal with its sentence.
///
/// No colon and space in a sentence: client-go's WebSocket reads it as YAML, takes what comes out of it for an empty
/// Status, and shows nothing at all.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub text: String,
}

impl Answer {
    pub fn refusal(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), text: text.into() }
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn upgrade(to: &'static str) -> Self {
        Self::refusal(StatusCode::SWITCHING_PROTOCOLS, "")
            .with(CONNECTION, HeaderValue::from_static("Upgrade"))
            .with(UPGRADE, HeaderValue::from_static(to))
    }
}

/// The values of a header that may be repeated and comma separated. What is not visible ASCII is no name that we know.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// Which transport the headers ask for.
pub(crate) fn transport(headers: &HeaderMap) -> Result<Transport, Answer> {
    let upgrades = list(headers, &UPGRADE);
    if list(headers, &CONNECTION).iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
        if upgrades.iter().any(|token| token.eq_ignore_ascii_case("websocket")) {
            return Ok(Transport::WebSocket);
        }
        if upgrades.iter().any(|token| token.eq_ignore_ascii_case(SPDY)) {
            return Ok(Transport::Spdy);
        }
    }
    Err(Answer::refusal(
        StatusCode::BAD_REQUEST,
        "unable to upgrade, this address speaks SPDY/3.1 and WebSocket, \
         the header Connection has to say Upgrade, the header Upgrade one of the two",
    ))
}

/// The first protocol of the client's list that is `known`, and the 101.
pub(crate) fn spdy(headers: &HeaderMap, known: &[&'static str]) -> Result<(&'static str, Answer), Answer> {
    let offered = list(headers, &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(Answer::refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade, the header X-Stream-Protocol-Version is missing or names no protocol",
        ));
    }
    match first_known(&offered, known) {
        Some(name) => Ok((name, Answer::upgrade(SPDY).with(STREAM_PROTOCOL, HeaderValue::from_static(name)))),
        None => Err(known.iter().fold(none_known(&offered, known), |answer, name| {
            answer.with(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name))
        })),
    }
}

/// The first subprotocol of the client's list that is `known`, `None` when it lists none, and the 101.
pub(crate) fn websocket(
    method: &Method,
    headers: &HeaderMap,
    known: &[&'static str],
) -> Result<(Option<&'static str>, Answer), Answer> {
    if method != Method::GET {
        return Err(Answer::refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("unable to upgrade, a WebSocket opens with GET, not {method}"),
        )
        .with(ALLOW, HeaderValue::from_static("GET")));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Answer::refusal(
            StatusCode::UPGRADE_REQUIRED,
            "unable to upgrade, Sec-WebSocket-Version has to be 13",
        )
        .with(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().trim_ascii()).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != 16 {
        return Err(Answer::refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade, Sec-WebSocket-Key has to be the base64 of 16 bytes",
        ));
    }
    let accept = accept_key(key);
    let accepted = Answer::upgrade("websocket").with(SEC_WEBSOCKET_ACCEPT, accept);
    let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        return Ok((None, accepted));
    }
    match first_known(&offered, known) {
        Some(name) => Ok((Some(name), accepted.with(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name)))),
        None => Err(none_known(&offered, known)),
    }
}

fn first_known(offered: &[String], known: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|offer| known.iter().find(|name| *name == offer).copied())
}

fn none_known(offered: &[String], known: &[&'static str]) -> Answer {
    let (offered, known) = (offered.join(", "), known.join(", "));
    Answer::refusal(
        StatusCode::FORBIDDEN,
        format!("unable to upgrade, the client offers {offered}, this server knows {known}"),
    )
}

/// RFC 6455, section 4.2.2, point 5.4.
fn accept_key(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(WEBSOCKET_GUID).finalize();
    // Base64 is visible ASCII: the fallback is never taken.
    HeaderValue::try_from(STANDARD.encode(digest)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        map
    }

    #[test]
    fn tokens_of_connection_are_found_in_any_case() {
        let of = |connection, upgrade| {
            transport(&headers(&[("connection", connection), ("upgrade", upgrade)]))
                .map_err(|answer| answer.status)
        };
        assert_eq!(of("Upgrade", "SPDY/3.1"), Ok(Transport::Spdy));
        assert_eq!(of("keep-alive, UPGRADE", "spdy/3.1"), Ok(Transport::Spdy));
        assert_eq!(of("upgrade", "WebSocket"), Ok(Transport::WebSocket));
        assert_eq!(of("close", "websocket"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(of("upgrade", "h2c"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(transport(&HeaderMap::new()).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_clients_order_decides() {
        let known = &["v4.channel.k8s.io", "channel.k8s.io"];
        let name = "x-stream-protocol-version";
        let chosen = |pairs: &[(&str, &str)]| spdy(&headers(pairs), known).map(|(name, _)| name);
        assert_eq!(
            chosen(&[(name, "v9, channel.k8s.io"), (name, "v4.channel.k8s.io")]).unwrap(),
            "channel.k8s.io"
        );
        assert_eq!(chosen(&[(name, "v4.channel.k8s.io")]).unwrap(), "v4.channel.k8s.io");
        assert_eq!(chosen(&[]).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(chosen(&[(name, " , ")]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let refusal = chosen(&[(name, "v9")]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers.iter().filter(|(name, _)| name == ACCEPTED_PROTOCOLS).count(), 2);
    }

    #[test]
    fn the_key_of_rfc_6455_gives_its_accept() {
        let head = headers(&[
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "a, b"),
        ]);
        let (name, answer) = websocket(&Method::GET, &head, &["b"]).unwrap();
        assert_eq!(name, Some("b"));
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(answer.headers.contains(&(SEC_WEBSOCKET_ACCEPT, accept)));
        assert_eq!(websocket(&Method::GET, &head, &["c"]).unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(
            websocket(&Method::POST, &head, &["b"]).unwrap_err().status,
            StatusCode::METHOD_NOT_ALLOWED
        );
        let short = headers(&[("sec-websocket-version", "13"), ("sec-websocket-key", "c2hvcnQ=")]);
        assert_eq!(websocket(&Method::GET, &short, &[]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let old = headers(&[("sec-websocket-version", "8")]);
        assert_eq!(websocket(&Method::GET, &old, &[]).unwrap_err().status, StatusCode::UPGRADE_REQUIRED);
    }
}
