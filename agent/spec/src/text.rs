//! Checks of text that comes from requests and images.

use std::path::{Component, Path, PathBuf};

use crate::error::{SpecError, invalid};

/// PATH_MAX of Linux, with the zero byte that the kernel counts.
const PATH_MAX: usize = 4096;

/// What does not belong into names, paths and one-line values.
pub fn plain(field: &str, text: &str) -> Result<(), SpecError> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(invalid(field, format!("{text:?} holds the control character {c:?}: take it out"))),
        None => Ok(()),
    }
}

/// What execve(2) cannot pass: arguments and values may hold line feeds and tabs, but no zero byte.
pub fn no_zero(field: &str, text: &[u8]) -> Result<(), SpecError> {
    if text.contains(&0) {
        Err(invalid(field, "holds a zero byte, which ends a string: take it out"))
    } else {
        Ok(())
    }
}

/// A path that begins at the root.
pub fn absolute(field: &str, path: &str) -> Result<(), SpecError> {
    plain(field, path)?;
    if !path.starts_with('/') {
        return Err(invalid(field, format!("{path:?} is not an absolute path: begin it with /")));
    }
    short(field, path)
}

/// A path that the kernel takes at all.
pub fn short(field: &str, path: &str) -> Result<(), SpecError> {
    plain(field, path)?;
    if path.len() >= PATH_MAX {
        return Err(invalid(
            field,
            format!("is {} bytes long: a path has at most {}", path.len(), PATH_MAX - 1),
        ));
    }
    Ok(())
}

/// The path without `.`, `..` and double slashes, as a string operation: `..` above the root is the root. Only for
/// comparing and sorting paths of the container, which are looked up inside its root in any case.
pub fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// An id that fits uid_t and gid_t and is not -1.
pub fn id(field: &str, id: i64) -> Result<u32, SpecError> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(field, format!("{id} is not an id from 0 to 4294967294")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a/b", "/a/b"),
            ("/proc/../etc", "/etc"),
        ] {
            assert_eq!(clean(path), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn refusals() {
        assert!(absolute("f", "relative").unwrap_err().to_string().contains("relative"));
        assert!(absolute("f", "/a\nb").unwrap_err().to_string().contains("control"));
        assert!(absolute("f", &format!("/{}", "a".repeat(5000))).is_err());
        assert!(absolute("f", "/a b\u{e9}").is_ok());
        assert!(no_zero("f", b"a\0").is_err() && no_zero("f", b"a\n\t\xff").is_ok());
        for bad in [-1, i64::from(u32::MAX), i64::MAX, i64::MIN] {
            assert!(id("f", bad).is_err(), "{bad}");
        }
        assert_eq!(id("f", 4_294_967_294).unwrap(), 4_294_967_294);
    }
}
