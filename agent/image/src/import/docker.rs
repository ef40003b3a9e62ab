//! What `docker save` writes: `manifest.json`, a configuration for each image, a tar file for each layer.

use serde::Deserialize;

use super::bundle::Bundle;
use super::{Candidate, LayerFile};
use crate::Error;
use crate::digest::Digest;
use crate::error::brief;
use crate::manifest::{Config, LARGEST_CONFIG, LARGEST_MANIFEST, MOST_LAYERS};
use crate::reference::{Reference, Target};

const LIST: &str = "manifest.json";
const MOST_NAMES: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The images of an archive; none if it is no such archive. Blocking.
pub(super) fn images(bundle: &Bundle) -> Result<Option<Vec<Candidate>>, Error> {
    let Some(list) = bundle.read(LIST, LARGEST_MANIFEST)? else { return Ok(None) };
    let saved: Vec<Saved> = serde_json::from_slice(&list)
        .map_err(|error| Error::unreadable(LIST, "not a list of images", &error))?;
    saved.into_iter().map(|saved| image(bundle, saved)).collect::<Result<_, _>>().map(Some)
}

fn image(bundle: &Bundle, saved: Saved) -> Result<Candidate, Error> {
    let object = format!("configuration {} of the archive", brief(&saved.config));
    let Some(body) = bundle.read(&saved.config, LARGEST_CONFIG)? else {
        return Err(Error::corrupt(object, "the archive does not hold it"));
    };
    let layers = saved.layers.unwrap_or_default();
    if layers.len() > MOST_LAYERS {
        return Err(Error::TooLarge { object: LIST.into(), limit: MOST_LAYERS as u64, unit: "layers" });
    }
    let config = Config::parse(&object, &body)?;
    config.check_layers(&object, layers.len())?;
    config.check_platform(&object)?;
    let layers = layers.into_iter().map(|name| LayerFile { name, blob: None }).collect();
    let mut names = Vec::new();
    for tag in saved.repo_tags.unwrap_or_default().into_iter().take(MOST_NAMES) {
        match Reference::parse(&tag) {
            Ok(reference) if matches!(reference.target, Target::Tag(_)) => names.push(reference.to_string()),
            _ => tracing::warn!(tag, "the archive gives an image a tag that is none"),
        }
    }
    Ok(Candidate { id: Digest::of(&body), config, blobs: vec![body], layers, names })
}
