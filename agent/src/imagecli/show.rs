//! How images are printed.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
};

use holdfast_model::Image;
use serde_json::json;

use crate::{cli, cri::client::PullProgress};

/// Digits of an id that people read, as in crictl's tables.
const SHORT: usize = 13;

/// A line on a terminal that says how far a pull is. Elsewhere nothing is shown.
pub(super) struct Meter {
    reference: String,
    terminal: bool,
}

impl Meter {
    pub fn new(reference: &str) -> Self {
        Self { reference: reference.to_owned(), terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, state: &PullProgress) {
        if self.terminal {
            let PullProgress { layers_done, layers, bytes, total_bytes } = state;
            let (bytes, total) = (size(*bytes), size(*total_bytes));
            let line = format!("{}: {layers_done} of {layers} layers, {bytes} of {total}", self.reference);
            // What cannot be shown is not worth an error.
            let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        }
    }

    pub fn end(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// One line for each image: its id and its names.
pub(super) fn imported(images: &[Image]) -> String {
    images.iter().fold(String::new(), |mut text, image| {
        let _ = writeln!(text, "{} {}", image.id, image.repo_tags.join(" "));
        text
    })
}

/// A row for each name, or one without.
pub(super) fn table(images: &[Image]) -> String {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let id: String = image.id.trim_start_matches("sha256:").chars().take(SHORT).collect();
        let row = |name: &str| [name.to_owned(), id.clone(), size(image.size_bytes)];
        rows.extend(names.iter().map(|name| row(name)));
        if names.is_empty() {
            rows.push(row("<none>"));
        }
    }
    cli::table(&rows)
}

/// As crictl prints them.
pub(super) fn json(images: &[Image]) -> String {
    let images: Vec<_> = images
        .iter()
        .map(|image| {
            json!({
                "id": image.id,
                "repoTags": image.repo_tags,
                "repoDigests": image.repo_digests,
                "size": image.size_bytes.to_string(),
                "pinned": image.pinned,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "images": images }))
}

/// Bytes as people read them, in powers of 1000 as crictl does.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_551, "1.6 kB"),
            (123_456, "123 kB"),
            (999_999, "1.0 MB"),
            (4_300_000_000, "4.3 GB"),
            (u64::MAX, "18446744 TB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn tables_have_a_row_for_every_name() {
        let image = Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: vec!["a:1".into(), "bb:22".into()],
            size_bytes: 5_000_000,
            ..Image::default()
        };
        let unnamed = Image { repo_tags: vec![], ..image.clone() };
        assert_eq!(
            table(&[image, unnamed]),
            "IMAGE   ID             SIZE\n\
             a:1     ababababababa  5.0 MB\n\
             bb:22   ababababababa  5.0 MB\n\
             <none>  ababababababa  5.0 MB\n"
        );
    }
}
