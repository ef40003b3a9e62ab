//! What readers see: all images as of the last change, without a lock and without I/O.

use std::sync::Arc;

use holdfast_model::Image;

use super::home::Home;
use super::model::Model;
use crate::Error;
use crate::config::Usage;
use crate::digest::Digest;
use crate::reference::Reference;

/// The images and the records behind them.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub model: Model,
    /// Sorted by id; those that a user has removed are not among them.
    pub images: Vec<Arc<Image>>,
    pub usage: Usage,
}

impl Snapshot {
    pub(crate) fn new(model: Model, home: &Home) -> Self {
        let visible = model.images.iter().filter(|(_, record)| !record.removed);
        let images = visible.map(|(id, record)| Arc::new(model.image(home, id, record))).collect();
        let footprint = model.footprint();
        let usage = Usage { bytes: footprint.bytes, inodes: footprint.inodes };
        Self { model, images, usage }
    }

    /// An image by its id.
    pub(crate) fn by_id(&self, id: &Digest) -> Option<Arc<Image>> {
        let at = self.images.binary_search_by(|image| image.id.as_str().cmp(id.as_str())).ok()?;
        Some(Arc::clone(&self.images[at]))
    }

    /// An image by what a user calls it: its id with or without `sha256:`, a reference, or as many digits of the id as
    /// no other image has. A name comes before a short id.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if let Ok(id) = format!("sha256:{digits}").parse::<Digest>() {
            return Ok(self.by_id(&id));
        }
        let parsed = Reference::parse(name);
        let named =
            parsed.as_ref().ok().and_then(|reference| self.model.references.get(&reference.to_string()));
        if let Some(id) = named {
            return Ok(self.by_id(id));
        }
        let is_short_id = (1..64).contains(&digits.len())
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_short_id {
            return Ok(self.by_prefix(&format!("sha256:{digits}")));
        }
        parsed.map(|_| None)
    }

    /// Nothing if several images begin like this.
    fn by_prefix(&self, prefix: &str) -> Option<Arc<Image>> {
        let first = self.images.partition_point(|image| image.id.as_str() < prefix);
        let mut found = self.images[first..].iter().take_while(|image| image.id.starts_with(prefix));
        let image = found.next()?;
        found.next().is_none().then(|| Arc::clone(image))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Images with these ids and names.
    fn snapshot(images: &[(&str, &[&str])]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (id, names) in images {
            let id: Digest = format!("sha256:{id:0<64}").parse().unwrap();
            snapshot.images.push(Arc::new(Image { id: id.to_string(), ..Image::default() }));
            for name in *names {
                snapshot.model.references.insert((*name).to_owned(), id.clone());
            }
        }
        snapshot.images.sort_by(|a, b| a.id.cmp(&b.id));
        snapshot
    }

    #[test]
    fn by_id_name_and_prefix() {
        let hex = format!("{:0<64}", "ab1");
        let by_digest = format!("docker.io/library/busybox@sha256:{hex}");
        let images = snapshot(&[
            ("ab1", &["docker.io/library/busybox:latest", &by_digest]),
            ("ab2", &["registry.k8s.io/pause:3.9"]),
            ("c", &["docker.io/library/ab1:latest"]),
        ]);
        let full = format!("sha256:{hex}");
        let at = format!("busybox@sha256:{hex}");
        let cases = [
            ("busybox", Some("ab1")),
            ("docker.io/busybox:latest", Some("ab1")),
            (&at, Some("ab1")),
            ("registry.k8s.io/pause:3.9", Some("ab2")),
            (&full, Some("ab1")),
            (&hex, Some("ab1")),
            ("ab2", Some("ab2")),
            ("sha256:ab2", Some("ab2")),
            ("c", Some("c")),
            // A name comes first.
            ("ab1", Some("c")),
            ("ab", None),
            ("d", None),
            ("busybox:2", None),
            ("registry.k8s.io/pause", None),
        ];
        for (name, want) in cases {
            let want = want.map(|id| format!("sha256:{id:0<64}"));
            let found = images.find(name).unwrap().map(|image| image.id.clone());
            assert_eq!(found, want, "{name}");
        }
    }

    #[test]
    fn what_can_be_no_name_is_an_error() {
        let images = snapshot(&[]);
        for name in ["", "UPPER", "a b", "sha256:", "a@sha256:12", &"A".repeat(64)] {
            assert!(matches!(images.find(name), Err(Error::InvalidReference { .. })), "{name}");
        }
        assert!(images.find(&"0".repeat(64)).unwrap().is_none());
    }
}
