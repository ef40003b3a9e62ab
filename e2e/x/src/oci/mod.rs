//! Our own builder of OCI image layouts (image-spec 1.1): small, deterministic, without a container tool.

mod layout;
mod tar;

pub use layout::{Compression, Image, Layout, Platform};
pub use tar::{Meta, Tar};

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
