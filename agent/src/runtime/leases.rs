//! Which images containers hold, read from their records before the image store is opened: the store keeps no leases of its
//! own, and removes nothing before it was told.

use std::{io, path::Path};

use holdfast_image::Holders;
use serde::Deserialize;

use super::record;

/// What counts here of a container's record, of whatever version.
#[derive(Debug, Deserialize)]
struct Held {
    image_id: String,
    #[serde(default)]
    volume_images: Vec<String>,
}

/// The holders of all images, by the records below `containers`, those that were set aside included. A record that says
/// nothing of images makes its container one that may hold any; a directory without a record is of a container that was
/// cut off before it had anything. Blocking.
pub fn holders(containers: &Path) -> io::Result<Holders> {
    let mut holders = Holders::default();
    for entry in std::fs::read_dir(containers)? {
        let entry = entry?;
        // Set aside or not, the name begins with the id.
        let path = entry.path();
        let Some(owner) = path.file_stem().and_then(|id| id.to_str()).map(str::to_owned) else { continue };
        let bytes = match std::fs::read(path.join(record::FILE)) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Held>(&bytes) {
            Ok(held) => {
                let images = held.volume_images.into_iter().chain([held.image_id]);
                holders.images.entry(owner).or_default().extend(images);
            }
            Err(_) => drop(holders.unknown.insert(owner)),
        }
    }
    Ok(holders)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_record_says_what_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let records = [
            ("c1", Some(r#"{"version":1,"image_id":"sha256:a"}"#)),
            ("c2", Some(r#"{"version":99,"new":[],"image_id":"sha256:a","volume_images":["sha256:b"]}"#)),
            ("c3.unreadable", Some(r#"{"image_id":"sha256:c","phase":"of another kind"}"#)),
            ("c4.unreadable", Some(r#"{"version":1,"image_"#)),
            ("c5", Some("")),
            ("c6", Some(r#"{"version":99}"#)),
            ("c7", None),
        ];
        for (name, text) in records {
            fs::create_dir(dir.path().join(name)).unwrap();
            if let Some(text) = text {
                fs::write(dir.path().join(name).join(record::FILE), text).unwrap();
            }
        }
        fs::write(dir.path().join("c8"), "").unwrap();
        let found = holders(dir.path()).unwrap();
        let held = |owner: &str| found.images.get(owner).map(|images| images.join(" "));
        assert_eq!(held("c1").as_deref(), Some("sha256:a"));
        assert_eq!(held("c2").as_deref(), Some("sha256:b sha256:a"));
        assert_eq!(held("c3").as_deref(), Some("sha256:c"));
        assert_eq!(found.images.len(), 3);
        assert_eq!(found.unknown, ["c4", "c5", "c6"].map(str::to_owned).into());
        assert!(holders(&dir.path().join("nothing")).is_err());
    }
}
