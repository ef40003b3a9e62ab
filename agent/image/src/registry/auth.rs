//! Credentials: for which host they are, and the token they buy (distribution spec, token authentication).

use base64::Engine as _;
use holdfast_model::Credentials;
use http_auth::ChallengeRef;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

/// What the user has given, in the form in which it is sent.
#[derive(Clone, Default)]
pub(super) enum Secret {
    /// Nothing.
    #[default]
    None,
    /// User and password.
    Basic(String, String),
    /// OAuth refresh token.
    Refresh(String),
    /// A bearer token, sent as it is.
    Bearer(String),
}

impl Secret {
    /// The secret in CRI's AuthConfig; as in containerd an identity token wins.
    pub(super) fn of(credentials: &Credentials) -> Self {
        if !credentials.identity_token.is_empty() {
            return Self::Refresh(credentials.identity_token.clone());
        }
        if !credentials.registry_token.is_empty() {
            return Self::Bearer(credentials.registry_token.clone());
        }
        if !credentials.username.is_empty() || !credentials.password.is_empty() {
            return Self::Basic(credentials.username.clone(), credentials.password.clone());
        }
        let decoded =
            base64::engine::general_purpose::STANDARD.decode(credentials.auth.trim()).unwrap_or_default();
        match String::from_utf8(decoded).ok().as_deref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) => {
                Self::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            None => Self::None,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// `Authorization` for a host that takes them directly.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Basic(user, password) => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                sensitive(&format!("Basic {pair}"))
            }
            Self::Bearer(token) => sensitive(&format!("Bearer {token}")),
            Self::None | Self::Refresh(_) => None,
        }
    }
}

/// A header value that `Debug` does not show.
pub(super) fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether credentials for `server_address` (empty: the image's registry) may go to the host at `url`. A mirror gets
/// them only if they name it.
pub(super) fn are_for(server_address: &str, registry: &str, url: &Url, server: bool) -> bool {
    let target = if server_address.is_empty() { registry } else { authority(server_address) };
    let same = canonical(target) == canonical(registry);
    let direct = url.host_str().is_some_and(|host| {
        let with_port = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        canonical(target) == canonical(&with_port)
    });
    if server { same || direct } else { direct }
}

/// `host[:port]` of what may be a URL.
fn authority(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.trim_end_matches(":443") {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// How a host wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With the secret itself.
    Basic,
    /// With a token from `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The challenge of a 401 that we can answer; a token is preferred.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values: Vec<&str> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .take(8)
            .filter_map(|value| value.to_str().ok())
            .collect();
        let challenges: Vec<ChallengeRef<'_>> =
            values.iter().filter_map(|value| http_auth::parse_challenges(value).ok()).flatten().collect();
        let bearer = challenges.iter().find_map(|challenge| {
            let find = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let is_bearer = challenge.scheme.eq_ignore_ascii_case("bearer");
            let realm = find("realm").filter(|_| is_bearer)?;
            Some(Self::Bearer { realm, service: find("service"), scope: find("scope") })
        });
        bearer.or_else(|| {
            let basic = challenges.iter().any(|challenge| challenge.scheme.eq_ignore_ascii_case("basic"));
            basic.then_some(Self::Basic)
        })
    }
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl TokenResponse {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let token = if self.token.is_empty() { &self.access_token } else { &self.token };
        if token.is_empty() { None } else { sensitive(&format!("Bearer {token}")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn for_which_host() {
        let cases = [
            ("", "r.io", "https://r.io/v2", true, true),
            ("", "r.io", "https://mirror.io/v2", false, false),
            ("", "r.io", "https://elsewhere.io/v2", true, true),
            ("r.io", "r.io", "https://r.io/v2", true, true),
            ("https://r.io/v1/", "r.io", "https://r.io/v2", true, true),
            ("other.io", "r.io", "https://r.io/v2", true, false),
            ("mirror.io", "r.io", "https://mirror.io/v2", false, true),
            ("mirror.io", "r.io", "https://r.io/v2", true, false),
            ("https://index.docker.io/v1/", "docker.io", "https://registry-1.docker.io/v2", true, true),
            ("r.io:5000", "r.io", "https://r.io/v2", true, false),
            ("127.0.0.1:5000", "127.0.0.1:5000", "http://127.0.0.1:5000/v2", true, true),
        ];
        for (address, registry, url, server, want) in cases {
            assert_eq!(
                are_for(address, registry, &url.parse().unwrap(), server),
                want,
                "{address} {registry} {url}"
            );
        }
    }

    #[test]
    fn challenges() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
            }
            Challenge::of(&headers)
        };
        assert_eq!(of(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        let want = Challenge::Bearer { realm: "https://a/t".into(), service: Some("s".into()), scope: None };
        assert_eq!(of(&["Basic realm=x", "bearer realm=\"https://a/t\",service=s"]), Some(want));
        assert_eq!(of(&["Digest realm=\"x\""]), None);
        assert_eq!(of(&["Bearer service=\"x\""]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn secrets() {
        let basic = Secret::of(&Credentials { auth: "dTpwOnE=".into(), ..Credentials::default() });
        assert!(matches!(&basic, Secret::Basic(user, password) if user == "u" && password == "p:q"));
        let header = basic.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic dTpwOnE=");
        assert!(!format!("{header:?}").contains("dTp"));
        assert!(Secret::of(&Credentials { auth: "%%%".into(), ..Credentials::default() }).is_none());
        assert!(Secret::of(&Credentials::default()).is_none());
    }
}
