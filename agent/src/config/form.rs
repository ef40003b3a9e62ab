//! The form that values have, checked while a file is read so that an error has the value's line.

use std::{
    fmt::Display,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) const UNIX: &str = "unix://";

/// sun_path holds 108 bytes, the last of them a NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// IFNAMSIZ without the NUL.
const INTERFACE_MAX: usize = 15;

pub(super) fn absolute_path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    check_absolute(&path)?;
    Ok(path)
}

pub(super) fn optional_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    absolute_path(from).map(Some)
}

pub(super) fn absolute_paths<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(from)?;
    paths.iter().try_for_each(|path| check_absolute(path))?;
    Ok(paths)
}

fn check_absolute<E: Error>(path: &Path) -> Result<(), E> {
    if path.is_absolute() { Ok(()) } else { Err(bad(path.display(), "is not an absolute path")) }
}

fn bad<E: Error>(value: impl Display, problem: impl Display) -> E {
    E::custom(format_args!("\"{value}\" {problem}"))
}

pub(super) fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let path = text.strip_prefix(UNIX).unwrap_or(&text);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(bad(text, "is not of the form unix:///run/holdfast/holdfast.sock"));
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(bad(path, format_args!("is longer than the {SOCKET_PATH_MAX} bytes of a socket's path")));
    }
    Ok(format!("{UNIX}{path}"))
}

/// `"0660"` as in chmod(1), or the number `0o660`.
pub(super) fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Text(String),
    }
    let mode = match Mode::deserialize(from)? {
        Mode::Number(mode) => mode,
        Mode::Text(text) => {
            u32::from_str_radix(&text, 8).map_err(|_| bad(text, "is not an octal mode such as 0660"))?
        }
    };
    if mode > 0o777 {
        return Err(bad(format_args!("{mode:04o}"), "is above 0777"));
    }
    Ok(mode)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn mode_text<S: Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{mode:04o}"))
}

pub(super) fn at_least_one<'de, D, N>(from: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: Deserialize<'de> + PartialEq + From<u8>,
{
    let number = N::deserialize(from)?;
    if number == N::from(0) { Err(D::Error::custom("0 is too small, the least is 1")) } else { Ok(number) }
}

pub(super) fn positive<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    at_least_one(from).map(Some)
}

pub(super) fn interface<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > INTERFACE_MAX || !name.chars().all(known) || name.starts_with('.') {
        return Err(bad(
            name,
            format_args!(
                "is not an interface name of 1 to {INTERFACE_MAX} letters, digits, '-', '_' and '.'"
            ),
        ));
    }
    Ok(name)
}

/// At most one subnet of each family; the network checks that nothing else uses them.
pub(super) fn subnets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let subnets = Vec::<String>::deserialize(from)?;
    let mut families = Vec::new();
    for subnet in &subnets {
        let address = address(subnet).ok_or_else(|| bad(subnet, "is not a subnet such as 10.79.0.0/16"))?;
        if families.contains(&address.is_ipv4()) {
            return Err(bad(subnet, "is the second subnet of its family"));
        }
        families.push(address.is_ipv4());
    }
    if subnets.is_empty() {
        return Err(D::Error::custom("at least one subnet is needed"));
    }
    Ok(subnets)
}

fn address(subnet: &str) -> Option<IpAddr> {
    let (address, length) = subnet.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (length <= bits).then_some(address)
}
