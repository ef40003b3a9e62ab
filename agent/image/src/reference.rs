//! Names of images, as Docker and containerd read them (distribution/reference, `ParseDockerRef`).

use std::fmt;

use crate::Error;
use crate::digest::Digest;

const HUB: &str = "docker.io";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// More than a registry, a repository, a tag and a digest can have together.
const LONGEST_TEXT: usize = 1024;

/// What a reference points at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A name that may move.
    Tag(String),
    /// Fixed content.
    Digest(Digest),
}

/// A complete reference: registry, repository and either tag or digest. With both given the digest decides and the
/// tag is dropped; with neither the tag is `latest`; `docker.io` and `library/` are completed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    pub registry: String,
    pub repository: String,
    pub target: Target,
}

impl Reference {
    /// Reads what a user or the kubelet gives.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        read(text).map_err(|reason| Error::InvalidReference { reference: shorten(text), reason })
    }

    /// `registry/repository`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository at a digest.
    pub(crate) fn at(&self, digest: &Digest) -> Self {
        Self { target: Target::Digest(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.registry, self.repository),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
        }
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 300;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).collect::<String>() + "..."
    }
}

fn read(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > LONGEST_TEXT {
        return Err(format!("it is longer than {LONGEST_TEXT} characters"));
    }
    if let Some(odd) = text.chars().find(|char| !char.is_ascii_graphic()) {
        return Err(format!("character {odd:?} is not allowed"));
    }
    if text.contains("://") {
        return Err("a reference has no scheme: leave out what stands before the registry".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    if digest.is_none() && rest.len() == 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hex digits are an image id, not a name".into());
    }
    // A colon after the last slash begins a tag, before it a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > LONGEST_NAME {
        return Err(format!("the name is longer than {LONGEST_NAME} characters"));
    }
    let target = match (digest, tag) {
        (Some(digest), _) => Target::Digest(digest),
        (None, Some(tag)) => Target::Tag(tag.to_owned()),
        (None, None) => Target::Tag("latest".into()),
    };
    Ok(Reference { registry, repository, target })
}

fn split_registry(name: &str) -> Result<(String, String), String> {
    let first_is_registry = |first: &str| {
        first == "localhost"
            || first.contains(['.', ':'])
            || first.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first_is_registry(first) => (first, rest),
        _ => (HUB, name),
    };
    let registry = if registry == "index.docker.io" { HUB } else { registry };
    check_registry(registry)?;
    if registry == HUB && !repository.contains('/') {
        return Ok((registry.into(), format!("library/{repository}")));
    }
    Ok((registry.into(), repository.into()))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) =
                rest.split_once(']').ok_or_else(|| format!("registry {registry:?}: ] is missing"))?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("registry {registry:?}: not an IPv6 address"))?;
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(format!("registry {registry:?}: after ] comes a port or nothing")),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && (port.is_empty()
            || port.len() > 5
            || !port.bytes().all(|byte| byte.is_ascii_digit())
            || port.parse::<u16>().is_err())
    {
        return Err(format!("registry {registry:?}: {port:?} is not a port"));
    }
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if let Some(host) = host
        && !host.split('.').all(label_is_good)
    {
        return Err(format!("registry {registry:?}: {host:?} is not a host name"));
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<(), String> {
    for part in repository.split('/') {
        if part.is_empty() {
            return Err(format!("repository {repository:?} has an empty component"));
        }
        if let Some(odd) = part.chars().find(|char| !matches!(char, 'a'..='z' | '0'..='9' | '.' | '_' | '-'))
        {
            let hint = if odd.is_ascii_uppercase() { ": repositories are lower case" } else { "" };
            return Err(format!("repository {repository:?}: character {odd:?} is not allowed{hint}"));
        }
        if !separators_are_good(part) {
            return Err(format!(
                "repository {repository:?}: in {part:?} letters and digits may be separated by one dot, one or two \
                 underscores, or dashes, and have to stand at both ends"
            ));
        }
    }
    Ok(())
}

fn separators_are_good(part: &str) -> bool {
    let alphanumeric = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    let ends = part.starts_with(alphanumeric) && part.ends_with(alphanumeric);
    ends && part
        .split(alphanumeric)
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn check_tag(tag: &str) -> Result<&str, String> {
    if tag.is_empty() {
        return Err("the tag after the colon is empty".into());
    }
    if tag.len() > LONGEST_TAG {
        return Err(format!("the tag is longer than {LONGEST_TAG} characters"));
    }
    let bad_start = tag.starts_with(['.', '-']);
    let odd = tag.chars().find(|char| !(char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-')));
    match odd {
        Some(odd) => Err(format!("tag {tag:?}: character {odd:?} is not allowed")),
        None if bad_start => {
            Err(format!("tag {tag:?}: a tag begins with a letter, a digit or an underscore"))
        }
        None => Ok(tag),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("docker.io/busybox:1", "docker.io/library/busybox:1".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/b", "localhost/b:latest".to_owned()),
            ("localhost:5000/b/c:2", "localhost:5000/b/c:2".to_owned()),
            ("[::1]:5000/b", "[::1]:5000/b:latest".to_owned()),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9".to_owned()),
            (&format!("r.io/x:1@sha256:{HEX}"), format!("r.io/x@sha256:{HEX}")),
            (&format!("x@sha256:{HEX}"), format!("docker.io/library/x@sha256:{HEX}")),
        ];
        for (text, want) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), want);
        }
    }

    #[test]
    fn malformed_names_say_what_is_wrong() {
        let long = "a".repeat(300);
        let cases = [
            ("", "empty"),
            ("Busybox", "lower case"),
            ("a:", "tag after the colon is empty"),
            ("a:.x", "begins with"),
            ("a b", "not allowed"),
            ("a//b", "empty component"),
            ("a/", "empty component"),
            ("/a", "empty component"),
            ("a..b", "separated"),
            ("a___b", "separated"),
            ("-a", "separated"),
            ("https://a.io/b", "scheme"),
            ("a.io:x/b", "port"),
            ("a.io:99999/b", "port"),
            ("-a.io/b", "host name"),
            ("a@md5:00", "only sha256"),
            ("a@sha256:00", "64"),
            ("a@", "digest"),
            ("[::1/b", "] is missing"),
            (HEX, "image id"),
            (&long, "longer than 255"),
            ("../../etc/passwd", "host name"),
            ("a/../b", "separated"),
            ("a\u{e9}", "not allowed"),
        ];
        for (text, want) in cases {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        /// What we accept, the registry client's own parser reads in the same way; but for upper case, by which containerd
        /// knows a host name and the library does not.
        #[test]
        fn agrees_with_the_client_library(
            text in "(([a-z0-9.-]{1,8}|localhost)(:[0-9]{1,4})?/)?[a-z0-9._-]{1,6}(/[a-z0-9._-]{1,6}){0,2}(:[a-zA-Z0-9_.-]{1,6})?"
        ) {
            let theirs = oci_client::Reference::try_from(text.as_str());
            if let Ok(ours) = Reference::parse(&text) {
                prop_assert_eq!(ours.to_string(), theirs.unwrap().whole());
            }
        }
    }
}
