//! hosts.toml: which hosts serve a registry, as containerd reads it (docs/hosts.md of containerd).
//!
//! `<dir>/<host>_<port>_/hosts.toml`, `<dir>/<host[:port]>/hosts.toml` or `<dir>/_default/hosts.toml`, the first that
//! is there. Mirrors come in the order of the file, the registry itself last. The file is read anew for each pull.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::Error;

const LARGEST_FILE: u64 = 1 << 20;

/// One host that serves (a part of) a registry.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Scheme, host, port and the path before the repository, without a slash at its end.
    pub base: Url,
    pub resolve: bool,
    pub pull: bool,
    pub headers: HeaderMap,
    pub tls: Tls,
    /// The registry's own server, not a mirror.
    pub server: bool,
}

/// What a host needs to be trusted, beyond the system's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub skip_verify: bool,
    pub ca: Vec<PathBuf>,
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Section,
    host: Option<toml::Table>,
}

#[derive(Deserialize, Default)]
struct Section {
    capabilities: Option<Vec<String>>,
    skip_verify: Option<bool>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    override_path: Option<bool>,
    header: Option<std::collections::BTreeMap<String, OneOrMany>>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Client {
    One(String),
    Files(Vec<OneOrMany>),
}

/// The hosts of `registry`, in the order in which they are tried. Blocking.
pub(super) fn load(directory: &Path, registry: &str) -> Result<Vec<Host>, Error> {
    for name in directory_names(registry) {
        let path = directory.join(&name).join("hosts.toml");
        let fault = |reason: String| Error::Config { path: path.display().to_string(), reason };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let beside = directory.join(&name);
                if beside.is_dir() && name != "_default" {
                    let tls = certificates(&beside).map_err(|error| unreadable(&beside, error))?;
                    return Ok(vec![default_host(registry, tls)?]);
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => continue,
            Err(error) => return Err(unreadable(&path, error)),
        };
        let mut text = String::new();
        file.take(LARGEST_FILE).read_to_string(&mut text).map_err(|error| unreadable(&path, error))?;
        let parent = path.parent().unwrap_or(directory);
        return parse(&text, parent, registry).map_err(fault);
    }
    Ok(vec![default_host(registry, Tls::default())?])
}

fn directory_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':')
        && !port.ends_with(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names
}

/// Certificates beside no hosts.toml, in the way of Docker's certs.d: `*.crt` are authorities.
fn certificates(directory: &Path) -> io::Result<Tls> {
    let mut tls = Tls::default();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => tls.client.push((path.clone(), Some(path.with_extension("key")))),
            _ => {}
        }
    }
    tls.ca.sort();
    Ok(tls)
}

/// Whoever configures the node can mend what a file is and who may read it; other errors are the node's.
fn unreadable(path: &Path, error: io::Error) -> Error {
    let path = path.display().to_string();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::InvalidData => {
            Error::Config { path, reason: error.to_string() }
        }
        _ => Error::Io { operation: format!("read registry configuration {path}"), source: error },
    }
}

fn default_host(registry: &str, tls: Tls) -> Result<Host, Error> {
    let url = default_server(registry);
    let base = base_url(&url, false).map_err(|reason| Error::Config { path: registry.to_owned(), reason })?;
    Ok(Host { base, resolve: true, pull: true, headers: HeaderMap::new(), tls, server: true })
}

fn default_server(registry: &str) -> String {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let scheme = if is_loopback(registry) { "http" } else { "https" };
    format!("{scheme}://{host}")
}

/// Whether `host[:port]` is this machine; such registries speak plain HTTP.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn parse(text: &str, directory: &Path, registry: &str) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().replace('\n', " "))?;
    let mut hosts = Vec::new();
    for (name, value) in file.host.unwrap_or_default() {
        let section: Section = value.try_into().map_err(|error| format!("[host.{name:?}]: {error}"))?;
        hosts.push(
            host(&name, section, directory, false).map_err(|reason| format!("[host.{name:?}]: {reason}"))?,
        );
    }
    let server = file.server.filter(|server| !server.is_empty()).unwrap_or_else(|| default_server(registry));
    hosts.push(
        host(&server, file.own, directory, true).map_err(|reason| format!("server {server:?}: {reason}"))?,
    );
    Ok(hosts)
}

