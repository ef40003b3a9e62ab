//! OCI image layouts (image-spec, image-layout.md).

use std::collections::BTreeMap;

use super::bundle::Bundle;
use super::{Candidate, LayerFile};
use crate::Error;
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest};
use crate::reference::{Reference, Target};
use crate::registry::check_digest;

const INDEX: &str = "index.json";
/// Written by containerd, docker and nerdctl.
const FULL_NAME: &str = "io.containerd.image.name";
/// A whole name with skopeo and podman, a mere tag with others.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MOST_INDEXES: usize = 3;

/// The images that a layout lists and that run here; none if it is no layout. Blocking.
pub(super) fn images(bundle: &Bundle) -> Result<Option<Vec<Candidate>>, Error> {
    let Some(index) = bundle.read(INDEX, LARGEST_MANIFEST)? else { return Ok(None) };
    let listed = manifest::list(INDEX, &index)?;
    if listed.iter().all(|entry| !entry.fits) && !listed.is_empty() {
        return Err(Error::unsupported(INDEX, "the archive has no image for this machine's platform"));
    }
    let mut images = Vec::new();
    for entry in listed.into_iter().filter(|entry| entry.fits) {
        let names = name(&entry.annotations, &entry.descriptor.digest).into_iter().collect();
        images.push(image(bundle, entry.descriptor, names)?);
    }
    Ok(Some(images))
}

/// The name that the annotations give. One that says a digest counts only if it is the right one, for a pull trusts it.
fn name(annotations: &BTreeMap<String, String>, digest: &Digest) -> Option<String> {
    let is_whole = |name: &&String| name.contains(['/', ':']);
    let text = annotations.get(FULL_NAME).or_else(|| annotations.get(REF_NAME).filter(is_whole))?;
    match Reference::parse(text) {
        Ok(reference) => match &reference.target {
            Target::Digest(claimed) if claimed != digest => {
                tracing::warn!(name = %reference, %digest, "the archive gives an image a digest that it has not");
                None
            }
            _ => Some(reference.to_string()),
        },
        Err(error) => {
            tracing::warn!(%error, "the archive gives an image a name that is none");
            None
        }
    }
}

fn image(bundle: &Bundle, mut next: Descriptor, names: Vec<String>) -> Result<Candidate, Error> {
    for _ in 0..=MOST_INDEXES {
        let object = format!("manifest {} of the archive", next.digest);
        let body = blob(bundle, &next, LARGEST_MANIFEST, &object)?;
        match Manifest::parse(&object, &body, None)? {
            Manifest::Index(descriptor) => next = descriptor,
            Manifest::Image { config, layers } => {
                let object = format!("configuration {} of the archive", config.digest);
                let config = blob(bundle, &config, LARGEST_CONFIG, &object)?;
                let layers =
                    layers.into_iter().map(|blob| LayerFile { name: path(&blob.digest), blob: Some(blob) });
                return Ok(Candidate { config, manifest: Some(body), layers: layers.collect(), names });
            }
        }
    }
    Err(Error::corrupt(INDEX, "it leads to an index again and again"))
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn blob(bundle: &Bundle, blob: &Descriptor, limit: u64, object: &str) -> Result<Vec<u8>, Error> {
    let body = bundle.read(&path(&blob.digest), limit)?;
    let body = body.ok_or_else(|| Error::corrupt(object, "the archive does not hold it"))?;
    if body.len() as u64 != blob.size {
        let object = object.to_owned();
        return Err(Error::SizeMismatch { object, expected: blob.size, actual: body.len() as u64 });
    }
    check_digest(object, &blob.digest, &Digest::of(&body))?;
    Ok(body)
}
