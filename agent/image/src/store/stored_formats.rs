//! Records of images and what is kept of layers, against those that are stored (`formats/`).

use holdfast_formats::Format;
use holdfast_model::ImageConfig;

use super::facts::Facts;
use super::model::{Blob, ImageRecord, LayerRecord};
use super::records::{File, VERSION};
use crate::digest::Digest;
use crate::unpack::Footprint;

fn digest(digit: char) -> Digest {
    format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

fn image() -> ImageRecord {
    ImageRecord {
        diff_ids: vec![digest('4'), digest('5')],
        blobs: vec![Blob { digest: digest('1'), size: 1_234 }, Blob { digest: digest('2'), size: 567 }],
        directories: Some(Footprint { bytes: 8_192, inodes: 2 }),
        removed: false,
        config: ImageConfig {
            user: "web".into(),
            env: texts(["PATH=/bin"]),
            entrypoint: texts(["/entry"]),
            cmd: texts(["serve"]),
            working_dir: "/work".into(),
            stop_signal: "SIGQUIT".into(),
            volumes: texts(["/cache"]),
        },
    }
}

#[test]
fn stored_format_of_images() {
    let whole = File {
        version: VERSION,
        serial: 7,
        references: [
            format!("registry.example/web@{}", digest('2').as_str()),
            "registry.example/web:1".into(),
        ]
        .into(),
        image: image(),
    };
    let bare = File {
        version: VERSION,
        serial: 8,
        references: [].into(),
        image: ImageRecord { directories: None, ..image() },
    };
    Format { name: "image", version: VERSION }.check(&[("whole", whole), ("bare", bare)]);
}

/// A layer without facts has to be fetched again, so this form has one version for ever.
#[test]
fn stored_format_of_layers() {
    let layer = Facts {
        diff_id: digest('4'),
        record: LayerRecord {
            blob: Blob { digest: digest('6'), size: 4_321 },
            entries: 3,
            footprint: Footprint { bytes: 12_288, inodes: 3 },
        },
        implied: vec![b"".to_vec(), b"etc/\xff".to_vec()],
        hiding: vec![b"var/cache".to_vec()],
    };
    Format { name: "layer", version: 1 }.check(&[("whole", layer)]);
}