fn host(name: &str, section: Section, directory: &Path, server: bool) -> Result<Host, String> {
    let base = base_url(name, section.override_path.unwrap_or(false))?;
    let (mut resolve, mut pull) = (false, false);
    match section.capabilities.as_deref() {
        None | Some([]) => (resolve, pull) = (true, true),
        Some(capabilities) => {
            for capability in capabilities {
                match capability.as_str() {
                    "resolve" => resolve = true,
                    "pull" => pull = true,
                    "push" | "referrers" => {}
                    other => {
                        return Err(format!(
                            "capability {other:?}: pull, resolve, push and referrers are known"
                        ));
                    }
                }
            }
        }
    }
    let mut headers = HeaderMap::new();
    for (name, values) in section.header.unwrap_or_default() {
        let key = HeaderName::try_from(&name).map_err(|_| format!("header {name:?}: not a header name"))?;
        for value in values.into_vec() {
            let mut value =
                HeaderValue::try_from(value).map_err(|_| format!("header {name:?}: not a header value"))?;
            value.set_sensitive(true);
            headers.append(&key, value);
        }
    }
    let path = |name: &str| directory.join(name);
    let ca = section.ca.map(OneOrMany::into_vec).unwrap_or_default().iter().map(|name| path(name)).collect();
    let client = match section.client {
        None => Vec::new(),
        Some(Client::One(file)) => vec![(path(&file), None)],
        Some(Client::Files(files)) => files
            .into_iter()
            .map(|pair| match pair.into_vec().as_slice() {
                [both] => Ok((path(both), None)),
                [certificate, key] => Ok((path(certificate), Some(path(key)).filter(|_| !key.is_empty()))),
                _ => Err("client: a file, or pairs of certificate and key".to_owned()),
            })
            .collect::<Result<_, _>>()?,
    };
    let tls = Tls { skip_verify: section.skip_verify.unwrap_or(false), ca, client };
    Ok(Host { base, resolve, pull, headers, tls, server })
}

/// `[scheme://]host[:port][/path]`; `/v2` is added to the path unless it is there or the path is to be kept.
fn base_url(name: &str, keep_path: bool) -> Result<Url, String> {
    let with_scheme = if name.contains("://") {
        name.to_owned()
    } else {
        let host = name.split('/').next().unwrap_or(name);
        format!("{}://{name}", if is_loopback(host) { "http" } else { "https" })
    };
    let mut url = Url::parse(&with_scheme).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("not an http or https URL".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the URL: use header or the pull's own".into());
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if keep_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn urls(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.base.as_str()).collect()
    }

    #[test]
    fn without_a_file() {
        let none = Path::new("/nonexistent");
        assert_eq!(urls(&load(none, "docker.io").unwrap()), ["https://registry-1.docker.io/v2"]);
        assert_eq!(urls(&load(none, "r.example:5000").unwrap()), ["https://r.example:5000/v2"]);
        for loopback in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(load(none, loopback).unwrap()[0].base.scheme() == "http", "{loopback}");
        }
        assert!(!is_loopback("localhost.example"));
    }

    #[test]
    fn mirrors_keep_the_order_of_the_file() {
        let text = r#"
            server = "https://registry-1.docker.io"
            capabilities = ["pull"]
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              ca = "z.pem"
              client = [["c.cert", "c.key"]]
            [host."http://a.example:81/prefix"]
              skip_verify = true
              [host."http://a.example:81/prefix".header]
                x-token = "one"
                x-more = ["two", "three"]
            [host."https://m.example/custom/path"]
              override_path = true
              capabilities = ["resolve"]
        "#;
        let hosts = parse(text, Path::new("/etc/certs"), "docker.io").unwrap();
        let want = [
            "https://z.example/v2",
            "http://a.example:81/prefix/v2",
            "https://m.example/custom/path",
            "https://registry-1.docker.io/v2",
        ];
        assert_eq!(urls(&hosts), want);
        assert_eq!(hosts[0].tls.ca, [PathBuf::from("/etc/certs/z.pem")]);
        assert_eq!(hosts[0].tls.client.len(), 1);
        assert!(hosts[1].tls.skip_verify && hosts[1].resolve && hosts[1].pull && !hosts[1].server);
        assert_eq!(hosts[1].headers.get_all("x-more").iter().count(), 2);
        assert!(!hosts[2].pull && hosts[2].resolve);
        assert!(hosts[3].server && hosts[3].pull && !hosts[3].resolve);
        assert!(!format!("{hosts:?}").contains("three"));
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            ("server = 3", "server"),
            ("[host.\"ftp://x\"]", "ftp://x"),
            ("[host.\"https://u:p@x.example\"]", "credentials"),
            ("[host.\"https://x.example\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://x.example\"]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host", "TOML"),
        ];
        for (text, want) in cases {
            let reason = parse(text, Path::new("/"), "r").unwrap_err();
            assert!(reason.contains(want), "{text}: {reason}");
        }
    }

    #[test]
    fn directories() {
        let base = tempfile::tempdir().unwrap();
        let write = |name: &str, server: &str| {
            std::fs::create_dir_all(base.path().join(name)).unwrap();
            std::fs::write(base.path().join(name).join("hosts.toml"), format!("server = {server:?}"))
                .unwrap();
        };
        write("_default", "https://default.example");
        write("r.example:5000", "https://colon.example");
        let load =
            |registry: &str| load(base.path(), registry).unwrap()[0].base.host_str().unwrap().to_owned();
        assert_eq!(load("r.example:5000"), "colon.example");
        assert_eq!(load("other.example"), "default.example");
        write("r.example_5000_", "https://under.example");
        assert_eq!(load("r.example:5000"), "under.example");
    }
}
