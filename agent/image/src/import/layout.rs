//! OCI image layouts (image-spec, image-layout.md).

use std::collections::BTreeMap;

use super::bundle::Bundle;
use super::{Candidate, LayerFile};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Found, LARGEST_CONFIG, LARGEST_MANIFEST, Listed, Search, Step};
use crate::reference::{Reference, Target};
use crate::registry::check_digest;
use crate::{Error, ErrorKind};

const INDEX: &str = "index.json";
/// Written by containerd, docker and nerdctl.
const FULL_NAME: &str = "io.containerd.image.name";
/// A whole name with skopeo and podman, a mere tag with others.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images that a layout lists and that run here; none if it is no layout. Blocking.
pub(super) fn images(bundle: &Bundle) -> Result<Option<Vec<Candidate>>, Error> {
    let Some(index) = bundle.read(INDEX, LARGEST_MANIFEST)? else { return Ok(None) };
    let listed = manifest::list(INDEX, &index)?;
    if listed.iter().all(|entry| entry.fits == Some(false)) && !listed.is_empty() {
        return Err(Error::unsupported(INDEX, "the archive has no image for this machine's platform"));
    }
    let (mut images, mut passed_over) = (Vec::new(), None);
    for entry in listed.into_iter().filter(|entry| entry.fits != Some(false)) {
        let open = entry.fits.is_none();
        match image(bundle, entry) {
            Ok(image) => images.push(image),
            // What says neither its platform nor that it is an artifact may still be for others, or no image at all.
            Err(error) if open && error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(error = holdfast_model::chain(&error), "passed over in the archive");
                passed_over.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match passed_over {
        Some(error) if images.is_empty() => Err(error),
        _ => Ok(Some(images)),
    }
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

fn image(bundle: &Bundle, entry: Listed) -> Result<Candidate, Error> {
    let names = name(&entry.annotations, &entry.descriptor.digest).into_iter().collect();
    let (mut search, mut step) = Search::enter("archive", entry.descriptor, entry.fits.is_some());
    loop {
        let body = match step {
            Step::Manifest(wanted) => blob(bundle, &wanted, LARGEST_MANIFEST, "manifest")?,
            Step::Config(wanted) => blob(bundle, &wanted, LARGEST_CONFIG, "configuration")?,
            Step::Found(found) => {
                let Found { manifest, config_body, id, config, layers } = *found;
                let layers =
                    layers.into_iter().map(|blob| LayerFile { name: path(&blob.digest), blob: Some(blob) });
                let blobs = vec![config_body, manifest];
                return Ok(Candidate { id, config, blobs, layers: layers.collect(), names });
            }
        };
        step = search.feed(body)?;
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn blob(bundle: &Bundle, blob: &Descriptor, limit: u64, kind: &str) -> Result<Vec<u8>, Error> {
    let object = format!("{kind} {} of the archive", blob.digest);
    let Some(body) = bundle.read(&path(&blob.digest), limit)? else {
        return Err(Error::corrupt(object, "the archive does not hold it"));
    };
    if body.len() as u64 != blob.size {
        return Err(Error::SizeMismatch { object, expected: blob.size, actual: body.len() as u64 });
    }
    check_digest(&object, &blob.digest, &Digest::of(&body))?;
    Ok(body)
}
